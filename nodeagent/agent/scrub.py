"""The scrub of contents after an unclean boot: when it is owed, and what becomes of its findings.

It runs beside the passes, right after what was held is published: passes that pour have
precedence, all else does not hold it up. A damaged path shuts gates first, then wakes the loop.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from structlog.typing import FilteringBoundLogger

from nodeagent.agent.flow import Flow
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.nix import Registration
from nodeagent.report import ScrubProgress
from nodeagent.verify.scrub import WORKER, Scrub

RETRY_SECONDS: Final = 60.0


@dataclass
class Scrubbing:
    """One agent's scrub; `wake` makes the loop look again."""

    flow: Flow
    wake: Callable[[], None]
    logger: FilteringBoundLogger
    worker: Sequence[str] = WORKER
    due: bool = False
    _scrub: Scrub | None = None

    @contextlib.contextmanager
    def owed(self) -> Iterator[None]:
        """Find out whether a scrub is owed; mark the end of the agent, if it is in order."""
        self.due = self.flow.ledger.begin(self.flow.boot_id)
        try:
            yield
        finally:
            self.flow.ledger.end(self.flow.boot_id)

    async def run(self) -> None:
        """Scrub if it is owed, until it is done."""
        while self.due:
            try:
                await self._through()
                self.due = False
            except NodeAgentError as error:
                self.flow.report.fail(error.reason, error.message)
                await asyncio.sleep(RETRY_SECONDS)

    def progress(self) -> ScrubProgress | None:
        """Say how far it is, or how it ended; None if none was owed."""
        if self._scrub is None:
            return None
        now = self._scrub.tally
        return ScrubProgress(
            running=self.due,
            bytes_done=now.bytes_done,
            bytes_total=now.bytes_total,
            paths_done=now.paths_done,
            paths_total=now.paths_total,
            damaged=now.damaged,
        )

    async def _through(self) -> None:
        """Read all that the database calls valid and this run has not read yet."""
        flow, began = self.flow, time.monotonic()
        contents = await asyncio.to_thread(self._contents)
        scrub = Scrub(flow.means.files, flow.means.workers, self._judge, flow.pours)
        scrub.worker = self.worker
        self._scrub = scrub
        self.logger.info("scrub begins", reason="unclean boot", paths=len(contents))
        unread = await scrub.run(contents)
        self.logger.info(
            "scrub",
            paths=scrub.tally.paths_done,
            bytes=scrub.tally.bytes_done,
            damaged=scrub.tally.damaged,
            seconds=round(time.monotonic() - began, 2),
        )
        if unread:
            raise NodeAgentError(
                Reason.WORKER_DIED,
                f"the workers that hashed {unread[0]} (of {len(unread)} paths) died; look at the "
                "kernel's log",
            )
        flow.ledger.scrubbed(flow.boot_id, int(flow.report.clock().timestamp()))

    def _contents(self) -> list[Registration]:
        """List what to read, what is published first: a later rollback must find whole paths."""
        flow = self.flow
        published = flow.published.system.paths if flow.published else {}
        on_disk = flow.means.files.on_disk() - flow.hashed - flow.damaged.keys()
        return flow.means.nix.registered(sorted(on_disk, key=lambda path: path not in published))

    def _judge(self, content: Registration, fault: str | None) -> None:
        flow, path = self.flow, content.path
        flow.metrics.bytes_scrubbed.inc(content.info.nar_size)
        if fault is None or path in flow.hashed:  # or fetched anew while it was read
            flow.hashed.add(path)
            return
        flow.metrics.scrub_damaged.inc()
        flow.condemn(path, fault)
        self.wake()
