"""One pass, in the order of the design: manifest → plan → pour → verify → publish.

A pass can be cancelled anywhere; what it finished stays. Whatever fails, the last good
generation stays published; only positive evidence of loss shuts a gate.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from nodeagent import cache, keys, plan, release, source
from nodeagent.errors import NodeAgentError
from nodeagent.ledger import Held, Ledger
from nodeagent.metrics import Metrics
from nodeagent.names import Phase, Reason
from nodeagent.plan import Plan
from nodeagent.publish import Gates, Generation
from nodeagent.realise.run import Failure, Means, Tally, realise
from nodeagent.release import Location, PathInfo, System
from nodeagent.report import Report
from nodeagent.verify import evidence, walk

SHOWN = 3


async def _no_room() -> bool:
    return False


@dataclass
class Flow:
    """What a pass works with, what is published, and what is known of the store's paths.

    `exclusive` is held by whatever changes the store, `pours` while a pass pours; `make_room` tells
    whether it could; `hashed` are paths whose contents were read in this run.
    """

    means: Means
    ledger: Ledger
    gates: Gates
    report: Report
    metrics: Metrics
    system: str
    boot_id: str
    published: Generation | None = None
    tally: Tally = field(default_factory=Tally)
    memory: cache.Memory = field(default_factory=cache.Memory)
    exclusive: asyncio.Lock = field(default_factory=asyncio.Lock)
    make_room: Callable[[], Awaitable[bool]] = _no_room
    pours: asyncio.Lock = field(default_factory=asyncio.Lock)
    hashed: set[str] = field(default_factory=set)
    damaged: dict[str, str] = field(default_factory=dict)
    _verified: set[str] = field(default_factory=set)
    _conflicting: dict[str, PathInfo] = field(default_factory=dict)

    async def bring(self, target: Held, manifest_size: int) -> None:
        """Make `target` the published generation; raises NodeAgentError, nothing lost."""
        try:
            await self._bring(target, manifest_size)
        except NodeAgentError as error:
            if error.reason is not Reason.DISK_SHORT or not await self.make_room():
                raise
            await self._bring(target, manifest_size)

    async def _bring(self, target: Held, manifest_size: int) -> None:
        async with self.exclusive:
            self.memory.renew()
            await self._check_published()
            system = await self._system(target, manifest_size)
            await self._realise(target, system)
            self._publish(target, system)

    async def restore(self) -> None:
        """Publish what was published before if it is intact, else shut its gates; asks nobody."""
        held, state = self.ledger.state.held, self.ledger.state
        self.damaged.update(state.damaged)
        if state.verified_boot != self.boot_id:
            await asyncio.to_thread(self._forget_last_boot)
        if held is None or self.ledger.manifest(held.release) is None:
            return
        try:
            system = await self._system(held, 0)
        except NodeAgentError as error:  # a newer agent's: what it opened stays, and pins may heal
            self.report.fail(error.reason, error.message)
            return
        if state.verified_boot == self.boot_id:
            self._verified.update(system.paths)
        lost = [step.path for step in (await self._plan(system)).steps]
        lost += await self._verify(system)
        self.gates.withdraw(_users(system, lost))
        if not lost:
            self._publish(held, system)

    def lost(self) -> Sequence[str]:
        """List the published store paths that are gone."""
        paths = self.published.system.paths if self.published else ()
        return walk.absent(self.means.files, paths)

    def broken(self) -> Sequence[str]:
        """List the published store paths that are known to be damaged."""
        paths = self.published.system.paths if self.published else ()
        return [path for path in self.damaged if path in paths]

    def shut(self) -> Sequence[str]:
        """List the published profiles whose gate is shut."""
        return self.gates.shut(self.published.system.profiles if self.published else ())

    def unusable(self) -> frozenset[str]:
        """List the published profiles that miss a path, or have a damaged one."""
        missing = [*self.lost(), *self.broken()]
        if not missing or self.published is None:
            return frozenset()
        return frozenset(_users(self.published.system, missing))

    def condemn(self, path: str, fault: str) -> None:
        """Take note that a path's contents are damaged: gates first, then the rest."""
        if self.published is not None:
            self.gates.withdraw(_users(self.published.system, [path]))
        self.damaged[path] = fault
        self._remember_damage()
        kept = evidence.told(self.means.files, path)
        self.report.fail(Reason.PATH_DAMAGED, f"{path} is damaged: {fault}; fetching anew{kept}")

    def forget(self, paths: AbstractSet[str]) -> None:
        """Know nothing any more of paths that are no longer wanted."""
        self._verified -= paths
        self.hashed -= paths
        if paths & self.damaged.keys():
            self.damaged = {one: why for one, why in self.damaged.items() if one not in paths}
            self._remember_damage()

    def _remember_damage(self) -> None:
        with contextlib.suppress(NodeAgentError):  # a full disk is told by what fills it
            self.ledger.condemn(self.damaged)
            evidence.note(self.means.files, self.damaged, self.report.clock())

    async def _check_published(self) -> None:
        """Shut the gates of profiles that lost paths, before anything else."""
        lost = await asyncio.to_thread(self.lost)
        if lost and self.published is not None:
            self._verified.difference_update(lost)
            self.gates.withdraw(_users(self.published.system, lost))
            self.report.fail(
                Reason.PATH_DAMAGED, f"{_some(lost)} vanished from the store; fetching anew"
            )

    async def _system(self, target: Held, manifest_size: int) -> System:
        """Give this node's part of the release, from memory, disk or cache."""
        published = self.published
        # A manifest that was lost is fetched again, by a record that tells its size.
        known = not manifest_size or target.release in self.ledger.kept
        if known and published is not None and published.digest == target.release:
            return published.system
        manifest = self.ledger.manifest(target.release)
        if manifest is None:
            self._enter(Phase.FETCHING_MANIFEST)
            manifest = await asyncio.to_thread(self._fetch_manifest, target, manifest_size)
        parsed = await asyncio.to_thread(release.parse, manifest, target.release)
        self.ledger.keep_manifest(target.release, manifest)
        self.report.elsewhere = release.elsewhere(parsed, self.system)
        return release.for_system(parsed, self.system)

    async def _realise(self, target: Held, system: System) -> None:
        """Plan, pour and verify; what is found broken meanwhile is planned once more."""
        repaired: set[str] = set()
        while True:
            repaired |= self.damaged.keys()
            todo = await self._plan(system)
            if todo.steps:
                await self._pour(target, todo)
            await self._verify(system)
            broken = self.damaged.keys() & system.paths.keys()
            if not broken:
                return
            for path in broken & repaired:
                fault = self.damaged[path]
                raise NodeAgentError(
                    Reason.PATH_DAMAGED,
                    f"{path} is still damaged after a repair ({fault}); check the disk",
                )

    async def _plan(self, system: System) -> Plan:
        self._enter(Phase.PLANNING)
        valid = await asyncio.to_thread(self.means.nix.valid)
        on_disk = await asyncio.to_thread(self.means.files.on_disk)
        todo = plan.diff(system, valid, on_disk, self.damaged.keys())
        self._conflicting = await asyncio.to_thread(self._vouched, todo.conflicts)
        if alien := {*todo.conflicts} - self._conflicting.keys():
            todo = plan.diff(system, valid, on_disk, alien | self.damaged.keys())
        self.report.conflict(todo.conflicts)
        return todo

    def _vouched(self, paths: Sequence[str]) -> dict[str, PathInfo]:
        """Give the facts of the paths whose own registration a trusted cache key signed."""
        trusted = keys.parse_public(self.means.cache_keys)
        return {
            one.path: one.info
            for one in (self.means.nix.registered(paths) if paths else ())
            if trusted.verify_texts(one.sigs, one.fingerprint)
        }

    async def _pour(self, target: Held, todo: Plan) -> None:
        steps = {step.path for step in todo.steps}
        self._verified.difference_update(steps)
        self.tally = Tally()
        self.report.pouring(todo.bytes, len(todo.steps), time.monotonic())
        self._enter(Phase.POURING)
        index = await asyncio.to_thread(self._fetch_index, target)
        try:
            async with self.pours:
                failures = await realise(todo, self._means(target), index, self.tally)
        finally:
            self.metrics.paths_poured.inc(self.tally.paths_done)
            self.metrics.bytes_poured.inc(self.tally.bytes_done)
        if failures:  # then nobody knows which of the other paths were tried
            raise _failure(failures)
        self.hashed.update(steps)
        if self.means.nix.daemon is None:  # then they were verified while they were unpacked
            self._verified.update(steps)
        for path in steps & self.damaged.keys():
            del self.damaged[path]
        self._remember_damage()

    async def _verify(self, system: System) -> Mapping[str, str]:
        """Walk what was not walked since it was poured, or since the boot."""
        self._enter(Phase.VERIFYING)
        unseen = {path: info for path, info in system.paths.items() if path not in self._verified}
        # A conflicting path is whole by its own hash, not by the release's.
        facts = {path: self._conflicting.get(path, info) for path, info in unseen.items()}
        damaged = await asyncio.to_thread(walk.damaged, self.means.files, facts)
        self._verified.update(unseen.keys() - damaged.keys())
        self.damaged.update(damaged)
        self._remember_damage()
        if damaged and self.published is not None:
            self.gates.withdraw(_users(self.published.system, list(damaged)))
        return damaged

    def _publish(self, target: Held, system: System) -> None:
        """Open the gates, then remember; idempotent, so that an interrupted one is repeated."""
        self._enter(Phase.PUBLISHING)
        generation, now = Generation(target.release, target.serial, system), self.report.clock()
        self.ledger.opening(target.release, now)
        if generation != self.published or self.shut():
            self.gates.publish(self.means.files, generation)
        self.ledger.publish(target, self.boot_id, now, dict(self.gates.open()).values())
        self.published = generation
        self.metrics.published(target.release, target.channel, target.serial)

    def _forget_last_boot(self) -> None:
        """No gate of an earlier boot is believed, and no container of it lives any more."""
        self.gates.withdraw_all()
        try:
            evidence.tidy(self.means.files, self.damaged)
        except NodeAgentError as error:  # rubbish that stays must not keep the gates shut
            self.report.fail(error.reason, error.message)

    def _fetch_manifest(self, target: Held, size: int) -> bytes:
        with self._caches(target) as caches:
            return source.fetch_manifest(caches, target.release, size)

    def _fetch_index(self, target: Held) -> Mapping[str, Location]:
        with self._caches(target) as caches:
            return source.fetch_index(caches, target.release)

    def _caches(self, target: Held) -> contextlib.AbstractContextManager[list[cache.Cache]]:
        return cache.opened(self._addresses(target), self.means.access, self.memory)

    def _addresses(self, target: Held) -> list[tuple[str, str]]:
        return source.caches_for(target.caches, dict(self.means.caches))

    def _means(self, target: Held) -> Means:
        caches, down = self._addresses(target), self.memory.downs()
        # Where none is left, one failed request decides, and not the index's alone.
        left = {name for name, _ in caches} - {one.name for one in down}
        return replace(self.means, caches=caches, down=down if left else ())

    def _enter(self, phase: Phase) -> None:
        self.report.enter(phase)


def _users(system: System, paths: Sequence[str]) -> list[str]:
    """List the profiles whose closure holds any of these paths."""
    return [
        name
        for name, profile in system.profiles.items()
        if not release.closure(system.paths, profile.root).isdisjoint(paths)
    ]


def _failure(failures: Sequence[Failure]) -> NodeAgentError:
    more = f" (and {len(failures) - 1} more paths failed)" if len(failures) > 1 else ""
    return NodeAgentError(failures[0].reason, failures[0].message + more)


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
