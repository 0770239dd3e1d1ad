"""The demo, step by step: each is the command that a user would type, shown before it runs."""

import asyncio
import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import urllib3

from nodeagent import process, status
from nodeagent.demo import baseline, profile
from nodeagent.demo.pod import Pod
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.store import remove

PROFILE: Final = "ds"
READY_SECONDS: Final = 120.0
COMMAND_SECONDS: Final = 600.0
TASK: Final = """
import numpy, pandas, requests, fastapi, kubernetes, hera.workflows
frame = pandas.DataFrame({"x": numpy.arange(6).reshape(2, 3).sum(axis=0)})
print("pandas", pandas.__version__, "on numpy", numpy.__version__, "says", int(frame.x.sum()))
"""
BUILTIN_TASK: Final = """
import json, sqlite3, ssl, sys
print("Python", sys.version.split()[0], "with", ssl.OPENSSL_VERSION, "says", json.dumps([1, 2]))
"""


@dataclass(frozen=True)
class Stage:
    """The directories and ports of one demo."""

    directory: Path
    cache_port: int
    agent_port: int

    def __truediv__(self, name: str) -> Path:
        """Give a path inside."""
        return self.directory / name

    @property
    def agent_url(self) -> str:
        """Where the agent answers."""
        return f"http://127.0.0.1:{self.agent_port}"


async def show(downloads: Path, *, offline: bool) -> bool:
    """Run the demo and clean up, also when cancelled."""
    began = time.monotonic()
    with _stage() as stage:
        root, real_input = await _closure(downloads, stage, offline=offline)
        await _publish(stage, root)
        async with _cache(stage), _agent(stage) as poured:
            pod = Pod(stage / "pod", stage / "run", PROFILE)
            task = [f"{pod.profile_dir}/bin/python3", "-c", TASK if real_input else BUILTIN_TASK]
            _say("a task in a pod without Python: its root holds /nix/store and "
                 f"{pod.profile_dir}, nothing else")  # fmt: skip
            rows = [("agent: empty store to ready", poured), *await _tasks(pod, task)]
            if real_input:
                rows += await _baseline(stage, task[1:])
            _table(rows)
            await _how_to_look(stage)
        _say(f"cleaning up; the demo took {time.monotonic() - began:.0f} s")
    return True


async def _closure(downloads: Path, stage: Stage, *, offline: bool) -> tuple[Path, bool]:
    """Build the profile from wheels, or the small one where nothing can be fetched."""
    if not offline:
        try:
            inputs = await profile.fetch(downloads.absolute(), _say)
            return await profile.build(inputs, stage / "build", _say), True
        except NodeAgentError as error:
            if error.reason is not Reason.CACHE_UNREACHABLE:
                raise
            _say(f"no network ({error.message}): using the small built-in closure instead")
    return await profile.builtin(stage / "build", _say), False


async def _publish(stage: Stage, root: Path) -> None:
    """Make keys, bake and sign the release, write the pins."""
    for name in ("cache", "release"):
        await _do(
            "nix-store", "--generate-binary-cache-key", f"demo-{name}-1",
            str(stage / f"{name}.sec"), str(stage / f"{name}.pub"),
        )  # fmt: skip
    digest = await _nodeagent(
        "release", "build", "--store-root", str(stage / "build"), "--cache", str(stage / "cache"),
        "--key", str(stage / "cache.sec"), "--profile", f"{PROFILE}={root}",
    )  # fmt: skip
    await _nodeagent(
        "promote", "--pins", str(stage / "pins/pins.json"), "--cache", str(stage / "cache"),
        "--release", digest.split()[0], "--key", str(stage / "release.sec"), "--fleet", "demo",
    )  # fmt: skip


@contextlib.asynccontextmanager
async def _cache(stage: Stage) -> AsyncIterator[None]:
    argv = ["serve", str(stage / "cache"), "--host", "127.0.0.1", "--port", str(stage.cache_port)]
    async with process.started(_show("nodeagent", argv), stderr=None):
        await _until_answers(f"http://127.0.0.1:{stage.cache_port}/nix-cache-info")
        yield


