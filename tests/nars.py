"""Trees as values: strategies for awkward ones, their NAR, and their way to disk and back.

`encode` is a second, naive writer of the format: what the real one is compared with.
"""
# In an archive a file name is bytes, and those are no Path:
# ruff: noqa: PTH101, PTH102, PTH115, PTH208, PTH211

import contextlib
import os
import random
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hypothesis import strategies as st

CHUNK: Final = 256 * 1024
SIZES: Final = (
    *range(18),
    *(CHUNK - 9, CHUNK - 8, CHUNK - 1, CHUNK, CHUNK + 1, CHUNK + 7, CHUNK + 8),
    *(2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1),
)
SMALL: Final = (*range(18), 1000, 10_000)
COLLIDING: Final = (b"readme", b"README", b"ReadMe", b"e\xcc\x81", b"\xc3\xa9")
AWKWARD: Final = (
    *(b"-rf", b" ", b"\n", b"...", b".hidden", b"a b", b"*", b"\\", b"\xff\xfe", b"\x01", b"\xc3"),
    *(b"a", b"aa", b"a.", b"a-", b"a0", b"n" * 255, b"\x80" * 255),
)


@dataclass(frozen=True)
class File:
    """A regular file."""

    contents: bytes = b""
    executable: bool = False

    def __repr__(self) -> str:
        """Show the beginning: Hypothesis refuses to print megabytes."""
        return f"File({len(self.contents)} bytes: {self.contents[:20]!r}, {self.executable})"


@dataclass(frozen=True)
class Link:
    """A symlink."""

    target: bytes


@dataclass(frozen=True)
class Directory:
    """A directory."""

    entries: Mapping[bytes, "Tree"] = field(default_factory=dict)


Tree = File | Link | Directory


