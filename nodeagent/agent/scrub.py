"""The scrub of contents: when which are read, and what becomes of the findings.

After an unclean boot all are owed, at full speed and beside the passes; else they are read again
within a period, a few at a time. Passes that pour have precedence. A damaged path shuts gates
first, then wakes the loop.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from structlog.typing import FilteringBoundLogger

from nodeagent import readiness
from nodeagent.agent.flow import Flow
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.nix import Registration
from nodeagent.report import ScrubProgress
from nodeagent.verify import schedule
from nodeagent.verify.memory import Memory
from nodeagent.verify.schedule import Content, Sitting
from nodeagent.verify.scrub import WORKER, Fault, Scrub, Tally

RETRY_SECONDS: Final = 60.0
MEMORY: Final = "scrub.txt"


@dataclass(frozen=True)
class Pace:
    """How often all contents are read (seconds; 0: never), and how fast while one is read."""

    period: float = 0.0
    bytes_per_second: float | None = None


@dataclass
class Scrubbing:
    """One agent's scrub; `wake` makes the loop look again."""

    flow: Flow
    wake: Callable[[], None]
    logger: FilteringBoundLogger
    pace: Pace = field(default_factory=Pace)
    worker: Sequence[str] = WORKER
    due: bool = False
    _owed: Scrub | None = None
    _running: Scrub | None = None

    @contextlib.contextmanager
    def owed(self) -> Iterator[None]:
        """Find out whether a scrub is owed; mark the end of the agent, if it is in order."""
        self.memory = Memory(self.flow.ledger.directory / MEMORY)
        self.due = self.flow.ledger.begin(self.flow.boot_id)
        try:
            yield
        finally:
            self.flow.ledger.end(self.flow.boot_id)

    async def run(self) -> None:
        """Scrub what is owed until it is done; then read again whatever its time has come for."""
        while self.due:
            if await self._attempt(self._through()) is None:
                await asyncio.sleep(RETRY_SECONDS)
        while self.pace.period:
            wait = await self._attempt(self._sit())
            again = max(RETRY_SECONDS, self.pace.period / schedule.SITTINGS)
            await asyncio.sleep(again if wait is None else wait)

    def progress(self) -> ScrubProgress | None:
        """Say how far it is, or how it ended; None if none was owed."""
        if self._owed is None:
            return None
        now = self._owed.tally
        return ScrubProgress(
            running=self.due,
            bytes_done=now.bytes_done,
            bytes_total=now.bytes_total,
            paths_done=now.paths_done,
            paths_total=now.paths_total,
            damaged=now.damaged,
        )

    def left(self) -> Tally:
        """Say what is being read now and still has to be; `bytes_total` and `paths_total` are."""
        now = self._running.tally if self._running else Tally()
        return Tally(
            bytes_total=now.bytes_total - now.bytes_done,
            paths_total=now.paths_total - now.paths_done,
        )

    async def _attempt(self, work: Coroutine[None, None, float]) -> float | None:
        """Do some work; None if it failed, which is told."""
        try:
            return await work
        except NodeAgentError as error:
            self.flow.report.fail(error.reason, error.message)
            return None
        finally:
            self._running = None

    async def _through(self) -> float:
        """Read all that the database calls valid and that was not read since the boot."""
        flow, began = self.flow, time.monotonic()
        self.memory.owe(flow.boot_id, self._now())
        contents = await asyncio.to_thread(self._unread)
        self._owed = scrub = self._scrub(flow.means.workers, None)
        self.logger.info("scrub begins", reason="unclean boot", paths=len(contents))
        await self._read(scrub, contents)
        self.logger.info(
            "scrub",
            paths=scrub.tally.paths_done,
            bytes=scrub.tally.bytes_done,
            damaged=scrub.tally.damaged,
            seconds=round(time.monotonic() - began, 2),
        )
        self._end_round()
        self.due = False
        return 0.0

    async def _sit(self) -> float:
        """Read what is due, and give the seconds until there may be more."""
        memory, now = self.memory, self.flow.report.clock().timestamp()
        contents = await asyncio.to_thread(self._known)
        todo = schedule.sitting(contents, now, memory.rests, self.pace.period)
        self._show(contents, todo)
        if todo.rests != memory.rests:
            memory.rest(todo.rests)
        if todo.paths:
            registered = await asyncio.to_thread(self.flow.means.nix.registered, todo.paths)
            await self._read(self._scrub(1, self.pace.bytes_per_second), registered)
            contents = await asyncio.to_thread(self._known)
        oldest = min((one.at for one in contents), default=None)
        if memory.round is None:
            memory.begin_round(int(now))
        elif oldest is not None and oldest > memory.round:
            self._end_round()
        return max(0.0, todo.wake - self.flow.report.clock().timestamp())

    def _scrub(self, workers: int, bytes_per_second: float | None) -> Scrub:
        flow = self.flow
        self._running = scrub = Scrub(
            flow.means.files, workers, self._judge, flow.pours, bytes_per_second, self.worker
        )
        return scrub

    async def _read(self, scrub: Scrub, contents: Sequence[Registration]) -> None:
        unread = await scrub.run(contents)
        if unread:
            raise NodeAgentError(
                Reason.WORKER_DIED,
                f"the workers that hashed {unread[0]} (of {len(unread)} paths) died; look at the "
                "kernel's log",
            )

    def _end_round(self) -> None:
        now = self._now()
        self.flow.ledger.scrubbed(self.flow.boot_id, now)
        self.memory.begin_round(now)

    def _unread(self) -> list[Registration]:
        """List what to read, what is published first: a later rollback must find whole paths."""
        flow = self.flow
        on_disk = flow.means.files.on_disk() - flow.hashed - flow.damaged.keys()
        unread = [path for path in on_disk if self.memory.is_owed(path)]
        return flow.means.nix.registered(
            sorted(unread, key=lambda path: (self._unpublished(path), path))
        )

    def _known(self) -> list[Content]:
        """List all contents that are not known to be damaged; those that are new count as whole.

        They were verified when they came, or are read within a period like all others.
        """
        memory, now = self.memory, self._now()
        on_disk = self.flow.means.files.on_disk() - self.flow.damaged.keys()
        memory.tidy(on_disk)
        known = {path: memory.get(path) for path in on_disk}
        new = [path for path, read in known.items() if read is None or read.at > now]
        memory.note(self.flow.means.nix.registered(new), now)
        return [
            Content(read.at, self._unpublished(path), path, read.size)
            for path in on_disk
            if (read := memory.get(path)) is not None
        ]

    def _unpublished(self, path: str) -> bool:
        return self.flow.published is None or path not in self.flow.published.system.paths

    async def _judge(self, content: Registration, fault: Fault | None) -> None:
        flow, path = self.flow, content.path
        flow.metrics.bytes_scrubbed.inc(content.info.nar_size)
        if fault is None:
            flow.hashed.add(path)
            self.memory.note([content], self._now())
            return
        if not await asyncio.to_thread(flow.means.nix.registered, [path]):
            return  # it was collected while it was read
        flow.metrics.scrub_damaged.inc()
        flow.condemn(path, fault.text)
        if fault.of_contents:
            self._suspect(path)
        self.wake()

    def _suspect(self, path: str) -> None:
        """Hold a path's damage against the disk; tell when it is too much."""
        ledger, now = self.flow.ledger, self._now()
        ledger.spoil(path, now)
        disk = readiness.disk(readiness.of_late(ledger.state.spoilt, now))
        if disk.reason is not None:
            self.flow.report.tell(disk.reason, disk.message)

    def _show(self, contents: Sequence[Content], todo: Sitting) -> None:
        self.flow.metrics.scrub_rate.set(todo.rate)
        self.flow.metrics.scrub_oldest.set(min((one.at for one in contents), default=0))

    def _now(self) -> int:
        return int(self.flow.report.clock().timestamp())
