"""How far long work is: a bar where a terminal is attached, else a log line now and then."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from nodeagent import log

SAY_EVERY_SECONDS: Final = 5.0


class Tally(Protocol):
    """What work says of itself; bytes are what its rate is measured in."""

    paths: int
    paths_done: int
    bytes: int
    bytes_done: int


@contextlib.contextmanager
def shown(doing: str) -> Iterator[Callable[[Tally], None]]:
    """Give what shows a tally on stderr."""
    if sys.stderr.isatty():
        with _bar(doing) as show:
            yield show
    else:
        yield _Lines(doing).show


class _Lines:
    """The first, the last, and one every few seconds."""

    def __init__(self, doing: str) -> None:
        self.doing, self.last = doing, float("-inf")

    def show(self, tally: Tally) -> None:
        done, now = tally.paths_done == tally.paths, time.monotonic()
        if not done and now - self.last < SAY_EVERY_SECONDS:
            return
        self.last = now
        facts = {"paths": tally.paths, "paths_done": tally.paths_done}
        log.get().info(self.doing, **facts, bytes=tally.bytes, bytes_done=tally.bytes_done)


@contextlib.contextmanager
def _bar(doing: str) -> Iterator[Callable[[Tally], None]]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[paths]} paths"),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, paths="")

        def show(tally: Tally) -> None:
            paths = f"{tally.paths_done}/{tally.paths}"
            bar.update(task, total=tally.bytes, completed=tally.bytes_done, paths=paths)

        yield show
