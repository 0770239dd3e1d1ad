"""Killed at any instant: nothing partial is ever seen, nothing is done twice, nobody lives on."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from aiohttp import web

from integration import closures
from integration.observer import Expected, observing
from integration.site import Node, Site
from nodeagent import release
from nodeagent.names import STORE_DIR
from nodeagent.nix import Nix
from nodeagent.release import System

KILLS = 50
PATHS = 60
NAR_SECONDS = 0.01  # so that a pass lasts about a second
WORK_SECONDS = 0.6
PATIENCE_SECONDS = 30.0
MARK = "NODEAGENT_TEST_NODE"


@dataclass
class Server:
    """A slow cache that notes what it is asked for."""

    directory: Path
    asked: list[str] = field(default_factory=list)
    busy: asyncio.Event = field(default_factory=asyncio.Event)
    pouring: asyncio.Event = field(default_factory=asyncio.Event)
    address: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = request.path.removeprefix("/")
        self.asked.append(name)
        self.busy.set()
        if name.startswith("nar/"):
            self.pouring.set()
        file = self.directory / name
        if not file.is_file():
            return web.Response(status=404)
        data = file.read_bytes()
        if not name.startswith("nar/"):
            return web.Response(body=data)
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # killed agents hang up
            await response.write(data[: len(data) // 2])
            await asyncio.sleep(NAR_SECONDS)
            await response.write(data[len(data) // 2 :])
        return response


@contextlib.asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Server]:
    server = Server(directory)
    app = web.Application()
    app.router.add_get("/{name:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    [(_, port)] = runner.addresses
    server.address = f"http://127.0.0.1:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()


@dataclass
class Life:
    """One node from its empty store to a published release, through as many ends as it takes."""

    node: Node
    server: Server
    system: System
    urls: dict[str, str]
    kills: int = 0

    @property
    def files(self) -> Path:
        return self.node.store_root / "nix"

    def whole(self) -> set[str]:
        """List the paths that are whole on this node: in the store, or waiting for it."""
        places = (self.files / "store", self.files / "var/nodeagent/staging")
        names = {entry.name for place in places if place.is_dir() for entry in place.iterdir()}
        return {path for path in self.system.paths if path.removeprefix(f"{STORE_DIR}/") in names}

    async def agent(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self.node.argv("--once"),
            env={**os.environ, MARK: str(self.node.root)},
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def die(self, instants: random.Random) -> bool:
        """Kill an agent at a random instant of its work; False if it had ended before."""
        finished, asked = self.whole(), len(self.server.asked)
        self.server.busy.clear()
        self.server.pouring.clear()
        child = await self.agent()
        if self.kills:
            # Mostly while it pours, now and then while the workers start.
            sign = instants.choice([self.server.busy, *[self.server.pouring] * 3])
            await first_of(child.wait(), sign.wait())
            seconds = instants.uniform(0, WORK_SECONDS)
        else:  # while the store is made
            await until(lambda: child.returncode is not None or self.files.is_dir())
            seconds = instants.uniform(0, 0.2)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(child.wait()), seconds)
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        code = await child.wait()
        assert code in {0, -signal.SIGKILL}
        await until(lambda: not marked(self.node.root))
        again = {self.urls[path] for path in finished}.intersection(self.server.asked[asked:])
        assert not again, "what was finished is fetched again"
        self.kills += code != 0
        return code != 0


async def first_of(*waits: Coroutine[object, object, object]) -> None:
    tasks = [asyncio.create_task(one) for one in waits]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def marked(root: Path) -> list[psutil.Process]:
    """List the living processes that descend from agents of this node."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE:
                found += [process] if process.environ().get(MARK) == str(root) else []
    return found