def _pattern(size: int, seed: bytes) -> bytes:
    return (seed * (size // len(seed) + 1))[:size]


def contents(sizes: Sequence[int] = SIZES) -> st.SearchStrategy[bytes]:
    """Short ones byte by byte, long ones (around chunks and padding) by pattern."""
    patterns = st.builds(_pattern, st.sampled_from(sizes), st.binary(min_size=1, max_size=7))
    return st.binary(max_size=24) | patterns


def names() -> st.SearchStrategy[bytes]:
    """Any bytes that a directory can hold, often ones that collide or mislead."""
    letters = st.sampled_from([byte for byte in range(1, 256) if byte != ord("/")])
    free = st.lists(letters, min_size=1, max_size=12).map(bytes)
    return (st.sampled_from(COLLIDING + AWKWARD) | free).filter(
        lambda name: name.strip(b".") or len(name) > 2
    )


def targets() -> st.SearchStrategy[bytes]:
    """Where symlinks lead: out, in circles, nowhere, and very far."""
    awkward = st.sampled_from(
        [b".", b"..", b"/", b"../../../etc/passwd", b"a", b"//", b"\xff", b"t" * 4095, b"x/" * 500]
    )
    return awkward | st.binary(min_size=1, max_size=20).filter(lambda target: b"\0" not in target)


def trees(depth: int = 3, sizes: Sequence[int] = SIZES) -> st.SearchStrategy[Tree]:
    """Trees of all shapes; some lie under a long chain of directories."""
    tree: st.SearchStrategy[Tree] = st.one_of(
        st.builds(File, contents(sizes), st.booleans()), st.builds(Link, targets())
    )
    for _ in range(depth):
        tree = st.one_of(st.builds(Directory, st.dictionaries(names(), tree, max_size=4)), tree)
    return tree | st.builds(buried, tree, st.sampled_from((1, 2, 50)))


def buried(tree: Tree, depth: int) -> Tree:
    """Put a tree under `depth` directories."""
    for _ in range(depth):
        tree = Directory({b"d": tree})
    return tree


def string(text: bytes) -> bytes:
    """Encode one string of the format."""
    return len(text).to_bytes(8, "little") + text + bytes(-len(text) % 8)


def strings(*texts: bytes) -> bytes:
    """Encode a run of strings."""
    return b"".join(string(text) for text in texts)


def encode(tree: Tree) -> bytes:
    """Write a tree's NAR by the book (Dolstra's thesis, figure 5.2)."""
    return string(b"nix-archive-1") + node(tree)


def node(tree: Tree) -> bytes:
    """Write one node, without the magic in front."""
    match tree:
        case File():
            mark = [b"executable", b""] if tree.executable else []
            return strings(b"(", b"type", b"regular", *mark, b"contents", tree.contents, b")")
        case Link():
            return strings(b"(", b"type", b"symlink", b"target", tree.target, b")")
        case Directory():
            entries = b"".join(
                entry(name, node(tree.entries[name])) for name in sorted(tree.entries)
            )
            return directory(entries)


def directory(entries: bytes) -> bytes:
    """Write a directory's node around encoded entries, whatever they are."""
    return strings(b"(", b"type", b"directory") + entries + string(b")")


def entry(name: bytes, inner: bytes) -> bytes:
    """Write a directory's entry, whatever its name."""
    return strings(b"entry", b"(", b"name", name, b"node") + inner + string(b")")


def write(tree: Tree, path: bytes) -> None:
    """Make a tree on disk, with Nix's canonical modes."""
    match tree:
        case File():
            Path(os.fsdecode(path)).write_bytes(tree.contents)
            os.chmod(path, 0o555 if tree.executable else 0o444)
        case Link():
            os.symlink(tree.target, path)
        case Directory():
            os.mkdir(path)
            for name, inner in tree.entries.items():
                write(inner, path + b"/" + name)
            os.chmod(path, 0o555)


def read(path: bytes) -> Tree:
    """Take a tree from disk; its modes are `modes`' business."""
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return Link(os.readlink(path))
    if stat.S_ISREG(mode):
        return File(Path(os.fsdecode(path)).read_bytes(), bool(mode & stat.S_IXUSR))
    return Directory({name: read(path + b"/" + name) for name in os.listdir(path)})


def walk(path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Give each place in a tree, from its top on (which is empty), and what lstat says of it."""
    todo = [b""]
    while todo:
        info = os.lstat(path + (at := todo.pop()))
        if stat.S_ISDIR(info.st_mode):
            todo += [at + b"/" + name for name in os.listdir(path + at)]
        yield at, info


HUGE: Final = (
    1 << 31,
    1 << 32,
    (1 << 62) + 8,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 8,
    (1 << 64) - 1,
)
BAD_NAMES: Final = (b"", b"/", b".", b"..", b"a/b", b"../up", b"\0", b"a\0b", b"n" * 256)
Mutation = Callable[[bytes, random.Random], bytes]


def cut(archive: bytes, chance: random.Random) -> bytes:
    """End it too early."""
    return archive[: chance.randrange(len(archive))]


def lengthen(archive: bytes, chance: random.Random) -> bytes:
    """Put something behind it, an archive perhaps."""
    return archive + chance.choice([b"\0", bytes(8), string(b")"), archive])


def flip(archive: bytes, chance: random.Random) -> bytes:
    """Flip a bit."""
    at = chance.randrange(len(archive))
    return archive[:at] + bytes([archive[at] ^ 1 << chance.randrange(8)]) + archive[at + 1 :]


def lie(archive: bytes, chance: random.Random) -> bytes:
    """Put an enormous length where a length may stand."""
    words = [
        at for at in range(0, min(len(archive), 4000), 8) if archive[at + 2 : at + 8] == bytes(6)
    ]
    at = chance.choice(words)
    return archive[:at] + chance.choice(HUGE).to_bytes(8, "little") + archive[at + 8 :]


def splice(archive: bytes, chance: random.Random) -> bytes:
    """Take words from one place to another: entries double, vanish and change places."""
    words = len(archive) // 8
    start, stop, to = (8 * chance.randrange(words + 1) for _ in range(3))
    return archive[:to] + archive[min(start, stop) : max(start, stop)][:4096] + archive[to:]


def misname(archive: bytes, chance: random.Random) -> bytes:
    """Put the archive's node under names that no directory can hold."""
    inner = archive.removeprefix(string(b"nix-archive-1"))
    return string(b"nix-archive-1") + directory(entry(chance.choice(BAD_NAMES), inner))


def disorder(archive: bytes, chance: random.Random) -> bytes:
    """Put the archive's node under one name twice, behind a symlink of that name, or unsorted."""
    inner = archive.removeprefix(string(b"nix-archive-1"))
    first = chance.choice([inner, node(Link(b"..")), node(Link(b"/")), node(File())])
    names = chance.choice([(b"a", b"a"), (b"b", b"a"), (b"aa", b"a"), (b"\xff", b"a")])
    entries = entry(names[0], first) + entry(names[1], inner)
    return string(b"nix-archive-1") + directory(entries)


MUTATIONS: Final[Sequence[Mutation]] = (cut, lengthen, flip, lie, splice, misname, disorder)


def reader(data: bytes, sizes: Sequence[int] = ()) -> Callable[[int], bytes]:
    """Give a stream's `read(n)` that hands out at most these sizes by turns (else all it may)."""
    at, turn = 0, 0

    def pull(limit: int) -> bytes:
        nonlocal at, turn
        size = min(limit, sizes[turn % len(sizes)]) if sizes else limit
        part = data[at : at + size]
        at, turn = at + len(part), turn + 1
        return part

    return pull


@contextlib.contextmanager
def scratch(within: str | None = None) -> Iterator[Path]:
    """Give a directory that goes away whatever modes its files were given."""
    with tempfile.TemporaryDirectory(prefix="nodeagent-", dir=within) as name:
        try:
            yield Path(name)
        finally:
            for directory, inner, _ in os.walk(os.fsencode(name)):
                for child in inner:
                    os.chmod(directory + b"/" + child, 0o700)
