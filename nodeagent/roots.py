"""A store's roots for collection: direct links in `gcroots`, ours among everybody's."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from nodeagent import storepath
from nodeagent.disk import remove, usable
from nodeagent.names import STORE_DIR


def rooted(gcroots: Path) -> set[str]:
    """Give the store paths that links lead to.

    What they say is believed without looking: a root may come before its path. Links to places
    outside the store (`auto/…`) are somebody's whose files are not seen here; Nix follows those.
    """
    with usable(gcroots):
        found = (_store_path(link.readlink()) for link in _links(gcroots))
        return {path for path in found if path is not None}


def drop(directory: Path, names: Iterable[str]) -> None:
    """Remove roots, or whole directories of them; those that are gone are no fault."""
    with usable(directory):
        for name in names:
            remove(directory / name)


def _links(directory: Path) -> Iterator[Path]:
    for at, directories, files in os.walk(directory):
        for name in (*directories, *files):
            link = Path(at, name)
            if link.is_symlink():
                yield link


def _store_path(target: Path) -> str | None:
    parts = target.parts
    top = "/".join(parts[: len(Path(STORE_DIR).parts) + 1]).replace("//", "/")
    name = top.removeprefix(f"{STORE_DIR}/")
    return top if name != top and storepath.is_basename(name) else None
