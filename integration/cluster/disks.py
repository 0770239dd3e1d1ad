"""Disks of nodes that have images already, without a registry.

An import costs 7 CPU seconds per node and 200 MB, so it is done once, by a throw-away node; the
disks of real nodes are hard links to the result.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from integration.cluster import archive, cache
from integration.cluster.commands import run

KEPT: Final = 8
Fill = Callable[[Path | None, Path, Path], None]


def disk(archives: Sequence[Path], fill: Fill) -> Path:
    """Give a containerd directory that holds these images.

    `fill(before, archive, into)` adds one archive to the disk `before`. What comes first in the
    list is done first and shared, so put last what changes often.
    """
    *earlier, last = archives
    before = disk(earlier, fill) if earlier else None
    key = cache.key([], *map(archive.fingerprint, archives))
    return cache.made(f"disk-{key}", lambda into: fill(before, last, into), keep=KEPT)


def copy(source: Path, target: Path) -> None:
    """Link what containerd never writes again (blobs, unpacked layers); copy its databases."""
    target.parent.mkdir(parents=True, exist_ok=True)
    run(["cp", "--archive", "--link", "--no-target-directory", source, target])
    for database in target.glob("*/*.db"):
        database.unlink()
        shutil.copy(source / database.relative_to(target), database)
