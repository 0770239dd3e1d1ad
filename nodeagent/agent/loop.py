"""When passes run: on news, on the resync, after a failure; the newest pins win.

Level-triggered: each turn selects anew from the pins as they are now. A pass for a record that
is no longer the selected one is cancelled; what it finished, the next one finds.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace

from structlog.typing import FilteringBoundLogger

from nodeagent import names, select, source
from nodeagent.agent.flow import Flow
from nodeagent.config import AgentSettings
from nodeagent.errors import NodeAgentError, first
from nodeagent.ledger import Held
from nodeagent.names import Phase, Reason
from nodeagent.report import Target
from nodeagent.select import Node, Refusal, Wanted

Labels = Callable[[], Awaitable[Mapping[str, str] | None]]


class Loop:
    """Runs passes, one at a time; `labels` asks for the node's, None if they are not known."""

    def __init__(
        self, settings: AgentSettings, node: Node, flow: Flow, logger: FilteringBoundLogger
    ) -> None:
        self.settings, self.node, self.flow, self.logger = settings, node, flow, logger
        self.labels: Labels | None = None
        self._news = asyncio.Event()
        self._failures = 0

    def wake(self) -> None:
        """Look again now: something outside changed."""
        self._news.set()

    async def forever(self) -> None:
        """Pass after pass, until cancelled."""
        while True:
            self._news.clear()
            await self.turn()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.pause()):
                    await self._news.wait()

    async def once(self) -> bool:
        """One turn; tell whether what the pins select is published now."""
        await self.turn()
        return self.flow.report.problem is None

    async def turn(self) -> None:
        """Select, and bring what is selected or, if nothing is, look after what is held."""
        report = self.flow.report
        wanted = await self._locate() or self._select()
        held = self.flow.ledger.state.held
        if isinstance(wanted, Wanted):
            target, size = _held(wanted), wanted.record.release_size
            report.wanted = _target(target)
        elif held is not None:
            target, size = held, 0
        else:  # nobody wakes us when the API server is back
            away = wanted.reason is Reason.API_UNREACHABLE
            self._failures = self._failures + 1 if away else 0
            report.enter(Phase.WAITING)
            return
        result = await self._pass(self._bring(wanted, target, size), target)
        if result == "published" and isinstance(wanted, Wanted):
            report.problem = None
        self._failures = self._failures + 1 if result == "failed" else 0
        report.enter(Phase.RETRYING if result == "failed" else Phase.IDLE)

    async def _locate(self) -> Refusal | None:
        """Find out the node's channel: by its label, or the one it had, before any default."""
        if self.labels is None:
            return None
        labels, held = await self.labels(), self.flow.ledger.state.held
        if labels is not None:
            channel = labels.get(names.LABEL_CHANNEL) or self.settings.channel
        elif held is not None:
            channel = held.channel
        else:
            message = "this node's channel is not known: the API server gives no answer"
            self.flow.report.fail(Reason.API_UNREACHABLE, message)
            return Refusal(Reason.API_UNREACHABLE, message)
        self.node = replace(self.node, channel=channel)
        return None

    def _select(self) -> Wanted | Refusal:
        """Choose from the pins as they are now; a refusal is reported, not raised."""
        accepted = self.flow.ledger.accepted(self.node.channel, self.settings.min_serial)
        try:
            pins = source.read_pins(self.settings.pins)
            wanted = select.choose(pins, self.node, accepted, self.flow.report.clock())
        except NodeAgentError as error:
            wanted = Refusal(error.reason, error.message)
        if isinstance(wanted, Refusal):
            self.flow.report.fail(wanted.reason, wanted.message)
        return wanted

    async def _bring(self, wanted: Wanted | Refusal, target: Held, size: int) -> None:
        if isinstance(wanted, Wanted):
            self.flow.ledger.accept(wanted)
        await self.flow.bring(target, size)

    async def _pass(self, work: Coroutine[None, None, None], target: Held) -> str:
        """Run one pass; give `published`, `failed` or `preempted`."""
        started = time.monotonic()
        task = asyncio.create_task(work, name=f"pass-{target.serial}")
        try:
            result = await self._until_done_or_newer(task, target)
        finally:
            task.cancel()
            await asyncio.wait([task])
        seconds = time.monotonic() - started
        self.flow.metrics.passed(result)
        self.flow.metrics.pass_seconds.observe(seconds)
        if result == "published":
            self.flow.metrics.last_success.set(self.flow.report.clock().timestamp())
        again = result == "failed" and self._failures  # the first says it; the metric counts on
        if not again and (result != "published" or self.flow.tally.paths_done):
            self._say(result, target, seconds)
        return result

    async def _until_done_or_newer(self, task: asyncio.Task[None], target: Held) -> str:
        while True:
            news = asyncio.create_task(self._news.wait(), name="news")
            try:
                await asyncio.wait([task, news], return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
            if task.done():
                return self._result(task)
            self._news.clear()
            newer = self._select()
            if isinstance(newer, Wanted) and _held(newer) != target:
                self._news.set()
                return "preempted"

    def _result(self, task: asyncio.Task[None]) -> str:
        try:
            task.result()
        except NodeAgentError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 a bug in a pass must not close the endpoints
            failure = self._expected(error)
        else:
            return "published"
        self.flow.report.fail(failure.reason, failure.message)
        return "failed"

    def _expected(self, error: Exception) -> NodeAgentError:
        """Give the failure inside a task group; anything else is a bug, told with its trace."""
        failure = first(error)
        if failure is None:
            self.logger.error("bug", exc_info=error)
            failure = NodeAgentError(Reason.INTERNAL_ERROR, f"{error!r}; please report the log")
        return failure

    def _say(self, result: str, target: Held, seconds: float) -> None:
        tally = self.flow.tally
        self.logger.info(
            "pass",
            result=result,
            release=target.release,
            serial=target.serial,
            seconds=round(seconds, 2),
            paths=tally.paths_done,
            fetched=tally.paths_fetched,
            bytes=tally.bytes_done,
        )
        self.flow.tally = type(tally)()

    def pause(self) -> float:
        """Seconds until the next turn: the resync, or sooner after failures, doubling."""
        if not self._failures:
            return self.settings.resync_seconds
        wait = self.settings.retry_seconds * 2.0 ** min(self._failures - 1, 16)
        return min(wait, self.settings.retry_max_seconds)


def _held(wanted: Wanted) -> Held:
    record = wanted.record
    return Held(
        channel=record.channel, serial=record.serial, release=record.release, caches=wanted.caches
    )


def _target(held: Held) -> Target:
    return Target(release=held.release, channel=held.channel, serial=held.serial)
