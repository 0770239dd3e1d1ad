"""A site for tests: a builder's store, keys, a cache and pins; and agents that live from it.

Agents are real processes with real Nix stores, several on one machine. Nothing is mocked; what
a test breaks it breaks on disk or on the wire.
"""

import asyncio
import contextlib
import json
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp

from integration import closures
from integration.closures import Closure
from nodeagent import keys, names, pins, promote, release
from nodeagent.bake import build
from nodeagent.bake.directory import CacheDirectory
from nodeagent.bake.spec import Part
from nodeagent.keys import SecretKey
from nodeagent.names import Reason
from nodeagent.pins import Channel, ChannelRecord, Envelope, Pins
from nodeagent.release import Profile, Release
from nodeagent.report import Status

SYSTEM: Final = "x86_64-linux"
FLEET: Final = "test"
WAIT_SECONDS: Final = 60.0


@dataclass
class Site:
    """Everything outside the node."""

    root: Path
    cache_key: SecretKey = field(init=False)
    release_key: SecretKey = field(init=False)

    def __post_init__(self) -> None:
        secret, _ = closures.make_key(self.root / "keys", "cache-1")
        self.cache_key = keys.load_secret(secret)
        secret, _ = closures.make_key(self.root / "keys", "release-1")
        self.release_key = keys.load_secret(secret)

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def pins(self) -> Path:
        return self.root / "pins/pins.json"

    def closure(
        self, version: str = "1", count: int = 5, changed: int = 1, file_bytes: int = 2000
    ) -> Closure:
        """Make a closure; versions share all but the changed paths."""
        return closures.make_closure(
            self.root / "builder",
            version=version,
            count=count,
            changed=changed,
            file_bytes=file_bytes,
        )

    async def release(self, closure: Closure, profile: str = "ds") -> bytes:
        """Bake a release of one profile into the cache; give its manifest."""
        part = Part(SYSTEM, closure.store_root, {profile: Profile(root=closure.root)})
        means = build.Means(CacheDirectory(self.cache), self.cache_key)
        return (await build.build([part], means)).manifest

    def promote(self, manifest: bytes, percent: int = 100) -> ChannelRecord:
        """Point the stable channel at a release, as `nodeagent promote` does."""
        promotion = promote.Promotion(
            manifest, FLEET, names.DEFAULT_CHANNEL, ["main"], timedelta(days=1), percent
        )
        return promote.promote(self.pins, promotion, self.release_key, datetime.now(UTC))

    def pin(self, manifest: bytes, *, key: SecretKey | None = None, **changes: object) -> None:
        """Write pins with one record that `promote` would not make: any field, any key."""
        now = datetime.now(UTC)
        facts: dict[str, Any] = {
            "fleet": FLEET,
            "channel": names.DEFAULT_CHANNEL,
            "serial": int(now.timestamp()) + 1,
            "release": release.digest_of(manifest),
            "release_size": len(manifest),
            "created_at": now,
            "expires_at": now + timedelta(days=1),
        }
        record = ChannelRecord.model_validate(facts | changes)
        channel = Channel(current=Envelope.seal(record, key or self.release_key))
        document = Pins(caches=("main",), channels={names.DEFAULT_CHANNEL: channel})
        self.write_pins(pins.render(document))

    def write_pins(self, data: bytes) -> None:
        self.pins.parent.mkdir(exist_ok=True)
        fresh = self.pins.with_name("pins.new")
        fresh.write_bytes(data)
        fresh.rename(self.pins)

    def nar_file(self, manifest: bytes, path: str) -> Path:
        """Say where the cache keeps a path's NAR."""
        index = self.cache / release.index_file(release.digest_of(manifest))
        return self.cache / release.parse_index(index.read_bytes()).paths[path].url

    def rewrite(self, manifest: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
        """Publish a changed manifest under its own right digest, index and all."""
        data = json.loads(manifest)
        change(data)
        changed = Release.model_validate(data).canonical()
        old, new = release.digest_of(manifest), release.digest_of(changed)
        (self.cache / release.manifest_file(new)).write_bytes(changed)
        shutil.copy(self.cache / release.index_file(old), self.cache / release.index_file(new))
        return changed


def free_port() -> int:
    """Find a port that no client is given meanwhile: below those that the kernel hands out."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@dataclass
class Node:
    """One node: its directories, and an agent when it runs."""

    site: Site
    root: Path
    cache_address: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    log: list[dict[str, Any]] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.boot("boot-1")

    @property
    def store_root(self) -> Path:
        return self.root / "host"

    @property
    def run_dir(self) -> Path:
        return self.root / "run"

    def real(self, path: str) -> Path:
        return self.store_root / path.removeprefix("/")

    def boot(self, boot_id: str) -> None:
        """Name a boot: the next agent finds itself after a reboot."""
        (self.root / "boot_id").write_text(f"{boot_id}\n")

    def argv(self, *more: str) -> Sequence[str]:
        flags = {
            "pins": self.site.pins,
            "node-name": self.root.name,
            "fleet": FLEET,
            "system": SYSTEM,
            "caches": f"main={self.cache_address or self.site.cache.as_uri()}",
            "release-keys": self.site.root / "keys/release-1.pub",
            "cache-keys": self.site.root / "keys/cache-1.pub",
            "store-root": self.store_root,
            "state-dir": self.root / "state",
            "run-dir": self.run_dir,
            "boot-id-file": self.root / "boot_id",
            "host": "127.0.0.1",
            "port": self.port,
            "retry-seconds": "0.2",
            "retry-max-seconds": "0.5",
            **self.settings,
        }
        spelled = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        return [sys.executable, "-m", "nodeagent", "agent", *spelled, *more]

    @contextlib.asynccontextmanager
    async def agent(self, *more: str) -> AsyncIterator["Node"]:
        """Run an agent; at the end it must stop cleanly at SIGTERM."""
        self.log.clear()
        child = await asyncio.create_subprocess_exec(
            *self.argv(*more), stderr=asyncio.subprocess.PIPE, limit=1 << 20
        )
        self.process = child
        reading = asyncio.create_task(self._read_log(child))
        try:
            yield self
        finally:
            if child.returncode is None:
                child.send_signal(signal.SIGTERM)
            code = await asyncio.wait_for(child.wait(), WAIT_SECONDS)
            await reading
        assert code in {0, -signal.SIGKILL}, self.log

    async def once(self, *more: str) -> int:
        """Run one pass; give the exit code."""
        child = await asyncio.create_subprocess_exec(
            *self.argv("--once", *more), stderr=asyncio.subprocess.PIPE
        )
        await self._read_log(child)
        return await asyncio.wait_for(child.wait(), WAIT_SECONDS)

    async def _read_log(self, child: asyncio.subprocess.Process) -> None:
        assert child.stderr is not None
        async for line in child.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"event": line.decode()})

    async def get(self, path: str) -> tuple[int, str]:
        """Ask an endpoint."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}{path}") as answer,
        ):
            return answer.status, await answer.text()

    async def status(self) -> Status:
        return Status.model_validate_json((await self.get("/v1/status"))[1])

    async def until(self, what: str, test: Callable[[Status], bool]) -> Status:
        """Wait until the agent's status fulfils a condition."""
        shown = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    with contextlib.suppress(aiohttp.ClientError):
                        shown = await self.status()
                        if test(shown):
                            return shown
                    await asyncio.sleep(0.02)
        raise AssertionError(f"not {what} in {WAIT_SECONDS:.0f} s: {shown}; log: {self.log[-5:]}")

    async def until_published(self, manifest: bytes) -> Status:
        digest = release.digest_of(manifest)
        return await self.until(
            f"published {digest}",
            lambda now: now.ready and now.published is not None and now.published.release == digest,
        )

    async def until_problem(self, reason: Reason) -> Status:
        return await self.until(
            f"in trouble with {reason}",
            lambda now: now.problem is not None and now.problem.reason is reason,
        )

    async def until_logged(self, text: str) -> None:
        await self.until(
            f"saying {text!r}", lambda _: any(text in entry["event"] for entry in self.log)
        )

    def hello(self) -> str:
        """Resolve the published profile as a pod would and read what its program says."""
        link = (self.run_dir / "profiles/ds/bin").readlink()
        return (self.real(str(link)) / "hello").read_text()
