"""How fast a collection knows what may go, and how fast that goes.

Run as `python -m nodeagent.bench.collect ROOT` it plans once: a process of its own tells its RSS.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from nodeagent import collect as collecting
from nodeagent import process, release, retention, roots, storepath
from nodeagent.bench import closures
from nodeagent.bench.closures import TREES, Shape
from nodeagent.bench.figures import Figure, figure
from nodeagent.bench.lab import TIMEOUT_SECONDS, clear
from nodeagent.bench.room import Room
from nodeagent.config import this_system
from nodeagent.ledger import Held, Ledger
from nodeagent.nix import Nix, Registration
from nodeagent.release import PathInfo, Profile, Release, System, digest12
from nodeagent.retention import Answer, Container, Generation, Step
from nodeagent.store import StoreFiles

RELEASES: Final = 20
PATHS: Final = 2500  # of each release, none of them another's
DEAD: Final = Shape("dead", paths=4999, files=1, file_bytes=500)
BEGAN: Final = datetime(2026, 1, 1, tzinfo=UTC)
HOUR: Final = timedelta(hours=1)


async def collect(room: Room) -> list[Figure]:
    """Plan over 50,000 paths; collect 5,000 small ones, and 64,000 files in large ones."""
    plans = await _plans(room)
    small = [await _swept(room, DEAD) for _ in range(room.runs)]
    large = [await _swept(room, TREES) for _ in range(room.runs)]
    files = TREES.scaled(room.scale).paths * TREES.files
    return [
        figure("plan over 50,000 paths", [taken for taken, _ in plans], "s", 2),
        figure("peak RSS of a process that plans", [peak for _, peak in plans], "MiB", 150),
        figure("5,000 dead small paths collected", small, "s", 4),
        figure("large paths collected, each file", [one / files * 1e6 for one in large], "µs", 60),
    ]


async def _swept(room: Room, shape: Shape) -> float:
    """Collect a store of which nothing is rooted; give the seconds."""
    files = StoreFiles(room.memory / "store", durable=False)
    await closures.make(files.root, shape.scaled(room.scale))
    nix, swept = Nix(files.root), collecting.Swept()
    paths = sorted(nix.valid())
    began = time.perf_counter()
    await collecting.sweep(files, nix, paths, swept)
    taken = time.perf_counter() - began
    assert swept.paths == len(paths), swept  # noqa: S101 a figure of a wrong answer is none
    assert not files.on_disk()  # noqa: S101 as above
    await clear(files.root)
    return taken


async def _plans(room: Room) -> list[tuple[float, float]]:
    """Plan, each time in a new process; give seconds and MiB."""
    root = room.memory / "planned"
    await _fill(root, max(1, int(PATHS * room.scale)))
    argv = [sys.executable, "-m", "nodeagent.bench.collect", str(root)]
    told = [await process.run(argv, timeout=TIMEOUT_SECONDS) for _ in range(room.runs)]
    await clear(root)
    return [tuple(json.loads(one.stdout)) for one in told]


async def _fill(root: Path, count: int) -> None:
    """Register releases, as a node has them: the first withdrawn, its roots gone already."""
    files, nix, ledger = StoreFiles(root, durable=False), Nix(root), Ledger(root / "state")
    files.claim(share=False)
    await nix.create()
    async with ledger.owned(lambda: None):
        for number in range(RELEASES):
            one = _system(number, count)
            manifest = Release(systems={this_system(): one}).canonical()
            digest = release.digest_of(manifest)
            order = release.references_first(one.paths)
            await nix.register([Registration(path, one.paths[path]) for path in order])
            ledger.keep_manifest(digest, manifest)
            held = Held(channel="stable", serial=number, release=digest, caches=("main",))
            ledger.publish(held, "boot", BEGAN + number * HOUR)
            if number == 0:
                ledger.remember(ledger.state.history.withdraw(digest, BEGAN))
            else:
                files.set_roots(digest12(digest), {"ds": one.profiles["ds"].root})


def _system(number: int, count: int) -> System:
    """Make a closure of rows alone: each path needs the four before it, the last one all."""
    names = [f"planned-{number}-{at}" for at in range(count)]
    paths = [closures.made_up(name) for name in names]
    infos = {
        path: PathInfo(
            nar_hash=storepath.nar_hash(at.to_bytes(32, "big")),
            nar_size=1000,
            references=tuple(paths[max(0, at - 4) : at] if at < count - 1 else paths),
        )
        for at, path in enumerate(paths)
    }
    return System(profiles={"ds": Profile(root=paths[-1])}, paths=infos)


async def _plan(root: Path) -> int:
    """Find out what may go, as a cycle does while containers use all but one release."""
    files, ledger = StoreFiles(root), Ledger(root / "state")
    async with ledger.owned(lambda: None):
        history = ledger.state.history.generations
        known = [Generation(key, one.spans, one.withdrawn) for key, one in history.items()]
        starts = [BEGAN + number * HOUR + HOUR / 2 for number in range(1, RELEASES)]
        containers = [Container(f"container at {start}", start) for start in starts]
        answer = Answer("pods", retention.used(known, containers, HOUR / 12))
        verdicts = retention.judge(known, [answer], HOUR, datetime.now(UTC))
        going = _paths(ledger, (one.digest for one in verdicts if one.step is Step.DELETE))
        going -= _paths(ledger, (one.digest for one in verdicts if one.step is Step.KEEP))
        return len(going - Nix(root).live(roots.rooted(files.roots.parent)))


def _paths(ledger: Ledger, digests: Iterable[str]) -> set[str]:
    paths = set[str]()
    for digest in digests:
        manifest = ledger.manifest(digest)
        assert manifest is not None, digest  # noqa: S101 `_fill` keeps them all
        parsed = release.parse(manifest, digest)
        paths.update(*(system.paths for system in parsed.systems.values()))
    return paths


def main() -> None:
    """Plan once and print seconds and the peak of RSS in MiB."""
    began = time.perf_counter()
    found = asyncio.run(_plan(Path(sys.argv[1])))
    taken = time.perf_counter() - began
    assert found, "nothing may go"  # noqa: S101 a figure of a wrong answer is none
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([taken, peak]))


if __name__ == "__main__":
    main()
