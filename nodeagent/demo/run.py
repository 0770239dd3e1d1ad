"""The demo, step by step: each is the command that a user would type, shown before it runs."""

import asyncio
import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from nodeagent import process, status
from nodeagent.demo import baseline, profile
from nodeagent.demo.commands import first_lines, run, say, shown, until_answers
from nodeagent.demo.compare import Measured, table
from nodeagent.demo.pod import Pod
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.store import remove

PROFILE: Final = "ds"
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
    """The directory and ports of one demo."""

    directory: Path
    cache_port: int
    agent_port: int

    def at(self, name: str) -> str:
        """Give a path inside, as an argument."""
        return str(self.directory / name)

    @property
    def agent_url(self) -> str:
        """Where the agent answers."""
        return f"http://127.0.0.1:{self.agent_port}"


async def show(downloads: Path, *, offline: bool) -> bool:
    """Run the demo and clean up, also when cancelled."""
    began = time.monotonic()
    with _stage() as stage:
        root, is_real = await _closure(downloads.absolute(), stage, offline=offline)
        await _publish(stage, root)
        async with _cache(stage), _agent(stage) as filling:
            pod = Pod(stage.directory / "pod", stage.directory / "run", PROFILE)
            task = [f"{pod.profile_dir}/bin/python3", "-c", TASK if is_real else BUILTIN_TASK]
            measured = Measured(filling, *await _tasks(pod, task))
            if is_real:
                measured = replace(measured, today=await _today(stage, task[1:]))
            table(measured)
            await _how_to_look(stage)
        say(f"cleaning up; the demo took {time.monotonic() - began:.0f} s")
    return True


async def _closure(downloads: Path, stage: Stage, *, offline: bool) -> tuple[Path, bool]:
    """Build the profile from wheels, or the small one where nothing can be fetched."""
    scratch, cause = stage.directory / "build", "asked for"
    if not offline:
        try:
            inputs = await profile.fetch(downloads, say)
            return await profile.build(inputs, scratch, say), True
        except NodeAgentError as error:
            if error.reason is not Reason.CACHE_UNREACHABLE:
                raise
            cause = error.message.partition(" (")[0]
    say(f"no network ({cause}): using the small built-in closure instead")
    return await profile.builtin(scratch, say), False


async def _publish(stage: Stage, root: Path) -> None:
    """Make keys, bake and sign the release, write the pins."""
    for name in ("cache", "release"):
        pair = stage.at(f"{name}.sec"), stage.at(f"{name}.pub")
        await run("nix-store", "--generate-binary-cache-key", f"demo-{name}-1", *pair)
    digest = await run(
        *("nodeagent", "release", "build", "--profile", f"{PROFILE}={root}"),
        *("--store-root", stage.at("build"), "--cache", stage.at("cache")),
        *("--key", stage.at("cache.sec")),
    )
    await run(
        *("nodeagent", "promote", "--release", digest, "--cache", stage.at("cache")),
        *("--pins", stage.at("pins/pins.json"), "--fleet", "demo"),
        *("--key", stage.at("release.sec")),
    )


@contextlib.asynccontextmanager
async def _cache(stage: Stage) -> AsyncIterator[None]:
    address = ["--host", "127.0.0.1", "--port", str(stage.cache_port)]
    argv = shown("nodeagent", ["serve", stage.at("cache"), *address])
    async with process.started(argv, stderr=None):
        await until_answers(f"http://127.0.0.1:{stage.cache_port}/nix-cache-info")
        yield


@contextlib.asynccontextmanager
async def _agent(stage: Stage) -> AsyncIterator[float]:
    """Start an agent with an empty store; gives the seconds until it was ready."""
    argv = [
        *("agent", "--store-root", stage.at("node"), "--state-dir", stage.at("state")),
        *("--run-dir", stage.at("run"), "--pins", stage.at("pins/pins.json"), "--fleet", "demo"),
        *("--caches", f"main=http://127.0.0.1:{stage.cache_port}"),
        *("--release-keys", stage.at("release.pub"), "--cache-keys", stage.at("cache.pub")),
        *("--host", "127.0.0.1", "--port", str(stage.agent_port)),
    ]
    began = time.monotonic()
    async with process.started(shown("nodeagent", argv), stderr=None):
        await until_answers(f"{stage.agent_url}/livez")
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(_watch(stage), name="watch")
            await until_answers(f"{stage.agent_url}/readyz")
            seconds = time.monotonic() - began
            watching.cancel()
        yield seconds


async def _watch(stage: Stage) -> None:
    """Show the agent's progress, a line a second."""
    while True:
        now = await asyncio.to_thread(status.fetch, stage.agent_url)
        say(f"  {now.phase}: {status.progress_text(now)}" if now.progress else f"  {now.phase}")
        await asyncio.sleep(1)


async def _tasks(pod: Pod, task: Sequence[str]) -> tuple[float, float]:
    """Run the task twice, as two pods would; gives the seconds of each."""
    say(
        "a task in a pod without Python: its root holds /nix/store and "
        f"{pod.profile_dir}, nothing else"
    )
    pod.root.mkdir()
    return await _task(pod, task), await _task(pod, task)


async def _task(pod: Pod, task: Sequence[str]) -> float:
    began = time.monotonic()
    done = await pod.run(task)
    seconds = time.monotonic() - began
    if done.code != 0:
        raise NodeAgentError(Reason.INTERNAL_ERROR, f"the task failed: {done.complaint}")
    say(f"  {done.stdout.decode().strip()}")
    return seconds


async def _today(stage: Stage, task: Sequence[str]) -> tuple[float, float]:
    say("for comparison, what a task does today: pip install without a cache, then import")
    lock = profile.EXAMPLE / "requirements.lock"
    python, seconds = await baseline.install(stage.directory / "venv", lock)
    return seconds, await baseline.timed([str(python), *task])


async def _how_to_look(stage: Stage) -> None:
    say("how to look:")
    say(await run("nodeagent", "status", "--url", stage.agent_url))
    for path in ("/readyz", "/healthz", "/v1/status", "/metrics"):
        say(f"$ curl {stage.agent_url}{path}\n{await first_lines(stage.agent_url + path)}")
    if sys.stdin.isatty():
        say("the agent runs until you press Enter")
        await _enter()


async def _enter() -> None:
    """Wait for a line on the terminal, in a way that Ctrl-C can end."""
    loop, line = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), line.set)
    try:
        await line.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())


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
