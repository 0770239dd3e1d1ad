"""An observer of a store directory: a process of its own that looks all the while.

Whatever is visible in the store must be whole at that instant. An entry is hashed when it is
first seen and measured on every later look; every path that the database calls valid must be there.

Run as `python -m integration.observer STORE_ROOT EXPECTED.json`; EXPECTED maps store paths to
[narHash, narSize]. It says `ready` after its first look, and at the end of its stdin what it saw.
"""

import contextlib
import json
import os
import select
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nodeagent import nar, storepath
from nodeagent.names import STORE_DIR

PAUSE_SECONDS = 0.002
Expected = Mapping[str, tuple[str, int]]


@dataclass
class Seen:
    """What an observer saw: number of looks, paths, and what was wrong at some instant."""

    looks: int = 0
    visible: list[str] = field(default_factory=list)
    valid: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass
class Observer:
    """Looks at the store under `root`."""

    root: Path
    expected: Expected
    visible: set[str] = field(default_factory=set)
    valid: set[str] = field(default_factory=set)
    faults: dict[str, None] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return storepath.real(self.root, f"{STORE_DIR}/x").parent

    def look(self) -> None:
        """Look once. The database comes first: what it calls valid must be there afterwards."""
        valid = self.registered()
        there = {f"{STORE_DIR}/{name}" for name in self.names()}
        for path in valid - there:
            self.fault(f"{path} is valid and not there")
        for path in there:
            self.judge(path)
        self.valid |= valid

    def names(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return [
                name
                for name in os.listdir(self.store)  # noqa: PTH208 thousands of looks
                if storepath.is_basename(name) and not name.endswith(".lock")
            ]
        return []

    def judge(self, path: str) -> None:
        """Hash an entry at first sight, measure it later."""
        if path not in self.expected:
            self.fault(f"{path} does not belong there")
            return
        digest, size = self.expected[path]
        real = os.fsencode(storepath.real(self.root, path))
        try:
            if path not in self.visible:
                found, length = nar.hash_tree(real)
                if (storepath.nar_hash(found), length) != (digest, size):
                    self.fault(f"{path} has another hash")
                self.visible.add(path)
            elif (length := measure(real)) != size:
                self.fault(f"{path} has {length} bytes instead of {size}")
        except (OSError, nar.NarError) as error:
            self.fault(f"{path}: {error}")

    def registered(self) -> set[str]:
        """Give the paths that are valid; none while there is no database yet."""
        database = self.root / "nix/var/nix/db/db.sqlite"
        if not database.exists():
            return set()
        try:
            with contextlib.closing(
                sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)
            ) as it:
                return {path for (path,) in it.execute("SELECT path FROM ValidPaths")}
        except sqlite3.OperationalError:  # no table yet
            return set()

    def fault(self, what: str) -> None:
        self.faults[what] = None

    def seen(self, looks: int) -> Seen:
        """Hash everything once more and tell."""
        self.visible.clear()
        self.look()
        return Seen(looks, sorted(self.visible), sorted(self.valid), list(self.faults))


def measure(real: bytes) -> int:
    """Measure a tree whose top may not have its last mode yet: that comes after the rename."""
    top = os.lstat(real)
    if (top.st_mode & 0o7777) != 0o755:
        return nar.measure(real)
    inner = sum(
        nar.measure(real + b"/" + name) - len(nar.format.MAGIC) + entry_size(name)
        for name in os.listdir(real)  # noqa: PTH208 names are bytes
    )
    return inner + empty_size()


def entry_size(name: bytes) -> int:
    """Say how many bytes an entry takes in an archive beside its node."""
    token = nar.format
    return len(token.ENTRY + token.encode(name) + token.NODE + token.CLOSE)


def empty_size() -> int:
    """Say how many bytes the archive of an empty directory has."""
    token = nar.format
    return len(token.MAGIC + token.OPEN + token.DIRECTORY + token.CLOSE)


@contextlib.contextmanager
def observing(root: Path, expected: Expected) -> Iterator[Seen]:
    """Have an observer look during the block; what it saw is told at its end."""
    facts = root.with_name(f"{root.name}.expected.json")
    facts.write_text(json.dumps(expected))
    argv = [sys.executable, "-m", "integration.observer", str(root), str(facts)]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    seen = Seen()
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        try:
            yield seen
        finally:
            told, _ = child.communicate()
    data: dict[str, Any] = json.loads(told)
    vars(seen).update(data)


def main() -> None:
    """Look until stdin ends."""
    root, facts = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    observer = Observer(root, {path: (digest, size) for path, (digest, size) in facts.items()})
    observer.look()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    looks = 1
    while not select.select([sys.stdin], [], [], 0)[0]:
        observer.look()
        looks += 1
        time.sleep(PAUSE_SECONDS)
    json.dump(asdict(observer.seen(looks)), sys.stdout)


if __name__ == "__main__":
    main()
