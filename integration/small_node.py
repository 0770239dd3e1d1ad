"""A node in this process, with a real store: cheap enough for thousands of steps.

Workers and the API server are stood in for; the world around is pins, containers, a clock, reboots.
"""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

import structlog

from integration.faults import Crash, Fault, Fuse
from nodeagent import disk, keys, nar, promote, release, storepath
from nodeagent.agent.collecting import Collecting
from nodeagent.agent.flow import Flow
from nodeagent.agent.holders import Pods, Rollout
from nodeagent.agent.loop import Loop
from nodeagent.config import AgentSettings
from nodeagent.errors import NodeAgentError
from nodeagent.ledger import Ledger
from nodeagent.metrics import Metrics
from nodeagent.names import Reason
from nodeagent.nix import Nix, Registration
from nodeagent.plan import Plan, Step
from nodeagent.promote import Promotion
from nodeagent.publish import Gates
from nodeagent.realise.run import Failure, Means
from nodeagent.release import Release, System, digest12
from nodeagent.report import Report
from nodeagent.select import Node
from nodeagent.store import StoreFiles
from tests import handmade
from tests.handmade import CACHE_KEY, DAY, NOW, RELEASE_KEY, SYSTEM, Item, path
from tests.nars import Directory, File

SECONDS: Final = 30  # for what takes milliseconds: else it hangs
TICK: Final = timedelta(seconds=1)  # no two things happen at the same time
GRACE: Final = timedelta(minutes=15)
MARGIN: Final = timedelta(minutes=5)
KEEP: Final = 1
LIBRARIES: Final = 4
RELEASES: Final = 5


def item(name: str, *references: str) -> Item:
    """Make up a store path with one file; its name among the references is a self-reference."""
    tree = Directory({b"data": File(name.encode())})
    return Item(path(name), tree, tuple(path(one) for one in references))


def system(number: int) -> System:
    """Make a release's closure: what is shared changes from one to the next; two have `ml`, too."""
    used = [f"lib{number % LIBRARIES}", f"lib{(number + 1) % LIBRARIES}"]
    items = [item("base"), *(item(one, "base", one) for one in used)]
    items.append(item(f"ds{number}", f"ds{number}", *used))
    profiles = {"ds": items[-1].path}
    if number % 3 == 0:
        items.append(item(f"ml{number % 2}", "base"))
        profiles["ml"] = items[-1].path
    return handmade.system(*items, profiles=profiles)


SYSTEMS: Final = [system(number) for number in range(RELEASES)]
MANIFESTS: Final = [Release(systems={SYSTEM: one}).canonical() for one in SYSTEMS]
DIGESTS: Final = [release.digest_of(one) for one in MANIFESTS]
NUMBERS: Final = {digest12(digest): number for number, digest in enumerate(DIGESTS)}


def closure(number: int, profile: str) -> set[str]:
    """Give what a container with this profile needs."""
    one = SYSTEMS[number]
    return set(release.closure(one.paths, one.profiles[profile].root))


def is_whole(real: Path) -> bool:
    """Tell whether a path is as it was made."""
    name = real.name.partition("-")[2]
    try:
        return (real / "data").read_text() == name and len([*real.iterdir()]) == 1
    except OSError:
        return False


@dataclass
class Container:
    """One that was bound to what its gate led to; the API server tells its start late."""

    name: str
    number: int
    profile: str
    starts: datetime


@dataclass
class Agent:
    """What one start of the agent has in its memory."""

    flow: Flow
    loop: Loop
    collecting: Collecting
    owned: contextlib.AsyncExitStack


