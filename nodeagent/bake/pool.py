"""Feeds jobs to bake workers, one process per core, in the order given."""

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nodeagent import cores, process
from nodeagent.bake.jobs import Event, Failed, Job, Progress, read_event
from nodeagent.messages import encode

WORKER: Final = (sys.executable, "-m", "nodeagent.bake.worker")
OnEvent = Callable[[Job, Event], None]


@dataclass(frozen=True)
class Pool:
    """How jobs are done; a test puts its own program in the worker's place."""

    workers: int = field(default_factory=cores.usable)
    argv: Sequence[str] = WORKER

    async def run(self, directory: Path, jobs: Iterable[Job], on_event: OnEvent) -> None:
        """Do the jobs; each ends in one Packed or Failed, and a fatal failure ends the rest."""
        todo = deque(jobs)
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in range(min(self.workers, len(todo))):
                    tasks.create_task(self._work(directory, todo, on_event), name=f"bake-{number}")
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # one disk, one cause: the first tells it

    async def _work(self, directory: Path, todo: deque[Job], on_event: OnEvent) -> None:
        async with process.started([*self.argv, str(directory)], stderr=None) as child:
            while todo and child.returncode is None:
                await _do(child, todo, on_event)
            assert child.stdin is not None  # noqa: S101 `started` pipes it; for the type checker
            child.stdin.close()
            await child.wait()


async def _do(child: asyncio.subprocess.Process, todo: deque[Job], on_event: OnEvent) -> None:
    """Have one job done; a worker that dies over it ends them all."""
    assert child.stdin is not None  # noqa: S101 as above
    assert child.stdout is not None  # noqa: S101 as above
    job = todo.popleft()
    with contextlib.suppress(ConnectionError):
        child.stdin.write(encode(job))
        await child.stdin.drain()
    event: Event = Progress(0)
    while isinstance(event, Progress):
        if line := await child.stdout.readline():
            event = read_event(line)
        else:
            event = Failed(f"its worker died ({await child.wait()})", fatal=True)
        if isinstance(event, Failed) and event.fatal:
            todo.clear()
        on_event(job, event)
