import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from nodeagent.store import StoreFiles
from nodeagent.verify import walk
from tests import nars
from tests.handmade import Item, path

ITEM: Final = Item(path("item"))
FILE: Final = Item(path("file"), nars.File(b"plain"))
LINK: Final = Item(path("link"), nars.Link(b"/nowhere"))
INFOS: Final = {item.path: item.info for item in (ITEM, FILE, LINK)}


@pytest.fixture
def files(scratch: Path) -> StoreFiles:
    made = StoreFiles(scratch)
    made.claim(share=False)
    for item in (ITEM, FILE, LINK):
        nars.write(item.tree, os.fsencode(made.real(item.path)))
    return made


def truncate(place: Path) -> None:
    (place / "bin/hello").chmod(0o755)
    os.truncate(place / "bin/hello", 0)  # as after a power cut
    (place / "bin/hello").chmod(0o555)


def with_open_directory(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def run(place: Path) -> None:
        (place / "bin").chmod(0o755)
        change(place)
        (place / "bin").chmod(0o555)

    return run


DAMAGE: Final[dict[str, Callable[[Path], object]]] = {
    "truncated": truncate,
    "writable file": lambda place: (place / "bin/hello").chmod(0o755),
    "writable directory": lambda place: (place / "bin").chmod(0o755),
    "file lost": with_open_directory(lambda place: (place / "bin/hello").unlink()),
    "file added": with_open_directory(lambda place: (place / "bin/more").touch(0o444)),
    "pipe added": with_open_directory(lambda place: os.mkfifo(place / "bin/pipe")),
    "all lost": lambda place: place.rename(place.parent.parent / "elsewhere"),
}


def test_whole_trees_pass(files: StoreFiles) -> None:
    assert walk.damaged(files, INFOS) == {}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_tree_is_told_and_the_others_are_not(files: StoreFiles, damage: str) -> None:
    files.real(ITEM.path).chmod(0o755)
    DAMAGE[damage](files.real(ITEM.path))
    if files.real(ITEM.path).exists():
        files.real(ITEM.path).chmod(0o555)
    damaged = walk.damaged(files, INFOS)
    assert damaged.keys() == {ITEM.path}
    assert damaged[ITEM.path]


def test_a_truncated_file_is_told_in_bytes(files: StoreFiles) -> None:
    truncate(files.real(ITEM.path))
    assert "bytes instead of" in walk.damaged(files, INFOS)[ITEM.path]


def test_only_what_is_gone_is_absent(files: StoreFiles) -> None:
    assert walk.absent(files, INFOS) == []
    files.real(LINK.path).unlink()
    assert walk.absent(files, [*INFOS, path("never")]) == [LINK.path, path("never")]


def test_a_walk_reads_no_contents(files: StoreFiles) -> None:
    file = files.real(FILE.path)
    file.chmod(0o644)
    file.write_bytes(b"PLAIN")
    file.chmod(0o444)
    assert walk.damaged(files, INFOS) == {}  # they are hashed when they are poured
