"""A place to measure in: a baked closure served over loopback, and commands that are timed."""

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import psutil
import urllib3

from nodeagent import keys, process, promote
from nodeagent.bake import build
from nodeagent.bake.directory import CacheDirectory
from nodeagent.bake.spec import Part
from nodeagent.bench import closures
from nodeagent.bench.closures import Shape
from nodeagent.config import this_system
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.nix import Nix
from nodeagent.release import Profile

TIMEOUT_SECONDS: Final = 900.0
SAMPLE_SECONDS: Final = 0.02
POLL_SECONDS: Final = 0.005
REST_SECONDS: Final = 1.0
NODEAGENT: Final = (sys.executable, "-m", "nodeagent")


@dataclass(frozen=True)
class Lab:
    """One closure in a store and in a cache, with keys and pins; all below `directory`."""

    directory: Path
    root: str
    url: str

    def at(self, name: str) -> str:
        """Give a path inside, as an argument."""
        return str(self.directory / name)

    @property
    def nix_settings(self) -> Mapping[str, str]:
        """Settings under which stock Nix takes from our cache alone."""
        key = (self.directory / "cache.pub").read_text().strip()
        own = Nix(Path("/")).env["NIX_CONFIG"]
        return {"NIX_CONFIG": f"{own}trusted-public-keys = {key}\n", "NIX_REMOTE": ""}

    def agent(self, node: Path, *more: str) -> list[str]:
        """Give the command of an agent whose node lies below `node`."""
        return self.waiting_agent(self.directory / "pins", node, *more)

    def waiting_agent(self, pins: Path, node: Path, *more: str) -> list[str]:
        """Give the same for another directory of pins, that may be empty yet."""
        return [
            *(*NODEAGENT, "agent", "--pins", str(pins / "pins.json"), "--fleet", "bench"),
            *("--caches", f"main={self.url}", "--store-root", str(node / "host")),
            *("--state-dir", str(node / "state"), "--run-dir", str(node / "run")),
            *("--release-keys", self.at("release.pub"), "--cache-keys", self.at("cache.pub")),
            *("--host", "127.0.0.1", "--port", str(free_port()), *more),
        ]


@contextlib.asynccontextmanager
async def lab(directory: Path, shape: Shape) -> AsyncIterator[Lab]:
    """Make a closure, bake, sign and serve it."""
    directory.mkdir(parents=True)
    root = await closures.make(directory / "builder", shape)
    for name in ("cache", "release"):
        pair = [str(directory / f"{name}.sec"), str(directory / f"{name}.pub")]
        await seconds(["nix-store", "--generate-binary-cache-key", f"bench-{name}", *pair])
    part = Part(this_system(), directory / "builder", {"ds": Profile(root=root)})
    cache_key = keys.load_secret(directory / "cache.sec")
    built = await build.build([part], build.Means(CacheDirectory(directory / "cache"), cache_key))
    promotion = promote.Promotion(built.manifest, "bench", "stable", ["main"], timedelta(days=1))
    release_key = keys.load_secret(directory / "release.sec")
    promote.promote(directory / "pins/pins.json", promotion, release_key, datetime.now(UTC))
    port = free_port()
    argv = [*NODEAGENT, "serve", str(directory / "cache"), "--host", "127.0.0.1"]
    async with process.started([*argv, "--port", str(port)], stderr=None):
        url = f"http://127.0.0.1:{port}"
        await _until_answers(f"{url}/nix-cache-info")
        yield Lab(directory, root, url)


async def seconds(argv: Sequence[str], env: Mapping[str, str] | None = None) -> float:
    """Time a command that must succeed."""
    began = time.monotonic()
    done = await process.run(argv, timeout=TIMEOUT_SECONDS, env=env)
    taken = time.monotonic() - began
    if done.code != 0:
        raise NodeAgentError(
            Reason.INTERNAL_ERROR, f"`{' '.join(argv[:6])} …` failed: {done.complaint}"
        )
    return taken


async def brought(it: Lab, node: Path, *more: str) -> float:
    """Let an agent come to rest without pins, give it some: seconds until its gate is open."""
    pins, gate = node / "pins", node / "run/profiles/ds"
    pins.mkdir(parents=True)
    async with process.started(it.waiting_agent(pins, node, *more), stderr=None) as child:
        while not (node / "host/nix/var/nix/db/db.sqlite").exists():  # noqa: ASYNC110 another process's news
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.sleep(REST_SECONDS)
        fresh = pins / ".pins.json"
        shutil.copyfile(it.at("pins/pins.json"), fresh)
        began = time.monotonic()
        fresh.rename(pins / "pins.json")
        while not gate.exists():
            if child.returncode is not None or time.monotonic() - began > TIMEOUT_SECONDS:
                raise NodeAgentError(
                    Reason.INTERNAL_ERROR, f"the agent below {node} opened no gate; see its log"
                )
            await asyncio.sleep(POLL_SECONDS)
        return time.monotonic() - began


async def clear(*directories: Path) -> None:
    """Remove what a run made, and let the disk come to rest."""
    await seconds(["rm", "-rf", *map(str, directories)])
    await asyncio.to_thread(os.sync)


async def peak_rss(argv: Sequence[str]) -> tuple[float, float]:
    """Run a command; give seconds and the highest sum of RSS of all its processes, in MiB."""
    began, peak = time.monotonic(), 0
    async with process.started(argv, stderr=None) as child:
        family = psutil.Process(child.pid)
        while child.returncode is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(
                    peak, sum(_rss(one) for one in (family, *family.children(recursive=True)))
                )
            await asyncio.sleep(SAMPLE_SECONDS)
        return time.monotonic() - began, peak / (1 << 20)


def _rss(one: psutil.Process) -> int:
    try:
        size: int = one.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
    return size


def free_port() -> int:
    """Pick a port of loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _until_answers(url: str) -> None:
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(_answers, url):  # noqa: ASYNC110 another process's news
            await asyncio.sleep(0.05)


def _answers(url: str) -> bool:
    with contextlib.suppress(urllib3.exceptions.HTTPError):
        return urllib3.request("GET", url, retries=False).status == 200
    return False