@contextlib.asynccontextmanager
async def _agent(stage: Stage) -> AsyncIterator[float]:
    """Start an agent with an empty store; gives the seconds until it was ready."""
    argv = [
        "agent", "--store-root", str(stage / "node"), "--state-dir", str(stage / "state"),
        "--run-dir", str(stage / "run"), "--pins", str(stage / "pins/pins.json"),
        "--caches", f"main=http://127.0.0.1:{stage.cache_port}", "--fleet", "demo",
        "--release-keys", str(stage / "release.pub"), "--cache-keys", str(stage / "cache.pub"),
        "--host", "127.0.0.1", "--port", str(stage.agent_port),
    ]  # fmt: skip
    began = time.monotonic()
    async with process.started(_show("nodeagent", argv), stderr=None):
        await _until_answers(f"{stage.agent_url}/livez")
        watching = asyncio.create_task(_watch(stage))
        await _until_answers(f"{stage.agent_url}/readyz")
        seconds = time.monotonic() - began
        watching.cancel()
        yield seconds


async def _watch(stage: Stage) -> None:
    """Show the agent's progress, a line a second."""
    while True:
        now = await asyncio.to_thread(status.fetch, stage.agent_url)
        _say(f"  {now.phase}: {status.progress_text(now)}" if now.progress else f"  {now.phase}")
        await asyncio.sleep(1)


async def _tasks(pod: Pod, task: Sequence[str]) -> list[tuple[str, float]]:
    """Run the task twice, as two pods would."""
    rows = []
    pod.root.mkdir()
    for name in ("first", "second"):
        began = time.monotonic()
        done = await pod.run(task)
        rows.append((f"profile: start + import, {name} pod", time.monotonic() - began))
        if done.code != 0:
            raise NodeAgentError(Reason.INTERNAL_ERROR, f"the task failed: {done.complaint}")
        _say(f"  {done.stdout.decode().strip()}")
    return rows


async def _baseline(stage: Stage, task: Sequence[str]) -> list[tuple[str, float]]:
    _say("for comparison, what a task does today: pip install without a cache, then import")
    python, seconds = await baseline.install(stage / "venv", profile.EXAMPLE / "requirements.lock")
    imported = await baseline.timed([str(python), *task])
    return [("pip install, cold", seconds), ("pip install: start + import", imported)]


def _table(rows: Sequence[tuple[str, float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "seconds", title="measured in this run, on this machine")
    for what, seconds in rows:
        table.add_row(what, f"{seconds:.2f}")
    Console().print(table)


async def _how_to_look(stage: Stage) -> None:
    _say("how to look:")
    print(await _nodeagent("status", "--url", stage.agent_url))
    for path in ("/readyz", "/healthz"):
        print(await _do("curl", "--silent", f"{stage.agent_url}{path}"))
    _say(f"also there: {stage.agent_url}/v1/status and {stage.agent_url}/metrics")
    if sys.stdin.isatty():
        _say("the agent runs until you press Enter")
        await asyncio.to_thread(sys.stdin.readline)


async def _nodeagent(*argv: str) -> str:
    return await _checked(_show("nodeagent", argv))


async def _do(*argv: str) -> str:
    return await _checked(_show(argv[0], argv[1:]))


def _show(program: str, argv: Sequence[str]) -> list[str]:
    """Print a command as a user would type it, and give it as it is run."""
    _say(f"$ {program} {' '.join(argv)}")
    return (
        [sys.executable, "-m", "nodeagent", *argv] if program == "nodeagent" else [program, *argv]
    )


async def _checked(argv: Sequence[str]) -> str:
    done = await process.run(argv, timeout=COMMAND_SECONDS)
    if done.code != 0:
        raise NodeAgentError(Reason.INTERNAL_ERROR, f"`{argv[-1]}` failed: {done.complaint}")
    return done.stdout.decode().strip()


async def _until_answers(url: str) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while True:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                answer = await asyncio.to_thread(urllib3.request, "GET", url, retries=False)
                if answer.status == 200:
                    return
            await asyncio.sleep(0.1)


@contextlib.contextmanager
def _stage() -> Iterator[Stage]:
    directory = Path(tempfile.mkdtemp(prefix="nodeagent-demo-"))
    try:
        yield Stage(directory, _free_port(), _free_port())
    finally:
        remove(directory)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _say(text: str) -> None:
    print(text, flush=True)
