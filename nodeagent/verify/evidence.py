"""Evidence of damage: the trees that were exchanged, each with a note of what was wrong with it.

A note is written when damage is found, beside the place where the repair will put the tree. Until
the next boot a container may be bound to a displaced tree, so all of them stay that long; what is
evidence stays on, within bounds, the oldest going first.
"""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from nodeagent.disk import remove, usable
from nodeagent.model import Kept, Moment
from nodeagent.store import StoreFiles, write_file

MOST_TREES: Final = 8
MOST_BYTES: Final = 1 << 30
NOTE: Final = ".json"
_BLOCK: Final = 512  # what st_blocks counts in


class Note(Kept):
    """What was wrong with a displaced tree; `earlier_boot` once no container can hold it."""

    path: str
    fault: str
    found_at: Moment
    earlier_boot: bool = False


@dataclass(frozen=True)
class Evidence:
    """A note, and the place of its tree: displaced already, or to be when it is repaired."""

    note: Note
    place: Path

    @property
    def displaced_at(self) -> datetime | None:
        """Say when the tree was exchanged; None if it was not yet."""
        try:  # a rename changes it, and nothing later does
            return datetime.fromtimestamp(self.place.lstat().st_ctime, UTC)
        except FileNotFoundError:
            return None


def note(files: StoreFiles, damaged: Mapping[str, str], now: datetime) -> None:
    """Write down the faults of damaged trees, each once."""
    for path, fault in damaged.items():
        place = files.displaced_as(path)
        if place is not None and fault not in [one.note.fault for one in _read(_note_of(place))]:
            _write(place, Note(path=path, fault=fault, found_at=now))


def told(files: StoreFiles, path: str) -> str:
    """Say where the damaged tree at a path is going to be found; empty if there is none."""
    place = files.displaced_as(path)
    return "" if place is None else f"; what was there is kept as {place}"


def known(files: StoreFiles) -> list[Evidence]:
    """List all evidence, the newest first."""
    with usable(files.displaced):
        found = [one for file in files.displaced.glob(f"*{NOTE}") for one in _read(file)]
    return sorted(found, key=lambda one: (one.note.found_at, one.place), reverse=True)


def repaired_since_boot(files: StoreFiles) -> list[tuple[Evidence, datetime]]:
    """List the repairs after which a container may still hold what was there before, and when."""
    return [
        (one, at)
        for one in known(files)
        if not one.note.earlier_boot and (at := one.displaced_at) is not None
    ]


def tidy(files: StoreFiles, damaged: Collection[str]) -> None:
    """Remove displaced trees but for evidence, and of that the oldest where it is too much.

    The notes of what is `damaged` still wait for their trees.
    Only right after a boot, when no container can hold one.
    """
    kept, waiting, left = list[Evidence](), set[Path](), MOST_BYTES
    with usable(files.displaced):
        for one in known(files):
            if one.displaced_at is None:
                if one.note.path in damaged and files.displaced_as(one.note.path) == one.place:
                    waiting.add(_note_of(one.place))
            elif len(kept) < MOST_TREES and (size := _size(one.place)) <= left:
                left -= size
                kept.append(one)
        keep = waiting.union(*({one.place, _note_of(one.place)} for one in kept))
        for entry in list(files.displaced.iterdir()):
            if entry not in keep:
                remove(entry)
    for one in kept:
        if not one.note.earlier_boot:
            _write(one.place, one.note.model_copy(update={"earlier_boot": True}))


def _note_of(place: Path) -> Path:
    return place.with_name(place.name + NOTE)


def _write(place: Path, what: Note) -> None:
    with usable(place.parent):
        write_file(_note_of(place), what.model_dump_json(by_alias=True, indent=1).encode())


def _read(file: Path) -> Iterator[Evidence]:
    """Read a note; one that is none makes no evidence."""
    with contextlib.suppress(FileNotFoundError, ValidationError):
        found = Note.model_validate_json(file.read_bytes())
        yield Evidence(found, file.with_name(file.name.removesuffix(NOTE)))


def _size(tree: Path) -> int:
    """Say how much of the disk a tree takes; what has several names counts for each."""
    total, todo = 0, [os.fsencode(tree)]
    while todo:
        path = todo.pop()
        total += os.lstat(path).st_blocks * _BLOCK
        if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114 names are bytes
            todo += [entry.path for entry in os.scandir(path)]
    return total
