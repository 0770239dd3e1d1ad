"""Announce: make the cluster see what the node can offer.

Condition and NodeStore follow the truth, labels are sticky; order matters when something is lost:
gates were shut before (by the flow), then comes the condition, the label last. Everything is
compared with what was written and written only on change, or when the heartbeat is due.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from nodeagent import kube, readiness
from nodeagent.agent.patience import Patience
from nodeagent.agent.view import AgentView
from nodeagent.errors import NodeAgentError
from nodeagent.kube import Event, RefusedError, Seen
from nodeagent.metrics import Metrics
from nodeagent.names import SETTLED, Phase
from nodeagent.readiness import Condition
from nodeagent.report import Problem, Status, Target, utc_now

HEARTBEAT: Final = timedelta(minutes=5)
REWORD: Final = timedelta(minutes=1)  # how soon a condition that only reads otherwise is written
WORKING: Final = timedelta(seconds=15)  # between two reports of one piece of work
BRIEF: Final = timedelta(seconds=2)  # what takes no longer is not reported as work
GATHER_SECONDS: Final = 0.1
_NEVER: Final = timedelta(days=365)


@dataclass
class Announcer:
    """Keeps Node and NodeStore as the agent is; `wake` says that there may be news."""

    node: kube.Node
    store: kube.NodeStore
    events: kube.Events
    view: AgentView
    metrics: Metrics
    logger: FilteringBoundLogger
    clock: Callable[[], datetime] = utc_now
    startup_taint: bool = False
    _seen: Seen | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _untold: deque[Event] = field(default_factory=lambda: deque(maxlen=20))
    _published: Target | None = None
    _told: Mapping[str, Any] | None = None
    _told_at: float | None = None
    _sure: bool = False  # that the Node is as we know it
    _owned: bool = False  # that the NodeStore is, and that it is this Node's
    _busy_since: float | None = None
    _server: Patience = field(default_factory=Patience)
    _table: Patience = field(default_factory=Patience)  # with NodeStores alone

    def wake(self) -> None:
        """Look soon: something changed."""
        self._news.set()

    def hear(self, problem: Problem) -> None:
        """Take a problem as news for the Node's events."""
        self._untold.append(Event("Warning", problem.reason, problem.message))
        self.wake()

    async def labels(self) -> Mapping[str, str] | None:
        """Read the Node's labels; None if they were never seen and cannot be read now.

        What others changed of the Node is mended at once, not at the next heartbeat.
        """
        before = self._seen
        try:
            seen = await self.node.look()
        except NodeAgentError as error:
            self._note(error, self._server)
            return None if self._seen is None else self._seen.labels
        if self._seen is before:  # else we wrote meanwhile, and may have looked before that
            self._learn(seen)
            if before is not None and _ours(seen) != _ours(before):
                self.wake()
        return seen.labels

    async def forever(self) -> None:
        """Announce whatever is new, until cancelled."""
        self._published = (await self.view.status()).published
        while True:
            self._news.clear()
            answers = self.node.api.answers
            try:
                due = await self._announce()
                if self.node.api.answers != answers:  # else nothing had to be asked
                    self._server.succeed()
            except NodeAgentError as error:
                self._note(error, self._server)
                self._server.fail(error)
                self._sure = self._owned = False
                due = timedelta()
                await asyncio.sleep(self._server.left)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(due.total_seconds()):
                    await self._news.wait()
            await asyncio.sleep(GATHER_SECONDS)  # one change seldom comes alone

    async def _announce(self) -> timedelta:
        """Write what differs from what was written; give the time until the next look."""
        seen = self._seen
        if seen is None or not self._sure or self._age(seen) >= HEARTBEAT:
            seen = await self._look_anew()
        status, checks = await self.view.status(), await self.view.checks()
        condition = readiness.condition(checks, _name(status.published))
        due = min(
            await self._tell_conditions(seen, condition, readiness.suspicion(checks)),
            await self._keep_store(seen, status, condition),
        )
        await self._label(seen, status, condition)
        if self.startup_taint and condition.ready and seen.is_tainted:
            await self.node.untaint(await self._look())
            await self._look()
        await self._tell_events(seen, status)
        return due

    async def _look(self) -> Seen:
        seen = await self.node.look()
        self._learn(seen)
        return seen

    def _learn(self, seen: Seen) -> None:
        """Take note of the Node as it is; one that registered anew has another NodeStore."""
        if self._seen is not None and self._seen.uid != seen.uid:
            self._sure = self._owned = False
        self._seen = seen

    async def _look_anew(self) -> Seen:
        """Find out what others changed, and, unless we are sure, whether a policy guards us."""
        seen = await self._look()
        if not self._sure:
            self.view.guard(enforced=await self.node.is_guarded())
        self._sure, self._owned = True, False
        return seen

    def _age(self, seen: Seen) -> timedelta:
        """Say how old the last heartbeat is; one from the future was told by a wrong clock."""
        return abs(self.clock() - seen.told)

    async def _tell_conditions(
        self, seen: Seen, condition: Condition, disk: Condition | None
    ) -> timedelta:
        now, old, age = self.clock(), seen.condition, self._age(seen)
        patience = min(_patience(old, condition), _patience(seen.disk, disk))
        if age < patience:
            return patience - age
        since = seen.since if old and old.ready == condition.ready and seen.since else now
        disk_since = (seen.disk and seen.disk_since) or now
        await self.node.tell(condition, since, now, disk, disk_since)
        self._seen = replace(
            seen, condition=condition, since=since, told=now, disk=disk, disk_since=disk_since
        )
        if old is None or old.ready != condition.ready:
            self.logger.info("condition", ready=condition.ready, reason=condition.reason)
        return HEARTBEAT

    async def _keep_store(self, seen: Seen, status: Status, condition: Condition) -> timedelta:
        """Tell the NodeStore.

        Where it is refused, as its CRD is missing or older, the Node is told all the same.
        """
        if self._table.left > 0:
            return timedelta(seconds=self._table.left)
        try:
            if not self._owned:
                await self._own_store(seen)
            due = await self._tell_store(status, condition)
        except NodeAgentError as error:
            if not isinstance(error, RefusedError) or error.status == 401:
                raise
            self._note(error, self._table)
            self._table.fail(error)
            self._owned = False
            return timedelta(seconds=self._table.left)
        self._table.succeed()
        return due

    async def _own_store(self, seen: Seen) -> None:
        """Find out what the NodeStore says; make it if there is none of this Node."""
        self._told = await self.store.look(seen.uid)
        if self._told is None:
            await self.store.own(seen.uid)
        self._owned = True

    async def _tell_store(self, status: Status, condition: Condition) -> timedelta:
        now, told = asyncio.get_running_loop().time(), kube.describe(status, condition)
        works = status.phase not in SETTLED
        if not works or self._busy_since is None:
            self._busy_since = now if works else None
        again = WORKING if works else HEARTBEAT
        if told == self._told:
            return again
        if self._busy_since is not None and _essence(told) == _essence(self._told or {}):
            at = self._busy_since + BRIEF.total_seconds()
            if self._told_at is not None:
                at = max(at, self._told_at + WORKING.total_seconds())
            if now < at:
                return timedelta(seconds=at - now)
        await self.store.tell(dict(told), self.clock())
        self._told, self._told_at = told, now
        return again

    async def _label(self, seen: Seen, status: Status, condition: Condition) -> None:
        seen = self._seen or seen
        published, lost = await asyncio.to_thread(self.view.profiles)
        wanted = readiness.labels(seen.ours, published, lost, removable=False)
        without = readiness.labels(seen.ours, published, lost, removable=True)
        # What was lost since the condition was judged has to wait for the next one.
        unmended = status.phase is Phase.RETRYING and not condition.ready
        if wanted != without and unmended and not await self.node.in_use():
            wanted = without
        if wanted != seen.ours:
            await self.node.label(wanted)
            others = {key: value for key, value in seen.labels.items() if key not in seen.ours}
            self._seen = replace(seen, labels=others | dict.fromkeys(wanted, "true"))
            self.logger.info("labels", labels=sorted(wanted))

    async def _tell_events(self, seen: Seen, status: Status) -> None:
        if status.published not in {None, self._published}:
            self._published = status.published
            names = ", ".join(sorted(status.profiles)) or "none"
            news = f"{_name(status.published)} is published (profiles: {names})"
            self._untold.append(Event("Normal", readiness.PUBLISHED, news))
        while self._untold:
            await self.events.tell(self._untold[0], seen.uid)
            self._untold.popleft()

    def _note(self, error: NodeAgentError, patience: Patience) -> None:
        """Log trouble with the API server once, however often it comes."""
        self.metrics.refused(error.reason)
        if patience.is_news(error):
            self.logger.warning(error.message, reason=error.reason)


def _ours(seen: Seen) -> tuple[object, ...]:
    """Give what of a Node is ours to keep."""
    return seen.uid, seen.ours, seen.condition, seen.disk, seen.is_tainted


def _patience(old: Condition | None, new: Condition | None) -> timedelta:
    """Say how long ago the last write must be for another one."""
    if old == new:
        return HEARTBEAT
    if old is None or new is None or (old.ready, old.reason) != (new.ready, new.reason):
        return -_NEVER
    return REWORD


def _essence(told: Mapping[str, Any]) -> list[Any]:
    """Give what readers act on, apart from how far the work is."""
    return [told.get(key) for key in ("ready", "channel", "wanted", "published", "profiles")]


def _name(target: Target | None) -> str:
    if target is None:
        return "nothing"
    return f"release {target.release}, serial {target.serial} of channel {target.channel},"
