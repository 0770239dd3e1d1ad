"""What Nix would not write is refused, and nothing outside the target is touched."""

import os
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent import nar
from tests import nars
from tests.nars import CHUNK, Directory, File, Link, Tree, string, strings

# Contents fill their words: else a length may change and leave an archive that is valid, too.
SAMPLE = Directory(
    {
        b"d": Directory({b"e": Directory(), b"f": File(b"8 bytes.")}),
        b"file": File(b"16 bytes in all."),
        b"link": Link(b"file"),
        b"run": File(b"", executable=True),
    }
)
MAGIC = string(b"nix-archive-1")
HUGE = [1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


def refused(data: bytes, size: int | None = None, match: str | None = None) -> None:
    """Assert that the archive is refused, and that nothing beside its target appeared."""
    all_refused([(data, len(data) if size is None else size)], match)


def all_refused(archives: Iterable[tuple[bytes, int]], match: str | None = None) -> None:
    """Assert it of each archive of a declared size."""
    with nars.scratch() as scratch:
        (scratch / "beside").write_bytes(b"as it was")
        (scratch / "targets").mkdir()
        for at, (data, size) in enumerate(archives):
            target = os.fsencode(scratch / "targets" / f"{at}")
            with pytest.raises(nar.NarError, match=match):
                nar.unpack(nars.reader(data), target, size)
        assert {child.name for child in (scratch / "targets").iterdir()} <= set(
            map(str, range(at + 1))
        )
        assert {child.name for child in scratch.iterdir()} == {"beside", "targets"}
        assert (scratch / "beside").read_bytes() == b"as it was"


def root(inner: bytes) -> bytes:
    return MAGIC + inner


def directory(*entries: tuple[bytes, Tree]) -> bytes:
    return root(nars.directory(b"".join(nars.entry(name, nars.node(at)) for name, at in entries)))


def with_length(tree: Tree, text: bytes, length: int) -> bytes:
    """Encode a tree, lying about the length of the last such string in it."""
    before, after = nars.encode(tree).rsplit(string(text), 1)
    return before + length.to_bytes(8, "little") + string(text)[8:] + after


def test_an_archive_cut_at_any_byte_is_refused() -> None:
    whole = nars.encode(SAMPLE)
    cuts = [whole[:cut] for cut in range(len(whole))]
    all_refused([(cut, len(whole)) for cut in cuts], "ends too early")
    all_refused([(cut, len(cut)) for cut in cuts])


def test_an_archive_with_anything_behind_it_is_refused() -> None:
    whole = nars.encode(SAMPLE)
    for surplus in (b"\0", bytes(8), whole, bytes(2 * CHUNK)):
        refused(whole + surplus, match="shorter than its declared size")
        refused(whole + surplus, len(whole), "longer than its declared size")


@given(nars.trees(), st.integers(1, 1 << 70))
def test_an_archive_shorter_than_declared_is_refused(tree: Tree, more: int) -> None:
    whole = nars.encode(tree)
    refused(whole, len(whole) + more)


def test_a_stream_that_gives_more_than_was_asked_for_is_refused(scratch: Path) -> None:
    whole = nars.encode(SAMPLE)
    parts = iter([whole + b"more"])
    with pytest.raises(nar.NarError, match="longer"):
        nar.unpack(lambda limit: next(parts), os.fsencode(scratch / "target"), len(whole))


def test_a_flipped_bit_anywhere_in_the_structure_is_refused() -> None:
    whole = nars.encode(SAMPLE)
    free = [b"16 bytes in all.", b"8 bytes.", b"file", b"link", b"run", b"d", b"e", b"f"]
    loose = {
        at
        for text in free
        for start in _places(whole, string(text))
        for at in range(start + 8, start + 8 + len(text))
    }
    rigid = [at for at in range(len(whole)) if at not in loose]
    all_refused((_flipped(whole, at, (at // 8 + at) % 8), len(whole)) for at in rigid)


@given(nars.trees(depth=2), st.data())
def test_whatever_is_accepted_is_exactly_what_nix_would_write(
    tree: Tree, data: st.DataObject
) -> None:
    archive = nars.encode(tree)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, min(len(archive), 2000)))
        stop = start + data.draw(st.sampled_from([0, 1, 8, 16, 64]))
        taken = data.draw(st.integers(0, min(len(archive), 2000)))
        archive = archive[:start] + archive[taken : taken + stop - start] + archive[stop:]
    with nars.scratch() as scratch:
        target = os.fsencode(scratch / "target")
        try:
            nar.unpack(nars.reader(archive), target, len(archive))
        except nar.NarError:
            pass
        else:
            assert b"".join(nar.dump(target)) == archive
        assert {child.name for child in scratch.iterdir()} <= {"target"}


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    refused(noise)
    refused(MAGIC + noise)


@pytest.mark.parametrize(
    "name", [b".", b"..", b"a/b", b"/", b"/etc", b"../beside", b"a\0", b"\0", b"", b"n" * 256]
)
def test_a_name_that_no_directory_can_hold_is_refused(name: bytes) -> None:
    refused(directory((name, File())), match="file name")


@pytest.mark.parametrize(
    "names", [(b"a", b"a"), (b"b", b"a"), (b"aa", b"a"), (b"\xff", b"a"), (b"a", b"A")]
)
@pytest.mark.parametrize("first", [File(b"one"), Directory({b"x": File()}), Link(b"..")])
def test_doubled_and_unsorted_names_are_refused(names: tuple[bytes, bytes], first: Tree) -> None:
    for second in (File(b"two"), Directory({b"beside": File()})):
        refused(directory((names[0], first), (names[1], second)), match="out of order")


def test_no_symlink_is_followed() -> None:
    through = nars.entry(b"a", nars.node(Directory({b"beside": File(b"hacked")})))
    refused(root(nars.directory(nars.entry(b"a", nars.node(Link(b".."))) + through)))
    refused(root(nars.node(Link(b"beside")) + through))


@pytest.mark.parametrize("length", [0, 4096, *HUGE])
def test_a_symlink_target_of_impossible_length_is_refused(length: int) -> None:
    refused(with_length(Link(b"to"), b"to", length))
    refused(nars.encode(Link(b"t" * 4096)), match="target of 4,096 bytes")
    refused(nars.encode(Link(b"a\0b")), match="NUL")


@pytest.mark.parametrize("length", HUGE)
@pytest.mark.parametrize("size", [0, 1 << 64, 1 << 80])
def test_a_length_that_lies_takes_no_memory(length: int, size: int) -> None:
    whole = bytes(CHUNK)
    for tree, text in (
        (File(b"body" + whole), b"body" + whole),
        (Directory({b"called": File()}), b"called"),
        (Link(b"to"), b"to"),
        (File(), b"regular"),
    ):
        archive = with_length(tree, text, length)
        tracemalloc.start()
        try:
            refused(archive, size or None)
            assert tracemalloc.get_traced_memory()[1] < 8 * CHUNK
        finally:
            tracemalloc.stop()


def test_padding_that_is_not_zero_is_refused() -> None:
    for tree, text in ((File(b"12345"), b"12345"), (Link(b"to"), b"to"), (SAMPLE, b"run")):
        padded = string(text)
        archive = nars.encode(tree).replace(padded, padded[:-1] + b"\1")
        refused(archive, match="padding")


def test_nesting_beyond_what_linux_can_open_is_refused(scratch: Path) -> None:
    opening = nars.strings(b"(", b"type", b"directory")
    name = nars.strings(b"entry", b"(", b"name", b"n" * 255, b"node")
    archive = MAGIC + (opening + name) * 10_000
    with pytest.raises(nar.NarError, match=r"a path of 4,\d+ bytes"):
        nar.unpack(nars.reader(archive), os.fsencode(scratch / "target"), len(archive))


@pytest.mark.parametrize(
    "inner",
    [
        strings(b"(", b"type", b"socket", b")"),
        strings(b"(", b"type", b"regular", b"executable", b"x", b"contents", b"", b")"),
        strings(b"(", b"type", b"regular", b")"),
        strings(b"(", b"type", b"regular", b"contents", b"", b"contents", b"", b")"),
        strings(b"(", b"type", b"symlink", b")"),
        strings(b"(", b"type", b"directory", b"entry", b"(", b"name", b"a", b")", b")"),
        strings(b"(", b"type", b"directory", b"type", b"directory", b")"),
        strings(b"(", b"contents", b"", b"type", b"regular", b")"),
        strings(b")"),
        b"",
    ],
)
def test_a_node_that_breaks_the_grammar_is_refused(inner: bytes) -> None:
    refused(root(inner))
    refused(root(nars.directory(nars.entry(b"a", inner))))


@pytest.mark.parametrize("magic", [b"nix-archive-2", b"nix-archive-", b"", b"(" * 13])
def test_another_magic_is_refused(magic: bytes) -> None:
    refused(string(magic) + nars.node(File()))


def _places(data: bytes, part: bytes) -> list[int]:
    return [at for at in range(len(data)) if data.startswith(part, at)]


def _flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
