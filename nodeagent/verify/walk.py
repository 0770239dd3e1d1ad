"""The walk: what `lstat` tells of a tree, compared with the size of its NAR.

Contents were hashed while they were poured. The walk finds what is missing, truncated or made
writable, at some 300,000 files a second: publishing after a boot can wait for it.
"""

import os
from collections.abc import Iterable, Mapping

from nodeagent import nar
from nodeagent.release import PathInfo
from nodeagent.store import StoreFiles


def absent(files: StoreFiles, paths: Iterable[str]) -> list[str]:
    """List the paths that are not there: one `lstat` each, cheap enough for every probe."""
    return [path for path in paths if not os.path.lexists(files.real(path))]


def damaged(files: StoreFiles, paths: Mapping[str, PathInfo]) -> dict[str, str]:
    """Walk whole trees; give each damaged path with what is wrong."""
    found = {}
    for path, info in paths.items():
        try:
            size = nar.measure(os.fsencode(files.real(path)))
        except (OSError, nar.NarError) as error:
            found[path] = str(error)
            continue
        if size != info.nar_size:
            found[path] = f"its NAR would have {size:,} bytes instead of {info.nar_size:,}"
    return found
