"""What the endpoints show of the agent, looked up when they are asked."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from nodeagent import readiness
from nodeagent.agent.flow import Flow
from nodeagent.agent.loop import Loop
from nodeagent.agent.scrub import Scrubbing
from nodeagent.names import Reason
from nodeagent.readiness import Check, Evidence
from nodeagent.report import FailedCheck, ProfileStatus, Status, Target
from nodeagent.selinux import SELinux


@dataclass(frozen=True)
class AgentView:
    """Implements what `serve.health` asks for."""

    loop: Loop
    system: str
    scrubbing: Scrubbing
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
            failed_checks=tuple(_failed(check) for check in checks if not check.ok),
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
        pouring = report.progress(tally.bytes_done, tally.paths_done, time.monotonic())
        metrics.bytes_todo.set(pouring.bytes_total - pouring.bytes_done if pouring else 0)
        if report.wanted is not None:
            metrics.wanted(report.wanted.release, report.wanted.channel)
        return metrics.render()

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
