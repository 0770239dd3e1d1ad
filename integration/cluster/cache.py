"""What is kept between runs: made once, under a lock, found by the key of all that went in.

Whatever stands under its name is whole: it is made beside it and renamed at the end.
"""

import contextlib
import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Final

from integration.cluster.commands import ClusterError, run

BUILD_SECONDS: Final = 1800.0
POLL_SECONDS: Final = 0.2


def directory() -> Path:
    """Give the directory for everything that the test cluster keeps, also while it runs."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    ours = home / "nodeagent-test/cluster"
    ours.mkdir(parents=True, exist_ok=True)
    return ours


def say(text: str) -> None:
    """Tell the person who waits."""
    sys.stderr.write(f"cluster: {text}\n")
    sys.stderr.flush()


def key(sources: Iterable[Path], *more: str) -> str:
    """Digest files, directories and texts."""
    total = hashlib.sha256(repr(more).encode())
    for source in sources:
        files = sorted(source.rglob("*")) if source.is_dir() else [source]
        for file in files:
            if file.is_file():
                total.update(f"{file.name}\0{file.stat().st_size}\0".encode())
                total.update(file.read_bytes())
    return total.hexdigest()[:12]


def made(name: str, make: Callable[[Path], None], *, keep: int) -> Path:
    """Give the directory of a name (`what-key`); `make` fills it if it is not there.

    Of the same `what`, the `keep` that were used last stay.
    """
    target = directory() / name
    if not target.exists():
        with Lock(directory() / "making.lock").held(BUILD_SECONDS):
            if not target.exists():
                what = name.partition("-")[0]
                _make(target, what, make)
                _prune(what, keep)
    os.utime(target)
    return target


def _make(target: Path, what: str, make: Callable[[Path], None]) -> None:
    """Make beside the target; what a killed process left there goes first."""
    for left in directory().glob(f".{what}-*"):
        remove(left)
    scratch = target.with_name(f".{target.name}")
    scratch.mkdir()
    try:
        make(scratch)
        scratch.rename(target)
    finally:
        remove(scratch)


def _prune(what: str, keep: int) -> None:
    found = sorted(directory().glob(f"{what}-*"), key=lambda one: -one.stat().st_mtime)
    for old in found[keep:]:
        remove(old)


def remove(tree: Path) -> None:
    """Remove a tree, or nothing."""
    # A killed mmdebstrap may have left the host's /dev mounted there: never go into it.
    run(["rm", "--recursive", "--force", "--one-file-system", tree])


class Lock:
    """A lock file that holds its owner's pid; it is free as soon as the owner ends, however."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    @property
    def is_held(self) -> bool:
        """Whether it is ours."""
        return self._file is not None

    def acquire(self, seconds: float) -> None:
        """Wait for it, and say for whom; raises ClusterError when the time is over."""
        if self.is_held:
            raise ClusterError(f"{self.path}: we hold it already; release it first")
        file = self.path.open("a+")
        end = time.monotonic() + seconds
        told = False
        while not _try(file):
            file.seek(0)
            owner = file.read().strip()
            if time.monotonic() > end:
                file.close()
                raise ClusterError(f"{self.path}: process {owner} holds it; wait for its end")
            if not told:
                told = True
                say(f"waiting for process {owner} ({self.path.name})")
            time.sleep(POLL_SECONDS)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @contextlib.contextmanager
    def held(self, seconds: float) -> Iterator[None]:
        self.acquire(seconds)
        try:
            yield
        finally:
            self.release()


def _try(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
