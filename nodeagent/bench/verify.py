"""How fast a store is looked over: the walk that gates publishing, and the scrub of contents."""

import asyncio
import os
import time

from nodeagent.bench import closures
from nodeagent.bench.closures import TREES
from nodeagent.bench.figures import Figure, figure
from nodeagent.bench.room import Room
from nodeagent.nix import Nix, Registration
from nodeagent.store import StoreFiles
from nodeagent.verify import walk
from nodeagent.verify.scrub import Scrub

MEGABYTES = 400


async def verify(room: Room) -> list[Figure]:
    """Look over 64,000 files in memory."""
    store_root = room.memory / "store"
    root = await closures.make(store_root, TREES.scaled(room.scale))
    contents = await Nix(store_root).closure([root])
    walks = [_walk(StoreFiles(store_root), contents) for _ in range(room.runs)]
    scrubs = [await _scrub(StoreFiles(store_root), contents) for _ in range(room.runs)]
    return [
        figure("walk of 64,000 files, warm", walks, "s", 3),
        figure(f"scrub, CPU for each {MEGABYTES} MB", scrubs, "s", 1),
    ]


def _walk(files: StoreFiles, contents: list[Registration]) -> float:
    began = time.perf_counter()
    damaged = walk.damaged(files, {one.path: one.info for one in contents})
    assert not damaged, damaged  # noqa: S101 a figure of a wrong answer is none
    return time.perf_counter() - began


async def _scrub(files: StoreFiles, contents: list[Registration]) -> float:
    """Give the CPU seconds that `MEGABYTES` cost, start of the workers included."""

    def judge(one: Registration, fault: str | None) -> None:
        assert fault is None, one.path  # noqa: S101 as above

    scrub = Scrub(files, len(os.sched_getaffinity(0)), judge, asyncio.Lock())
    before = _cpu_of_children()
    await scrub.run(contents)
    return (_cpu_of_children() - before) * MEGABYTES * 1e6 / scrub.tally.bytes_done


def _cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system
