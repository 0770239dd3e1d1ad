"""Verify: is what is published, or about to be, whole on disk?

Contents were hashed while they were poured. The walk compares what `lstat` tells (names, sizes,
modes) with the NAR's size; it finds what is missing, truncated or made writable.
"""

import os
from collections.abc import Iterable, Mapping

from nodeagent import nar
from nodeagent.release import PathInfo
from nodeagent.store import StoreFiles


def absent(files: StoreFiles, paths: Iterable[str]) -> list[str]:
    """List the paths that are not there: one `lstat` each, cheap enough for every probe."""
    return [path for path in paths if not os.path.lexists(files.real(path))]


def walk(files: StoreFiles, paths: Mapping[str, PathInfo]) -> dict[str, str]:
    """Walk whole trees; give each damaged path with what is wrong."""
    damaged = {}
    for path, info in paths.items():
        try:
            size = nar.measure(os.fsencode(files.real(path)))
        except (OSError, nar.NarError) as error:
            damaged[path] = str(error)
            continue
        if size != info.nar_size:
            damaged[path] = f"its NAR would have {size:,} bytes instead of {info.nar_size:,}"
    return damaged
