"""Closures for tests, made by hand in scratch stores: no derivation is built.

Input-addressed paths get a hash part made up from name and version and are registered through
`nix-store --load-db`; content-addressed ones come from `nix-store --add`.
"""

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent import nar, storepath
from nodeagent.names import STORE_DIR
from nodeagent.nix import Nix

MTIME: Final = (1, 1)
Fill = Callable[[Path], None]


@dataclass(frozen=True)
class Closure:
    """A profile root and all that it needs, valid in the store under `store_root`."""

    store_root: Path
    root: str
    paths: tuple[str, ...]

    def real(self, path: str) -> Path:
        return storepath.real(self.store_root, path)


@dataclass(frozen=True)
class Tree:
    """One store path to be made."""

    path: str
    fill: Fill
    references: tuple[str, ...] = ()


def make_closure(
    store_root: Path,
    *,
    count: int = 5,
    name: str = "ds",
    version: str = "1",
    changed: int = 1,
    files: int = 3,
    file_bytes: int = 2000,
) -> Closure:
    """Make `count` (at least 2) paths; the last is the profile root, with `bin/hello`.

    The first is content-addressed (a plain file), the root refers to all others and to itself,
    each of the rest to up to three before it. Two versions of a name share all paths but the
    root and the `changed` - 1 before it, whose hash parts carry the version.
    """
    store_root.mkdir(parents=True, exist_ok=True)
    paths = [add_file(store_root, f"{name}-data-1.txt", f"data of {name}\n".encode())]
    trees = []
    for number in range(1, count - 1):
        own = version if number >= count - changed else "1"
        path = made_up(f"{name}-part{number}-{own}")
        needs = tuple(sorted({paths[0], paths[number // 2], paths[-1]}))
        trees.append(Tree(path, _part(path, needs, files, file_bytes), needs))
        paths.append(path)
    root = made_up(f"{name}-{version}")
    trees.append(Tree(root, _profile(root, tuple(paths), version), (*paths, root)))
    add_trees(store_root, trees)
    return Closure(store_root, root, (*paths, root))


def made_up(name: str) -> str:
    """Invent the store path of a name: always the same one."""
    digest = hashlib.sha256(name.encode()).digest()[:20]
    return f"{STORE_DIR}/{storepath.base32(digest)}-{name}"


def add_file(store_root: Path, name: str, data: bytes) -> str:
    """Add a content-addressed plain file."""
    scratch = store_root / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / name
    file.write_bytes(data)
    path = add(store_root, file)
    file.unlink()
    return path


def add(store_root: Path, tree: Path) -> str:
    """Add a tree as a content-addressed path named like it."""
    return nix_store(store_root, "--add", str(tree)).strip()


def add_trees(store_root: Path, trees: Iterable[Tree]) -> None:
    """Make and register input-addressed paths, given references first; keep what is there."""
    text = b""
    for tree in trees:
        real = storepath.real(store_root, tree.path)
        if os.path.lexists(real):
            continue
        real.parent.mkdir(parents=True, exist_ok=True)
        tree.fill(real)
        canonicalise(real)
        digest, size = nar.hash_tree(os.fsencode(real))
        lines = [tree.path, digest.hex(), size, "", len(tree.references), *tree.references]
        text += "".join(f"{line}\n" for line in lines).encode()
    nix_store(store_root, "--load-db", stdin=text)


def canonicalise(tree: Path) -> None:
    """Give a tree the modes and times that a store has."""
    if tree.is_symlink():
        os.utime(tree, MTIME, follow_symlinks=False)
        return
    if tree.is_dir():
        for entry in os.scandir(os.fsencode(tree)):
            canonicalise(Path(os.fsdecode(entry.path)))
    executable = tree.is_dir() or (os.access(tree, os.X_OK) and tree.stat().st_mode & 0o100)
    tree.chmod(0o555 if executable else 0o444)
    os.utime(tree, MTIME)


def nix_store(store_root: Path, *arguments: str, stdin: bytes = b"") -> str:
    """Call nix-store on the scratch store as nodeagent does."""
    return run("nix-store", "--store", str(store_root), *arguments, stdin=stdin)


def run(*argv: str, stdin: bytes = b"", settings: Mapping[str, str] | None = None) -> str:
    """Run a program with our Nix settings and more of them; give its stdout."""
    own = Nix(Path("/")).env
    more = "".join(f"{key} = {value}\n" for key, value in (settings or {}).items())
    env = {**os.environ, **own, "NIX_CONFIG": own["NIX_CONFIG"] + more}
    done = subprocess.run(argv, input=stdin, env=env, capture_output=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr.decode()}"
    return done.stdout.decode()


def make_key(directory: Path, name: str = "test-cache-1") -> tuple[Path, Path]:
    """Make a pair of cache keys with Nix itself: (secret file, public file)."""
    directory.mkdir(parents=True, exist_ok=True)
    pair = directory / f"{name}.sec", directory / f"{name}.pub"
    run("nix-store", "--generate-binary-cache-key", name, *map(str, pair))
    return pair


def _part(path: str, needs: tuple[str, ...], files: int, file_bytes: int) -> Fill:
    def fill(real: Path) -> None:
        real.mkdir()
        (real / "needs").write_text("\n".join(needs))
        for number in range(files):
            seed = hashlib.sha256(f"{path}{number}".encode()).digest()
            data = seed * (file_bytes // 64) + os.fsencode("text " * (file_bytes // 10))
            (real / f"file{number}").write_bytes(data)

    return fill


def _profile(path: str, needs: tuple[str, ...], version: str) -> Fill:
    def fill(real: Path) -> None:
        (real / "bin").mkdir(parents=True)
        (real / "share").mkdir()
        hello = real / "bin/hello"
        hello.write_text(f"#!/bin/sh\necho hello {version} from {path}\n")
        hello.chmod(0o755)
        (real / "bin/again").symlink_to(f"{path}/bin/hello")
        for number, need in enumerate(needs):
            (real / f"share/{number}").symlink_to(need)

    return fill
