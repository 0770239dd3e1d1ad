"""What the endpoints show of the agent, looked up when they are asked."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from nodeagent import readiness, release
from nodeagent.agent.collecting import Collecting
from nodeagent.agent.flow import Flow
from nodeagent.agent.loop import Loop
from nodeagent.agent.scrub import Scrubbing
from nodeagent.collect import Swept
from nodeagent.names import Reason
from nodeagent.readiness import Check, Evidence
from nodeagent.report import (
    Collection,
    FailedCheck,
    ProfileStatus,
    ReleaseVerdict,
    Repair,
    Status,
    Target,
)
from nodeagent.selinux import SELinux
from nodeagent.verify import evidence


@dataclass(frozen=True)
class AgentView:
    """Implements what `serve.health` asks for."""

    loop: Loop
    system: str
    scrubbing: Scrubbing
    collecting: Collecting
    selinux: SELinux = field(default_factory=SELinux)

    @property
    def flow(self) -> Flow:
        """What passes work with."""
        return self.loop.flow

    async def checks(self) -> list[Check]:
        """Look at the published paths and gates, then judge."""
        return await asyncio.to_thread(self._checks)

    def _checks(self) -> list[Check]:
        report = self.flow.report
        problem = report.problem and (report.problem.reason, report.problem.message)
        return readiness.judge(
            Evidence(
                published=self.flow.published is not None,
                absent=self.flow.lost(),
                damaged=self.flow.broken(),
                shut=self.flow.shut(),
                conflicts=report.conflicts,
                problem=problem or None,
                unguarded=report.unguarded,
                closed=self._closed(),
                spoilt=readiness.of_late(self.flow.ledger.state.spoilt, report.clock().timestamp()),
            )
        )

    def guard(self, *, enforced: bool) -> None:
        """Take note whether the API server refuses what this agent may not write."""
        self.flow.report.unguarded = not enforced

    def profiles(self) -> tuple[frozenset[str], frozenset[str]]:
        """Give the profiles that are published, and those of them that are not usable now."""
        published = self.flow.published
        if published is None:
            return frozenset(), frozenset()
        names = frozenset(published.system.profiles)
        return names, names if self._closed() else self.flow.unusable()

    def _closed(self) -> Sequence[str]:
        """List what pods mount, and the paths that they find there, that they could not read."""
        files, gates, published = self.flow.means.files, self.flow.gates, self.flow.published
        if published is None:
            return []
        laid = [gates.release(published.digest, name) for name in published.system.profiles]
        paths = (files.real(path) for path in published.system.paths)
        return self.selinux.closed([files.store_dir, *laid, *paths])

    async def status(self) -> Status:
        """Put the status document together."""
        report, tally = self.flow.report, self.flow.tally
        checks = await self.checks()
        return Status(
            node=self.loop.node.name,
            fleet=self.loop.node.fleet,
            channel=self.loop.node.channel,
            system=self.system,
            phase=report.phase,
            ready=readiness.is_ready(checks),
            wanted=report.wanted,
            published=self._published(),
            profiles=self._profiles(),
            progress=report.progress(tally.bytes_done, tally.paths_done, time.monotonic()),
            problem=report.problem,
            elsewhere=report.elsewhere,
            conflicts=report.conflicts,
            scrub=self.scrubbing.progress(),
            repairs=await self._repairs(),
            failed_checks=tuple(_failed(check) for check in checks if not check.ok),
        )

    async def collect(self, *, dry: bool, paths: bool) -> Collection:
        """Collect now, or only say what would become of each release, and of each path."""
        swept = Swept() if dry else await self.collecting.cycle()
        verdicts = await self.collecting.judge()
        return Collection(
            releases=tuple(
                ReleaseVerdict(release=one.digest, step=one.step, reason=one.reason)
                for one in verdicts
            ),
            paths_deleted=swept.paths,
            bytes_deleted=swept.bytes,
            paths=await asyncio.to_thread(self.collecting.explain, verdicts) if paths else {},
        )

    async def metrics(self) -> bytes:
        """Bring the gauges up to date and render."""
        metrics, report, tally = self.flow.metrics, self.flow.report, self.flow.tally
        checks = await self.checks()
        metrics.ready.set(readiness.is_ready(checks))
        for check in checks:
            metrics.check.labels(check.name).set(check.ok)
        metrics.phase(report.phase)
        metrics.last_scrub.set(self.flow.ledger.state.scrubbed_at or 0)
        left = self.scrubbing.left()
        metrics.scrub_paths_due.set(left.paths_total)
        metrics.scrub_bytes_due.set(left.bytes_total)
        pouring = report.progress(tally.bytes_done, tally.paths_done, time.monotonic())
        metrics.bytes_todo.set(pouring.bytes_total - pouring.bytes_done if pouring else 0)
        if report.wanted is not None:
            metrics.wanted(report.wanted.release, report.wanted.channel)
        return metrics.render()

    async def _repairs(self) -> tuple[Repair, ...]:
        repairs = await asyncio.to_thread(evidence.repaired_since_boot, self.flow.means.files)
        return tuple(
            [
                Repair(
                    path=one.note.path,
                    fault=one.note.fault,
                    at=at,
                    kept=str(one.place),
                    profiles=self._users(one.note.path),
                    restart=tuple(await self.collecting.bound_before(at)),
                )
                for one, at in repairs
            ]
        )

    def _users(self, path: str) -> tuple[str, ...]:
        """List the published profiles that need a path."""
        if self.flow.published is None:
            return ()
        system = self.flow.published.system
        return tuple(
            name
            for name, profile in system.profiles.items()
            if path in release.closure(system.paths, profile.root)
        )

    def _published(self) -> Target | None:
        held = self.flow.ledger.state.held
        if self.flow.published is None or held is None:
            return None
        return Target(release=held.release, channel=held.channel, serial=held.serial)

    def _profiles(self) -> dict[str, ProfileStatus]:
        if self.flow.published is None:
            return {}
        profiles, shut = self.flow.published.system.profiles, set(self.flow.shut())
        return {
            name: ProfileStatus(root=one.root, kind=one.kind, published=name not in shut)
            for name, one in profiles.items()
        }


def _failed(check: Check) -> FailedCheck:
    return FailedCheck(
        name=check.name,
        needed=check.needed,
        reason=check.reason or Reason.INTERNAL_ERROR,
        message=check.message,
    )
