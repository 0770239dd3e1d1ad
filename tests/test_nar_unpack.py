import hashlib
import os
import stat
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent import nar
from tests import nars
from tests.nars import CHUNK, Directory, File, Tree


@given(nars.trees())
def test_unpacking_a_dump_gives_the_tree_back(tree: Tree) -> None:
    with nars.scratch() as scratch:
        first, second = os.fsencode(scratch / "first"), os.fsencode(scratch / "second")
        nars.write(tree, first)
        data = b"".join(nar.dump(first))
        digest = nar.unpack(nars.reader(data), second, len(data))
        assert nars.read(second) == tree
        assert digest == hashlib.sha256(data).digest()


@given(nars.trees(), st.lists(st.integers(1, 40), min_size=1, max_size=5), st.booleans())
def test_how_the_stream_is_cut_makes_no_difference(
    tree: Tree, sizes: list[int], by_chunks: bool
) -> None:
    data = nars.encode(tree)
    scale = CHUNK // 8 + 1 if by_chunks or len(data) > CHUNK else 1
    with nars.scratch() as scratch:
        target = os.fsencode(scratch / "target")
        read = nars.reader(data, [size * scale for size in sizes])
        assert nar.unpack(read, target, len(data)) == hashlib.sha256(data).digest()
        assert nars.read(target) == tree


def test_a_stream_may_come_byte_by_byte(scratch: Path) -> None:
    tree = Directory({b"a": File(b"x" * 1000, executable=True), b"b": nars.Link(b"a")})
    data = nars.encode(tree)
    nar.unpack(nars.reader(data, [1]), target := os.fsencode(scratch / "target"), len(data))
    assert nars.read(target) == tree


@given(nars.trees())
def test_modes_and_times_are_canonical_but_for_a_writable_top(tree: Tree) -> None:
    with nars.scratch() as scratch:
        data = nars.encode(tree)
        nar.unpack(nars.reader(data), target := os.fsencode(scratch / "target"), len(data))
        for at, info in nars.walk(target):
            assert info.st_mtime_ns == 1_000_000_000
            if stat.S_ISDIR(info.st_mode):
                assert stat.S_IMODE(info.st_mode) == (0o555 if at else 0o755)
            elif stat.S_ISREG(info.st_mode):
                assert stat.S_IMODE(info.st_mode) in {0o444, 0o555}


@given(nars.trees())
def test_a_tree_unpacked_and_shut_measures_as_declared(tree: Tree) -> None:
    with nars.scratch() as scratch:
        data = nars.encode(tree)
        nar.unpack(nars.reader(data), target := os.fsencode(scratch / "target"), len(data))
        if isinstance(tree, Directory):
            (scratch / "target").chmod(0o555)
        assert nar.measure(target) == len(data)


def test_modes_do_not_depend_on_the_umask(scratch: Path) -> None:
    data = nars.encode(Directory({b"d": Directory(), b"f": File(), b"x": File(executable=True)}))
    before = os.umask(0o077)
    try:
        nar.unpack(nars.reader(data), target := os.fsencode(scratch / "target"), len(data))
    finally:
        os.umask(before)
    modes = {at: stat.S_IMODE(info.st_mode) for at, info in nars.walk(target)}
    assert modes == {b"": 0o755, b"/d": 0o555, b"/f": 0o444, b"/x": 0o555}


def test_progress_tells_every_byte(scratch: Path) -> None:
    data = nars.encode(File(bytes(3 * CHUNK)))
    told: list[int] = []
    nar.unpack(nars.reader(data), os.fsencode(scratch / "target"), len(data), told.append)
    assert sum(told) == len(data)
    assert len(told) > 3


def test_a_target_that_exists_is_never_touched(scratch: Path) -> None:
    (scratch / "elsewhere").write_bytes(b"precious")
    (scratch / "link").symlink_to("elsewhere")
    (scratch / "dangling").symlink_to("nowhere")
    for name in ("elsewhere", "link", "dangling"):
        for tree in (File(b"new"), Directory({b"a": File()}), nars.Link(b"b")):
            data = nars.encode(tree)
            with pytest.raises(FileExistsError):
                nar.unpack(nars.reader(data), os.fsencode(scratch / name), len(data))
    assert (scratch / "elsewhere").read_bytes() == b"precious"
    assert not (scratch / "nowhere").exists()


def test_a_large_file_takes_little_memory(scratch: Path) -> None:
    body = 48 << 20
    head, tail = nars.encode(File()).split(nars.string(b"contents") + bytes(8))
    head += nars.string(b"contents") + body.to_bytes(8, "little")
    size = len(head) + body + len(tail)

    def stream() -> Iterator[bytes]:
        yield head
        yield from (bytes(CHUNK) for _ in range(body // CHUNK))
        yield tail
        yield b""

    parts = stream()
    tracemalloc.start()
    try:
        nar.unpack(lambda limit: next(parts), os.fsencode(scratch / "target"), size)
        assert tracemalloc.get_traced_memory()[1] < 8 * CHUNK
    finally:
        tracemalloc.stop()
    assert (scratch / "target").stat().st_size == body


def test_a_tree_as_deep_as_linux_can_open_goes_both_ways(scratch: Path) -> None:
    target = os.fsencode(scratch / "t")
    depth = (4095 - len(target)) // 2
    opening = nars.strings(b"(", b"type", b"directory")
    entry = nars.strings(b"entry", b"(", b"name", b"d", b"node")
    data = nars.string(b"nix-archive-1") + (opening + entry) * depth + opening
    data += nars.string(b")") * (2 * depth + 1)
    try:
        nar.unpack(nars.reader(data), target, len(data))
        assert b"".join(nar.dump(target)) == data
        (scratch / "t").chmod(0o555)
        assert nar.measure(target) == len(data)
    finally:
        _remove_chain(target, depth)


def _remove_chain(target: bytes, depth: int) -> None:
    """Remove nested directories; shutil's way is recursive in Python 3.11."""
    chain = [Path(os.fsdecode(target) + "/d" * level) for level in range(depth + 1)]
    for directory in chain:
        directory.chmod(0o700)
    for directory in reversed(chain):
        directory.rmdir()
