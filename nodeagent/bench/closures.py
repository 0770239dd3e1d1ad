"""Closures to measure with, the same at every run on a machine.

Their files are slices of this Python's own library, so that they compress as packages do.
"""

import hashlib
import os
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from nodeagent import nar, storepath
from nodeagent.names import STORE_DIR
from nodeagent.nix import Nix, Registration
from nodeagent.release import PathInfo

CORPUS_BYTES: Final = 48 << 20
FILES_IN_DIRECTORY: Final = 40
REFERENCES: Final = 4


@dataclass(frozen=True)
class Shape:
    """How a closure looks: `files` a path, of `file_bytes` on average."""

    name: str
    paths: int
    files: int
    file_bytes: int

    def scaled(self, scale: float) -> "Shape":
        """Give a smaller closure of its kind: fewer paths, or a smaller one where there is one."""
        if self.paths > 1:
            return replace(self, paths=max(1, int(self.paths * scale)))
        return replace(self, file_bytes=int(self.file_bytes * scale))


PACKAGES: Final = Shape("packages", paths=460, files=100, file_bytes=20_000)
SMALL: Final = Shape("small", paths=2499, files=3, file_bytes=4_000)
TREES: Final = Shape("trees", paths=64, files=1000, file_bytes=15_000)
BIG: Final = Shape("big", paths=1, files=32, file_bytes=32_000_000)


async def make(store_root: Path, shape: Shape) -> str:
    """Make and register a closure in the store under `store_root`; give its root path."""
    nix, chance, corpus = Nix(store_root), random.Random(shape.name), _corpus()  # noqa: S311 no secret
    (store_root / "nix/store").mkdir(parents=True)
    await nix.create()
    made: list[str] = []
    batch = []
    for number in range(shape.paths):
        path = made_up(f"{shape.name}-{number}")
        tree = storepath.real(store_root, path)
        _fill(tree, shape, corpus, chance)
        batch.append(
            _registration(path, tree, sorted(chance.sample(made, min(len(made), REFERENCES))))
        )
        made.append(path)
    root = made_up(shape.name)
    tree = storepath.real(store_root, root)
    tree.mkdir()
    _seal(tree)
    batch.append(_registration(root, tree, sorted(made)))
    await nix.register(batch)
    return root


def made_up(name: str) -> str:
    """Invent the store path of a name: always the same one."""
    digest = hashlib.sha256(f"nodeagent bench {name}".encode()).digest()[:20]
    return f"{STORE_DIR}/{storepath.base32(digest)}-{name}"


def _corpus() -> bytes:
    """Read the standard library, files in order, up to a bound."""
    data = bytearray()
    for file in _library():
        if len(data) >= CORPUS_BYTES:
            break
        data += file.read_bytes()
    return bytes(data)


def _library() -> Iterator[Path]:
    for directory, names, files in os.walk(sysconfig.get_paths()["stdlib"]):
        names[:] = sorted(name for name in names if name != "site-packages")
        yield from (Path(directory, file) for file in sorted(files))


def _fill(tree: Path, shape: Shape, corpus: bytes, chance: random.Random) -> None:
    tree.mkdir()
    for number in range(shape.files):
        directory = tree / f"part{number // FILES_IN_DIRECTORY}"
        directory.mkdir(exist_ok=True)
        # Sizes as in real trees: many small files, few large ones.
        size = int(
            shape.file_bytes * chance.choice((0.05, 0.1, 0.2, 0.4, 0.5, 0.75, 1, 1.5, 2, 3.5))
        )
        with (directory / f"file{number}").open("wb") as out:
            while size > 0:
                at, length = (
                    chance.randrange(len(corpus)),
                    min(size, chance.randrange(2_000, 60_000)),
                )
                size -= out.write(corpus[at : at + length])
    _seal(tree)


def _seal(tree: Path) -> None:
    """Give a tree the modes and times that a store has."""
    for directory, _, files in os.walk(tree, topdown=False):
        for file in files:
            place = Path(directory, file)
            place.chmod(nar.FILE_MODE)
            os.utime(place, (nar.MTIME, nar.MTIME))
        Path(directory).chmod(nar.DIRECTORY_MODE)
        os.utime(directory, (nar.MTIME, nar.MTIME))


def _registration(path: str, tree: Path, references: list[str]) -> Registration:
    digest, size = nar.hash_tree(os.fsencode(tree))
    info = PathInfo(
        nar_hash=storepath.nar_hash(digest), nar_size=size, references=tuple(references)
    )
    return Registration(path, info)