async def until(test: Callable[[], bool]) -> None:
    """Wait for what must come to pass, however slow the machine is."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not test():  # noqa: ASYNC110 no event tells it
            await asyncio.sleep(0.005)


def expected(system: System) -> Expected:
    return {path: (info.nar_hash, info.nar_size) for path, info in system.paths.items()}


async def baked(site: Site, count: int = PATHS) -> tuple[System, dict[str, str]]:
    """Make a release of many small paths; give its paths and where each NAR lies."""
    manifest = await site.release(site.closure(count=count, file_bytes=20_000))
    site.promote(manifest)
    digest = release.digest_of(manifest)
    system = release.for_system(release.parse(manifest, digest), "x86_64-linux")
    index = release.parse_index((site.cache / release.index_file(digest)).read_bytes())
    return system, {path: location.url for path, location in index.paths.items()}


async def live(life: Life, instants: random.Random) -> None:
    """Kill agents until one comes through."""
    with observing(life.node.store_root, expected(life.system)) as seen:
        while await life.die(instants):
            pass
    assert seen.faults == []
    assert set(seen.visible) == set(seen.valid) == set(life.system.paths)
    left_tidy(life)


def left_tidy(life: Life) -> None:
    """Assert that nothing of the killed ones is left, and that the database tells all."""
    files = life.files
    assert list((files / "var/nodeagent/staging").iterdir()) == []
    assert list((files / "store").glob("*.lock")) == []
    assert list((files / "var/nix/gcroots/nodeagent/pending").iterdir()) == []
    with contextlib.closing(sqlite3.connect(Nix(life.node.store_root).database)) as database:
        rows = database.execute("SELECT path, sigs, ca FROM ValidPaths").fetchall()
    assert all("cache-1:" in (sigs or "") for _, sigs, _ in rows)
    assert {path: ca for path, _, ca in rows} == {
        path: info.ca for path, info in life.system.paths.items()
    }
    closures.nix_store(life.node.store_root, "--verify", "--check-contents")


@pytest.mark.timeout(300)
async def test_an_agent_killed_at_fifty_instants_never_shows_half_a_path(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 shown when the test fails
    site = Site(tmp_path)
    system, urls = await baked(site)
    lives: list[Life] = []

    async def one_after_another(instants: random.Random) -> None:
        while sum(life.kills for life in lives) < KILLS:
            async with serving(site.cache) as server:
                node = Node(site, tmp_path / f"node{len(lives)}", server.address, {"workers": "2"})
                lives.append(Life(node, server, system, urls))
                await live(lives[-1], instants)

    async with asyncio.TaskGroup() as tasks:
        for number in range(2):
            tasks.create_task(one_after_another(random.Random(seed + number)))
    asked = [name for life in lives for name in life.server.asked if name.startswith("nar/")]
    kills = sum(life.kills for life in lives)
    print(f"{kills} kills in {len(lives)} lives, {len(asked)} NARs of {len(lives) * len(urls)}")  # noqa: T201


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_an_agent_killed_while_nix_registers_takes_the_whole_group_along(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path)
    system, urls = await baked(site, count=5)
    life = Life(Node(site, tmp_path / "node"), Server(site.cache), system, urls)
    told, real, wrapper = tmp_path / "told", shutil.which("nix-store"), tmp_path / "bin/nix-store"
    hang = f"trap '' TERM; (sleep 600; :) & sleep 600 & touch {told}; wait"
    steps = {"before": f"{hang}; {real}", "after": f'{real} "$@" < {told}.in; {hang}; true'}
    wrapper.parent.mkdir()
    wrapper.write_text(
        f"#!/bin/sh\ncat > {told}.in\n"
        f'if [ -s {told}.in ]; then {steps[moment]}; else exec {real} "$@" < {told}.in; fi\n'
    )
    wrapper.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
        child = await life.agent()
        await until(told.exists)
    assert len(marked(life.node.root)) >= 5  # agent, guard, wrapper and what it started
    child.kill()
    await child.wait()
    await until(lambda: not marked(life.node.root))
    assert await life.node.once() == 0
    left_tidy(life)


def test_the_observer_sees_half_a_path_and_a_valid_one_that_is_gone(tmp_path: Path) -> None:
    closure = closures.make_closure(tmp_path / "host", count=4)
    facts = {
        one.path: (one.info.nar_hash, one.info.nar_size)
        for one in Nix(closure.store_root).registered(closure.paths)
    }
    with observing(closure.store_root, facts) as seen:
        pass
    assert seen.faults == []
    half, gone = closure.real(closure.paths[1]) / "needs", closure.real(closure.paths[2])
    half.chmod(0o644)
    half.write_text("")
    half.chmod(0o444)
    gone.rename(tmp_path / "gone")
    with observing(closure.store_root, facts) as seen:
        pass
    assert seen.faults[:2] == [
        f"{closure.paths[2]} is valid and not there",
        f"{closure.paths[1]} has another hash",
    ]