@dataclass
class SmallNode:
    """The node and its surroundings."""

    root: Path
    fuse: Fuse
    now: datetime = NOW
    boot: int = 1
    silent: bool = False
    containers_: dict[str, Container] = field(default_factory=dict)
    agent: Agent | None = None
    newer: Callable[[], None] | None = None
    runner: asyncio.Runner = field(
        default_factory=lambda: asyncio.Runner(loop_factory=asyncio.new_event_loop)
    )

    def __post_init__(self) -> None:
        self.files = StoreFiles(self.root / "host", durable=False)
        self.nix = Nix(self.files.root)
        self.gates = Gates(self.root / "run", str(self.files.store_dir))
        self.settings = AgentSettings(pins=self.root / "pins.json")
        cache = handmade.CacheFiles(self.root / "cache")
        for digest, manifest in zip(DIGESTS, MANIFESTS, strict=True):
            cache.write(release.manifest_file(digest), manifest)
        self.cache = cache.url

    def promote(self, number: int) -> None:
        promotion = Promotion(MANIFESTS[number], "ml", "stable", ["main"], 10_000 * DAY)
        promote.promote(self.settings.pins, promotion, RELEASE_KEY, self.now)

    def overtake(self, number: int) -> None:
        """Promote while the agent works."""
        with self.fuse.out():
            self.promote(number)
        if self.agent is not None:
            self.agent.loop.wake()

    def act(self, work: Callable[[Agent], Awaitable[object]], fault: Fault | None) -> bool:
        """Have the agent do something, started anew if need be; tell whether it did it all."""
        self.now += TICK
        try:
            with self.fuse.lit(fault):
                self.runner.run(self._act(work))
        except Crash:
            self.stop()
            return False
        except NodeAgentError as error:
            if error.reason is not Reason.DISK_SHORT or not self.fuse.full:
                raise
            return False
        return True

    async def _act(self, work: Callable[[Agent], Awaitable[object]]) -> None:
        async with asyncio.timeout(SECONDS):
            if self.agent is None:
                self.agent = await self._started()
            await work(self.agent)

    async def _started(self) -> Agent:
        """Do what `agent.run` does."""
        ledger = Ledger(self.root / "state")
        means = Means(self.files, self.nix, [("main", self.cache)], [CACHE_KEY.public], 1)
        report = Report(clock=lambda: self.now)
        flow = Flow(means, ledger, self.gates, report, Metrics(), SYSTEM, f"boot-{self.boot}")
        loop = Loop(self.settings, Node("n", "ml", "stable", TRUSTED), flow, QUIET)
        pods = Pods(cast("Any", self), report.clock, MARGIN)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(ledger.owned(lambda: None))
            self.files.claim(share=False)
            await self.nix.create()
            await flow.restore()
            owned = stack.pop_all()
        collecting = Collecting(
            flow,
            (Rollout(flow), pods),
            QUIET,
            keep=KEEP,
            grace=GRACE,
            seconds=1,
            ensure_free=0,
        )
        flow.make_room = collecting.make_room
        return Agent(flow, loop, collecting, owned)

    async def containers(self, _: Sequence[str]) -> list[tuple[str, datetime | None]]:
        """Answer in the API server's place."""
        if self.silent:
            raise NodeAgentError(Reason.API_UNREACHABLE, "no answer")
        return [
            (one.name, one.starts.replace(microsecond=0) if one.starts <= self.now else None)
            for one in self.containers_.values()
        ]

    async def pour(
        self, todo: Plan, means: Means, _: Mapping[str, Any], __: object
    ) -> tuple[Failure, ...]:
        """Do what `realise` does, in the workers' place, too; newer pins may come meanwhile."""
        staged = means.files.clean_staging(step.path for step in todo.steps)
        for steps in (todo.steps[: len(todo.steps) // 2], todo.steps[len(todo.steps) // 2 :]):
            for step in steps:
                if step.path not in staged:
                    self._stage(step)
            means.files.place([step.path for step in steps])
            if steps:
                await means.nix.register([Registration(step.path, step.info) for step in steps])
            if self.newer is not None:
                self.newer()
                self.newer = None
                await asyncio.sleep(SECONDS)  # until it is cancelled
        return ()

    def _stage(self, step: Step) -> None:
        if step.on_disk and is_whole(self.files.real(step.path)):
            self.files.real(step.path).chmod(nar.DIRECTORY_MODE)
            return
        target = self.files.staged(step.path)
        part = target.with_name(f"{target.name}.part")
        with disk.usable(part):
            part.mkdir()
            (part / "data").write_text(target.name.partition("-")[2])
            (part / "data").chmod(nar.FILE_MODE)
            part.rename(target)

    def bind(self, name: str, profile: str, delay: timedelta) -> None:
        """Start a container as a kubelet does: it has what its gate leads to now."""
        gate = self.gates.profile(profile)
        if gate.is_dir() and self.gates.store.is_symlink():
            number = NUMBERS[gate.resolve().parts[-2]]
            self.containers_[name] = Container(name, number, profile, self.now + delay)

    def stop(self) -> None:
        """End the agent, or what is left of it."""
        if self.agent is not None:
            self.runner.run(self.agent.owned.aclose())
            self.agent = None

    def reboot(self) -> None:
        self.stop()
        self.boot += 1
        self.containers_.clear()
        shutil.rmtree(self.gates.run_dir, ignore_errors=True)

    def valid(self) -> set[str]:
        return set(self.nix.valid()) if self.nix.database.exists() else set()

    def unsound(self) -> Iterator[str]:
        """List valid paths that are not there, and whatever lies in the store half."""
        if not self.files.store_dir.exists():
            return
        there = self.files.on_disk()
        yield from self.valid() - there
        yield from (one for one in there if not is_whole(storepath.real(self.files.root, one)))

    def close(self) -> None:
        self.stop()
        self.runner.close()


QUIET: Final = structlog.wrap_logger(
    None, wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
)
TRUSTED: Final = keys.parse_public([RELEASE_KEY.public])


async def turn(agent: Agent) -> None:
    """Have it look at its pins."""
    await agent.loop.turn()


async def turn_beside_cycle(agent: Agent) -> None:
    """Have it collect at the same time."""
    cycle = asyncio.create_task(agent.collecting.cycle())
    try:
        await agent.loop.turn()
        await cycle
    finally:
        cycle.cancel()
        await asyncio.wait([cycle])


def below(root: str) -> set[str]:
    """Give all that a path needs."""
    return set(release.closure(ALL, root))


ALL: Final = {one: info for system in SYSTEMS for one, info in system.paths.items()}
