"""One path packed: the file is the NAR, compressed, under the name of its own hash."""

import hashlib
import os
import tempfile
from pathlib import Path

import zstandard
from hypothesis import given, settings

from nodeagent import storepath
from nodeagent.bake.pack import Packed, pack
from tests import nars


def packed(tree: Path, expected: bytes, directory: Path, told: list[int]) -> Packed:
    (directory / "nar").mkdir(exist_ok=True)
    digest = storepath.nar_hash(hashlib.sha256(expected).digest())
    return pack(os.fsencode(tree), digest, len(expected), directory, told.append)


@given(nars.trees())
@settings(max_examples=60)
def test_any_tree_is_packed_as_the_nar_that_nix_would_write(tree: nars.Tree) -> None:
    with nars.scratch() as scratch, tempfile.TemporaryDirectory() as directory:
        nars.write(tree, os.fsencode(scratch / "tree"))
        expected, told = nars.encode(tree), list[int]()
        done = packed(scratch / "tree", expected, Path(directory), told)
        data = Path(directory, done.url).read_bytes()
        assert zstandard.ZstdDecompressor().decompress(data) == expected
        spelt = storepath.base32(hashlib.sha256(data).digest())
        assert done == Packed(f"nar/{spelt}.nar.zst", f"sha256:{spelt}", len(data))
        assert sum(told) == len(expected)


def test_packing_twice_gives_the_same_file(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.write_bytes(os.urandom(1000) * 5000)
    expected = nars.encode(nars.File(tree.read_bytes()))
    first, second = (packed(tree, expected, tmp_path, []) for _ in range(2))
    assert first == second
    assert len(list((tmp_path / "nar").iterdir())) == 1
