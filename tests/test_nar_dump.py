import hashlib
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent import nar
from tests import nars
from tests.nars import CHUNK, Directory, File, Link, Tree


@given(nars.trees())
def test_a_dump_is_what_the_format_prescribes(tree: Tree) -> None:
    with nars.scratch() as scratch:
        nars.write(tree, at := os.fsencode(scratch / "tree"))
        assert b"".join(nar.dump(at)) == nars.encode(tree)


@given(nars.trees())
def test_measuring_gives_the_length_of_the_dump(tree: Tree) -> None:
    with nars.scratch() as scratch:
        nars.write(tree, at := os.fsencode(scratch / "tree"))
        assert nar.measure(at) == len(nars.encode(tree))


@given(nars.trees())
def test_hashing_gives_the_digest_and_size_of_the_dump(tree: Tree) -> None:
    with nars.scratch() as scratch:
        nars.write(tree, at := os.fsencode(scratch / "tree"))
        expected = nars.encode(tree)
        assert nar.hash_tree(at) == (hashlib.sha256(expected).digest(), len(expected))


@given(st.lists(st.binary(max_size=2 * CHUNK), max_size=3))
def test_a_dump_comes_in_chunks_of_bounded_size(bodies: list[bytes]) -> None:
    tree = Directory({b"%d" % at: File(body) for at, body in enumerate(bodies)})
    with nars.scratch() as scratch:
        nars.write(tree, at := os.fsencode(scratch / "tree"))
        assert all(len(chunk) < 2 * CHUNK for chunk in nar.dump(at))


def test_a_file_is_executable_if_its_owner_may_execute_it(scratch: Path) -> None:
    for mode, executable in ((0o744, True), (0o100, True), (0o411, False), (0o644, False)):
        file = scratch / f"{mode:o}"
        file.write_bytes(b"")
        file.chmod(mode | 0o400)
        dumped = b"".join(nar.dump(os.fsencode(file)))
        assert dumped == nars.encode(File(b"", executable))


def test_a_symlink_is_dumped_as_itself_even_at_the_top(scratch: Path) -> None:
    (scratch / "link").symlink_to("nowhere")
    assert b"".join(nar.dump(os.fsencode(scratch / "link"))) == nars.encode(Link(b"nowhere"))


@pytest.mark.parametrize("place", ["pipe", "."])
def test_a_pipe_is_refused(scratch: Path, place: str) -> None:
    os.mkfifo(scratch / "pipe")
    at = os.fsencode(scratch / place)
    with pytest.raises(nar.NarError, match="neither file, directory nor symlink"):
        list(nar.dump(at))
    with pytest.raises(nar.NarError, match="has mode p"):
        nar.measure(os.fsencode(scratch / "pipe"))


def test_a_file_that_shrinks_while_it_is_read_is_refused(scratch: Path) -> None:
    file = scratch / "file"
    file.write_bytes(bytes(3 * CHUNK))
    chunks = nar.dump(os.fsencode(file))
    next(chunks)
    os.truncate(file, CHUNK)
    with pytest.raises(nar.NarError, match="shrank"):
        list(chunks)


def test_a_file_that_grows_while_it_is_read_is_dumped_as_it_was(scratch: Path) -> None:
    file = scratch / "file"
    file.write_bytes(before := bytes(3 * CHUNK))

    def growing() -> Iterator[bytes]:
        for chunk in nar.dump(os.fsencode(file)):
            with file.open("ab") as more:
                more.write(b"more")
            yield chunk

    assert b"".join(growing()) == nars.encode(File(before))


def test_what_is_gone_is_an_os_error(scratch: Path) -> None:
    gone = os.fsencode(scratch / "gone")
    with pytest.raises(FileNotFoundError):
        list(nar.dump(gone))
    with pytest.raises(FileNotFoundError):
        nar.measure(gone)


@pytest.mark.parametrize("mode", [0o644, 0o400, 0o755, 0o4555, 0o000])
def test_measuring_refuses_a_file_whose_mode_is_not_canonical(scratch: Path, mode: int) -> None:
    file = scratch / "tree" / "file"
    file.parent.mkdir()
    file.write_bytes(b"")
    file.chmod(mode)
    file.parent.chmod(0o555)
    with pytest.raises(nar.NarError, match=f"file has mode {mode:04o}"):
        nar.measure(os.fsencode(file.parent))


@pytest.mark.parametrize("mode", [0o755, 0o500, 0o1555])
def test_measuring_refuses_a_directory_whose_mode_is_not_canonical(
    scratch: Path, mode: int
) -> None:
    directory = scratch / "tree"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(nar.NarError, match="has mode d"):
        nar.measure(os.fsencode(directory))


def test_measuring_reads_no_file(scratch: Path) -> None:
    huge = scratch / "huge"
    huge.touch()
    os.truncate(huge, 1 << 40)
    huge.chmod(0o444)
    assert nar.measure(os.fsencode(huge)) == len(nars.encode(File())) + (1 << 40)


def test_dumping_a_large_file_takes_little_memory(scratch: Path) -> None:
    file = scratch / "file"
    file.touch()
    os.truncate(file, 32 << 20)
    tracemalloc.start()
    try:
        nar.hash_tree(os.fsencode(file))
        assert tracemalloc.get_traced_memory()[1] < 8 * CHUNK
    finally:
        tracemalloc.stop()
