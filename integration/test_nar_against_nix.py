"""Our archives are Nix's to the byte, and so are the trees that we make of its archives."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from nodeagent import nar
from tests import nars
from tests.nars import Directory, File, Link, Tree

pytestmark = pytest.mark.skipif(
    not shutil.which("nix-store"), reason="nix-store is not installed: nothing to compare with"
)

TREES = 600
PER_CALL = 50  # Trees side by side in one directory: a call of Nix takes longer than a tree.
SAMPLES: list[Tree] = [
    File(),
    File(b"x", executable=True),
    File(bytes(nars.CHUNK + 3)),
    Link(b"nowhere"),
    Link(b"t" * 4095),
    Directory(),
    nars.buried(File(b"deep"), 100),
]


@dataclass(frozen=True)
class Both:
    """A tree on disk, what it was made of, and Nix's archive of it."""

    tree: Tree
    path: Path
    archive: bytes


def generated() -> list[Tree]:
    """Collect trees from Hypothesis; it shrinks nothing here, but the smallest culprit is told."""
    found: list[Tree] = []

    @hypothesis.settings(
        max_examples=TREES,
        deadline=None,
        derandomize=False,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(nars.trees())
    def collect(tree: Tree) -> None:
        found.append(tree)

    collect()
    return found


@pytest.fixture(scope="module")
def pairs() -> Iterator[list[Both]]:
    trees = generated()
    assert len(trees) >= 500
    batches = [trees[at : at + PER_CALL] for at in range(0, len(trees), PER_CALL)]
    sides: list[Tree] = [
        Directory({b"%03d" % at: tree for at, tree in enumerate(one)}) for one in batches
    ]
    with nars.scratch() as scratch:
        yield [_dumped(tree, scratch / f"{at}") for at, tree in enumerate([*sides, *SAMPLES])]


def _dumped(tree: Tree, path: Path) -> Both:
    nars.write(tree, os.fsencode(path))
    dumped = subprocess.run(["nix-store", "--dump", path], capture_output=True, check=True)
    return Both(tree, path, dumped.stdout)


def _culprit(tree: Tree, left: bytes, right: bytes) -> str:
    """Name the smallest tree of a batch that the two sides differ in."""
    inner = tree.entries.values() if isinstance(tree, Directory) else []
    wrong = [one for one in inner if (nars.node(one) in left) != (nars.node(one) in right)]
    return f"differs in {min(map(repr, wrong), key=len, default=repr(tree))[:2000]}"


def test_a_dump_is_nixs_to_the_byte(pairs: list[Both]) -> None:
    for one in pairs:
        ours = b"".join(nar.dump(os.fsencode(one.path)))
        assert ours == one.archive, _culprit(one.tree, ours, one.archive)


def test_measuring_gives_the_size_of_nixs_dump(pairs: list[Both]) -> None:
    for one in pairs:
        assert nar.measure(os.fsencode(one.path)) == len(one.archive)


def test_the_tests_own_writer_agrees_with_nix(pairs: list[Both]) -> None:
    for one in pairs:
        ours = nars.encode(one.tree)
        assert ours == one.archive, _culprit(one.tree, ours, one.archive)


def test_unpacking_nixs_dump_gives_what_nix_restores(pairs: list[Both]) -> None:
    for one in pairs:
        with nars.scratch() as scratch:
            ours, theirs = scratch / "ours", scratch / "theirs"
            nar.unpack(nars.reader(one.archive), os.fsencode(ours), len(one.archive))
            subprocess.run(["nix-store", "--restore", theirs], input=one.archive, check=True)
            unpacked = nars.read(os.fsencode(ours))
            assert unpacked == nars.read(os.fsencode(theirs)) == one.tree


@pytest.mark.parametrize(
    "archive",
    [
        nars.encode(File(b"123"))[:-8],
        nars.encode(Directory({b"..": File()})),
        nars.encode(Directory({b"a/b": File()})),
        nars.encode(Directory({b"a": Link(b"..")})).replace(b"symlink", b"hardlnk"),
        nars.string(b"nix-archive-1") + nars.directory(nars.entry(b"b", nars.node(File())) * 2),
    ],
)
def test_what_nix_refuses_is_refused(archive: bytes) -> None:
    with nars.scratch() as scratch:
        target = scratch / "theirs"
        restore = subprocess.run(
            ["nix-store", "--restore", target], input=archive, capture_output=True, check=False
        )
        assert restore.returncode != 0
        with pytest.raises(nar.NarError):
            nar.unpack(nars.reader(archive), os.fsencode(scratch / "ours"), len(archive))
