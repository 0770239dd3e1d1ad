"""How fast a store is looked over: the walk that gates publishing."""

import time

from nodeagent.bench import closures
from nodeagent.bench.closures import TREES
from nodeagent.bench.figures import Figure, figure
from nodeagent.bench.room import Room
from nodeagent.nix import Nix, Registration
from nodeagent.store import StoreFiles
from nodeagent.verify import walk


async def verify(room: Room) -> list[Figure]:
    """Look over 64,000 files in memory."""
    store_root = room.memory / "store"
    root = await closures.make(store_root, TREES.scaled(room.scale))
    contents = await Nix(store_root).closure([root])
    walks = [_walk(StoreFiles(store_root), contents) for _ in range(room.runs)]
    return [figure("walk of 64,000 files, warm", walks, "s", 3)]


def _walk(files: StoreFiles, contents: list[Registration]) -> float:
    began = time.perf_counter()
    damaged = walk.damaged(files, {one.path: one.info for one in contents})
    assert not damaged, damaged  # noqa: S101 a figure of a wrong answer is none
    return time.perf_counter() - began
