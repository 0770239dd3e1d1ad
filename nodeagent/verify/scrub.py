"""The scrub: hash contents that were poured long ago and compare them with their registration.

Workers hash, here results are judged. It may be cancelled anywhere; who remembers what was
found whole need not hash it again.
"""

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from nodeagent import process
from nodeagent.messages import encode
from nodeagent.nix import Registration
from nodeagent.store import StoreFiles
from nodeagent.verify.worker import Hashed, Job, Misshapen, Progress, Unreadable, read_event

WORKER: Final = (sys.executable, "-m", "nodeagent.verify.worker")


@dataclass(frozen=True)
class Fault:
    """What is wrong with a path; `of_contents` if bytes or names are, and not a mode alone."""

    text: str
    of_contents: bool = True


Judge = Callable[[Registration, Fault | None], Awaitable[None]]


@dataclass
class Tally:
    """How far a scrub is; bytes are of NARs."""

    bytes_done: int = 0
    bytes_total: int = 0
    paths_done: int = 0
    paths_total: int = 0
    damaged: int = 0


@dataclass
class Scrub:
    """One scrub: `judge` hears each path with its fault, or None if it is whole.

    A path that was exchanged while it was read is read again.

    `bytes_per_second` is for all workers together; None is full speed. Between two paths a worker
    waits while somebody holds `pause`.
    """

    files: StoreFiles
    workers: int
    judge: Judge
    pause: asyncio.Lock
    bytes_per_second: float | None = None
    worker: Sequence[str] = WORKER
    tally: Tally = field(default_factory=Tally)
    _todo: deque[Registration] = field(default_factory=deque)
    _unread: list[str] = field(default_factory=list)

    async def run(self, contents: Iterable[Registration]) -> Sequence[str]:
        """Hash all contents in this order; give the paths whose worker died over them."""
        self._todo = deque(contents)
        self.tally.paths_total = self.tally.paths_done + len(self._todo)
        todo = sum(one.info.nar_size for one in self._todo)
        self.tally.bytes_total = self.tally.bytes_done + todo
        async with asyncio.TaskGroup() as pool:
            for number in range(min(self.workers, len(self._todo))):
                pool.create_task(self._work(), name=f"scrub-{number}")
        return self._unread

    async def _work(self) -> None:
        """Feed one worker until nothing is left; one that dies is replaced."""
        while self._todo:
            async with process.started(self.worker, stderr=None) as child:
                while self._todo:
                    async with self.pause:
                        pass
                    if self._todo and not await self._one(child, self._todo.popleft()):
                        break

    async def _one(self, child: asyncio.subprocess.Process, content: Registration) -> bool:
        """Hash one path; False if the worker is gone."""
        assert child.stdin is not None  # noqa: S101 `started` pipes it; for the type checker
        assert child.stdout is not None  # noqa: S101 as above
        share = self.bytes_per_second and self.bytes_per_second / self.workers
        tree = self.files.displaced_as(content.path)
        with contextlib.suppress(ConnectionError):
            child.stdin.write(encode(Job(str(self.files.real(content.path)), share)))
            await child.stdin.drain()
        size, done = content.info.nar_size, 0
        while line := await child.stdout.readline():
            match read_event(line):
                case Progress(count):
                    count = min(count, size - done)  # a damaged tree may be larger
                    done += count
                    self.tally.bytes_done += count
                case result:
                    fault = _fault(content, result)
                    if fault is not None and self.files.displaced_as(content.path) != tree:
                        self.tally.bytes_done -= done
                        self._todo.append(content)
                    else:
                        self.tally.bytes_done += size - done
                        await self._finish(content, fault)
                    return True
        self.tally.bytes_done -= done
        self._unread.append(content.path)
        return False

    async def _finish(self, content: Registration, fault: Fault | None) -> None:
        self.tally.paths_done += 1
        self.tally.damaged += fault is not None
        await self.judge(content, fault)


def _fault(content: Registration, result: Hashed | Unreadable | Misshapen) -> Fault | None:
    info = content.info
    match result:
        case Misshapen(fault):
            return Fault(fault, of_contents=False)
        case Unreadable(fault):
            return Fault(fault)
    if result.nar_size != info.nar_size:
        return Fault(f"its NAR has {result.nar_size:,} bytes instead of {info.nar_size:,}")
    if result.nar_hash != info.nar_hash:
        return Fault(f"its contents hash to {result.nar_hash} instead of {info.nar_hash}")
    return None
