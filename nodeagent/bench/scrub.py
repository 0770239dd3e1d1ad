"""What the scrub costs: a core that hashes unthrottled, and a reader beside it."""

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from nodeagent.bench import closures
from nodeagent.bench.closures import BIG, TREES
from nodeagent.bench.figures import Figure, figure, ratio
from nodeagent.bench.room import Room
from nodeagent.config import AgentSettings
from nodeagent.nix import Nix, Registration
from nodeagent.store import StoreFiles
from nodeagent.verify.scrub import Fault, Scrub

MEGABYTES: Final = 400
PASSES: Final = 9
CHUNK: Final = 256 * 1024
DEFAULT_RATE: Final = AgentSettings.model_fields["scrub_bytes_per_second"].default


async def scrub(room: Room) -> list[Figure]:
    """Hash 64,000 files in memory; then read a gigabyte from a disk, alone and beside a scrub."""
    trees = await _store(room.memory / "store", TREES.scaled(room.scale))
    scrubs = [await _unthrottled(*trees) for _ in range(room.runs)]
    read = await _store(room.disk / "read", BIG.scaled(room.scale))
    scrubbed = await _store(room.disk / "scrubbed", BIG.scaled(room.scale))
    files = [file for file in read[0].store_dir.rglob("*") if file.is_file()]
    os.sync()
    alone, beside = [], []
    for _ in range(room.runs):
        alone.append(await asyncio.to_thread(_reader, files))
        async with _scrubbing(*scrubbed):
            beside.append(await asyncio.to_thread(_reader, files))
    return [
        figure(f"scrub, CPU for each {MEGABYTES} MB", scrubs, "s", 1),
        figure("reader of a disk, cold, alone", alone, "s"),
        ratio("reader beside a scrub at the default rate / alone", beside, alone, 1.05),
    ]


async def _store(root: Path, shape: closures.Shape) -> tuple[StoreFiles, list[Registration]]:
    top = await closures.make(root, shape)
    return StoreFiles(root), await Nix(root).closure([top])


async def _whole(one: Registration, fault: Fault | None) -> None:
    assert fault is None, one.path  # noqa: S101 a figure of a wrong answer is none


async def _unthrottled(files: StoreFiles, contents: list[Registration]) -> float:
    """Give the CPU seconds that `MEGABYTES` cost, start of the workers included."""
    one = Scrub(files, len(os.sched_getaffinity(0)), _whole, asyncio.Lock())
    before = _cpu_of_children()
    await one.run(contents)
    return (_cpu_of_children() - before) * MEGABYTES * 1e6 / one.tally.bytes_done


@contextlib.asynccontextmanager
async def _scrubbing(files: StoreFiles, contents: list[Registration]) -> AsyncIterator[None]:
    """Scrub at the default rate, over and over, all the while."""
    for one in files.store_dir.rglob("*"):
        if one.is_file():
            _forget(one)

    async def forever() -> None:
        while True:
            await Scrub(files, 1, _whole, asyncio.Lock(), DEFAULT_RATE).run(contents)

    task = asyncio.create_task(forever())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _reader(files: list[Path]) -> float:
    """Give the seconds that it takes to read the files from the disk: the median of some passes."""
    return statistics.median(_pass(files) for _ in range(PASSES))


def _pass(files: list[Path]) -> float:
    for file in files:
        _forget(file)
    began = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as data:
            while data.read(CHUNK):
                pass
    return time.perf_counter() - began


def _forget(file: Path) -> None:
    """Have the kernel drop what it holds of a file."""
    fd = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system
