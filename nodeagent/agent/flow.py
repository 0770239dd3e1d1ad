"""One pass, in the order of the design: manifest → plan → pour → verify → publish.

A pass can be cancelled anywhere; what it finished stays. Whatever fails, the last good
generation stays published; only positive evidence of loss shuts a gate.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nodeagent import cache, keys, plan, release, source, verify
from nodeagent.errors import NodeAgentError
from nodeagent.ledger import Held, Ledger
from nodeagent.metrics import Metrics
from nodeagent.names import Phase, Reason
from nodeagent.plan import Plan
from nodeagent.publish import Gates, Generation
from nodeagent.realise.run import Failure, Means, Tally, realise
from nodeagent.release import Location, System
from nodeagent.report import Report

REPAIRS = 2
SHOWN = 3


@dataclass
class Flow:
    """What a pass works with, and what is published."""

    means: Means
    ledger: Ledger
    gates: Gates
    report: Report
    metrics: Metrics
    system: str
    boot_id: str
    published: Generation | None = None
    tally: Tally = field(default_factory=Tally)
    _verified: set[str] = field(default_factory=set)

    async def bring(self, target: Held, manifest_size: int) -> None:
        """Make `target` the published generation; raises NodeAgentError, nothing lost."""
        await self._check_published()
        system = await self._system(target, manifest_size)
        await self._realise(target, system)
        self._publish(target, system)

    async def restore(self) -> None:
        """Publish what was published before if it is intact, else shut its gates; asks nobody."""
        held, state = self.ledger.state.held, self.ledger.state
        if state.verified_boot != self.boot_id:
            await asyncio.to_thread(self._forget_last_boot)
        if held is None or self.ledger.manifest(held.release) is None:
            return
        system = await self._system(held, 0)
        if state.verified_boot == self.boot_id:
            self._verified.update(system.paths)
        lost = [step.path for step in (await self._plan(system, {})).steps]
        lost += await self._verify(system)
        self.gates.withdraw(_users(system, lost))
        if not lost:
            self._publish(held, system)

    def lost(self) -> Sequence[str]:
        """List the published store paths that are gone."""
        paths = self.published.system.paths if self.published else ()
        return verify.absent(self.means.files, paths)

    def shut(self) -> Sequence[str]:
        """List the published profiles whose gate is shut."""
        return self.gates.shut(self.published.system.profiles if self.published else ())

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
        if self.published is not None and self.published.digest == target.release:
            return self.published.system
        manifest = self.ledger.manifest(target.release)
        if manifest is None:
            self._enter(Phase.FETCHING_MANIFEST)
            manifest = await asyncio.to_thread(self._fetch_manifest, target, manifest_size)
        parsed = await asyncio.to_thread(release.parse, manifest, target.release)
        self.ledger.keep_manifest(target.release, manifest)
        return release.for_system(parsed, self.system)

    async def _realise(self, target: Held, system: System) -> None:
        """Plan, pour and verify; what verification finds broken is planned once more."""
        damaged: Mapping[str, str] = {}
        for _ in range(REPAIRS):
            todo = await self._plan(system, damaged)
            if todo.steps:
                await self._pour(target, todo)
            damaged = await self._verify(system)
            if not damaged:
                return
        path, fault = next(iter(damaged.items()))
        raise NodeAgentError(
            Reason.PATH_DAMAGED, f"{path} is still damaged after a repair ({fault}); check the disk"
        )

    async def _plan(self, system: System, damaged: Mapping[str, str]) -> Plan:
        self._enter(Phase.PLANNING)
        valid = await asyncio.to_thread(self.means.nix.valid)
        on_disk = await asyncio.to_thread(self.means.files.on_disk)
        todo = plan.diff(system, valid, on_disk, damaged.keys())
        if todo.conflicts:
            alien = await asyncio.to_thread(self._unvouched, todo.conflicts)
            todo = plan.diff(system, valid, on_disk, alien | damaged.keys())
        self.report.conflicts = todo.conflicts
        self._verified.update(todo.conflicts)  # whole by their own hash, not by the release's
        return todo

    def _unvouched(self, paths: Sequence[str]) -> set[str]:
        """Pick the paths whose own registration no trusted cache key signed."""
        trusted = keys.parse_public(self.means.cache_keys)
        return {
            one.path
            for one in self.means.nix.registered(paths)
            if not trusted.verify_texts(one.sigs, one.fingerprint)
        }

    async def _pour(self, target: Held, todo: Plan) -> None:
        self.tally = Tally()
        self.report.pouring(todo.bytes, len(todo.steps), time.monotonic())
        self._enter(Phase.POURING)
        index = await asyncio.to_thread(self._fetch_index, target)
        try:
            failures = await realise(todo, self._means(target), index, self.tally)
        finally:
            self.metrics.paths_poured.inc(self.tally.paths_done)
            self.metrics.bytes_poured.inc(self.tally.bytes_done)
        done = {step.path for step in todo.steps} - {failure.path for failure in failures}
        self._verified.difference_update(done)
        if failures:
            raise _failure(failures)

    async def _verify(self, system: System) -> Mapping[str, str]:
        """Walk what was not walked since it was poured, or since the boot."""
        self._enter(Phase.VERIFYING)
        unseen = {path: info for path, info in system.paths.items() if path not in self._verified}
        damaged = await asyncio.to_thread(verify.walk, self.means.files, unseen)
        self._verified.update(unseen.keys() - damaged.keys())
        if damaged and self.published is not None:
            self.gates.withdraw(_users(self.published.system, list(damaged)))
        return damaged

    def _publish(self, target: Held, system: System) -> None:
        """Open the gates, then remember; idempotent, so that an interrupted one is repeated."""
        self._enter(Phase.PUBLISHING)
        generation = Generation(target.release, target.serial, system)
        if generation != self.published or self.shut():
            self.gates.publish(self.means.files, generation)
        self.ledger.publish(target, self.boot_id)
        self.published = generation
        self.metrics.published(target.release, target.channel, target.serial)

    def _forget_last_boot(self) -> None:
        """No gate of an earlier boot is believed, and no container of it lives any more."""
        self.gates.withdraw_all()
        self.means.files.clean_displaced()

    def _fetch_manifest(self, target: Held, size: int) -> bytes:
        with cache.opened(self._addresses(target)) as caches:
            return source.fetch_manifest(caches, target.release, size)

    def _fetch_index(self, target: Held) -> Mapping[str, Location]:
        with cache.opened(self._addresses(target)) as caches:
            return source.fetch_index(caches, target.release)

    def _addresses(self, target: Held) -> list[tuple[str, str]]:
        return source.caches_for(target.caches, dict(self.means.caches))

    def _means(self, target: Held) -> Means:
        return replace(self.means, caches=self._addresses(target))

    def _enter(self, phase: Phase) -> None:
        self.report.phase = phase


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
