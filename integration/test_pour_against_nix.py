"""Differential: what `realise` leaves equals what stock Nix leaves, tree by tree, row by row.

Both are filled from one cache; the stock client is `nix copy`. Trees are generated (NAR edge
cases), references random, some paths content-addressed.
"""

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from integration import closures
from integration.closures import Tree
from nodeagent import keys, plan, release, storepath
from nodeagent.bake import build
from nodeagent.bake.directory import CacheDirectory
from nodeagent.bake.spec import Part
from nodeagent.nix import Nix
from nodeagent.realise.run import Means, Tally, realise
from nodeagent.release import Profile, parse_index
from nodeagent.store import StoreFiles
from tests import nars
from tests.loops import finish

SYSTEM = "x86_64-linux"
ROWS = """
SELECT path, hash, narSize, deriver, ultimate, sigs, ca,
       (SELECT group_concat(path) FROM (
            SELECT r.path FROM Refs JOIN ValidPaths r ON r.id = reference
            WHERE referrer = v.id ORDER BY r.path))
FROM ValidPaths v ORDER BY path
"""


def generated() -> st.SearchStrategy[list[tuple[nars.Tree, list[int]]]]:
    """Some trees, each with the numbers of those before it (or itself) that it refers to."""
    one = st.tuples(nars.trees(), st.lists(st.integers(0, 30), max_size=4))
    return st.lists(one, min_size=5, max_size=30)


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(
    deadline=None,
    max_examples=20,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(generated())
def test_realise_leaves_what_stock_nix_copy_leaves(made: list[tuple[nars.Tree, list[int]]]) -> None:
    with nars.scratch() as root:
        cache, paths = make_cache(root, made)
        ours, theirs = root / "ours", root / "theirs"
        finish(pour(cache, root, ours, paths))
        public = (root / "keys/cache-1.pub").read_text()
        closures.run(
            "nix", "copy", "--from", cache.as_uri(), "--to", str(theirs), paths[-1],
            settings={"trusted-public-keys": public},
        )  # fmt: skip
        assert rows(ours) == rows(theirs)
        for path in paths:
            assert looks(ours, path) == looks(theirs, path)
        closures.nix_store(ours, "--verify", "--check-contents")


def make_cache(root: Path, made: Sequence[tuple[nars.Tree, list[int]]]) -> tuple[Path, list[str]]:
    """Put the trees into a store, all of them under one root path, and bake it."""
    builder = root / "builder"
    builder.mkdir()
    paths = [closures.add_file(builder, "content-addressed", b"some data")]
    trees = []
    for number, (tree, wishes) in enumerate(made):
        path = closures.made_up(f"tree-{number}")
        paths.append(path)
        references = tuple(sorted({paths[wish % len(paths)] for wish in wishes}))
        trees.append(Tree(path, writer(tree), references))
    top = closures.made_up("top")
    trees.append(Tree(top, writer(nars.Directory({})), tuple(sorted(paths))))
    closures.add_trees(builder, trees)
    secret, _ = closures.make_key(root / "keys", "cache-1")
    part = Part(SYSTEM, builder, {"ds": Profile(root=top)})
    means = build.Means(CacheDirectory(root / "cache"), keys.load_secret(secret))
    finish(build.build([part], means))
    return root / "cache", [*paths, top]


def writer(tree: nars.Tree) -> closures.Fill:
    return lambda real: nars.write(tree, os.fsencode(real))


async def pour(cache: Path, root: Path, target: Path, paths: Sequence[str]) -> None:
    files, nix = StoreFiles(target), Nix(target)
    files.claim(share=False)
    await nix.create()
    [manifest] = (cache / "releases").glob("*.json")
    [index] = (cache / "releases").glob("*.index")
    system = release.parse(manifest.read_bytes(), f"sha256:{manifest.stem}").systems[SYSTEM]
    assert set(system.paths) == set(paths)
    means = Means(files, nix, [("main", cache.as_uri())], public_keys(root), workers=2)
    todo = plan.diff(system, nix.valid(), files.on_disk())
    tally = Tally()
    assert await realise(todo, means, parse_index(index.read_bytes()).paths, tally) == ()
    assert (tally.paths_done, tally.bytes_done) == (len(paths), todo.bytes)
    assert not any(files.staging.iterdir())


def public_keys(root: Path) -> list[str]:
    return [(root / "keys/cache-1.pub").read_text()]


def rows(store_root: Path) -> list[tuple[Any, ...]]:
    """Give the database's rows, signatures sorted, registration times left out."""
    database = sqlite3.connect(Nix(store_root).database)
    try:
        return [
            (*row[:5], " ".join(sorted((row[5] or "").split())), *row[6:])
            for row in database.execute(ROWS)
        ]
    finally:
        database.close()


def looks(store_root: Path, path: str) -> list[tuple[bytes, int, int, int, int, bytes]]:
    """Give every node of a tree: name, mode, owner, time, size, contents."""
    top = os.fsencode(storepath.real(store_root, path))
    return sorted(
        (at, info.st_mode, info.st_uid, int(info.st_mtime), info.st_nlink, contents(top + at))
        for at, info in nars.walk(top)
    )


def contents(path: bytes) -> bytes:
    file = Path(os.fsdecode(path))
    if file.is_symlink():
        return os.fsencode(file.readlink())
    return file.read_bytes() if file.is_file() else b""
