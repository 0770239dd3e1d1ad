"""What a file system has to give, and in words what it refuses and what to do about it."""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.space import Space

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_TOLD: Final = re.compile("no space left|disk is full|quota exceeded", re.IGNORECASE)
_JOURNALS: Final = 4
_JOURNAL_BYTES: Final = 64 * 1024
_ROOT: Final = "run the agent as root with CAP_DAC_OVERRIDE and CAP_FOWNER"
_STEPS: Final = {
    errno.ENOSPC: "make room there, or give it a larger file system",
    errno.EDQUOT: "raise the quota of the agent's user",
    errno.EROFS: "mount it read-write; if the kernel did that, look at its log and check the disk",
    errno.EACCES: _ROOT,
    errno.EPERM: f"{_ROOT}, and take off what makes files immutable (`lsattr` shows it)",
    errno.EXDEV: "mount the store and what nodeagent keeps beside it as one",
}


def free(place: Path) -> Space:
    """Say what is left on the file system of `place` without what it reserves for root."""
    with usable(place):
        told = os.statvfs(place)
    # btrfs and overlays of it have no fixed number of inodes and say 0.
    return Space(told.f_bavail * told.f_frsize, told.f_favail if told.f_files else None)


def percent_left(place: Path) -> float:
    """Say how much of the file system of `place` is left, of bytes or of inodes: the less."""
    with usable(place):
        told = os.statvfs(place)
    pairs = ((told.f_bavail, told.f_blocks), (told.f_favail, told.f_files))
    return min(100 * left / size if size else 100.0 for left, size in pairs)


def mount_point(place: Path) -> Path:
    """Say where the file system of `place` is mounted."""
    place = place.resolve()
    while not place.is_mount():
        place = place.parent
    return place


def fault(error: OSError, place: Path) -> NodeAgentError:
    """Say what the file system refused at `place`: DiskShort where it is full, or StoreUnusable."""
    code = error.errno or 0
    reason = Reason.DISK_SHORT if code in FULL else Reason.STORE_UNUSABLE
    step = _STEPS.get(code, "check the disk")
    where = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else place
    return NodeAgentError(reason, f"{where}: {error.strerror}{_left(code, place)}; {step}")


def recognised(cause: str, place: Path) -> NodeAgentError | None:
    """Give the fault of the file system behind another program's words, if it is one."""
    full = _FULL_TOLD.search(cause) is not None
    with contextlib.suppress(OSError):  # that `place` is not there is not what was asked
        told = os.statvfs(place)
        if told.f_flag & os.ST_RDONLY:
            return fault(OSError(errno.EROFS, os.strerror(errno.EROFS)), place)
        # SQLite without inodes or room for its journals says that the database cannot be opened, or
        # that there was an I/O error.
        full |= told.f_files > 0 and told.f_favail < _JOURNALS
        full |= told.f_bavail * told.f_frsize < _JOURNAL_BYTES
    if full:
        return fault(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), place)
    return None


@contextlib.contextmanager
def usable(place: Path) -> Iterator[None]:
    """Raise what the file system refuses at `place` as `fault` says it."""
    try:
        yield
    except OSError as error:
        raise fault(error, place) from None


def remove(path: Path) -> None:
    """Remove a tree, also one whose directories are read-only."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    todo, directories = [os.fsencode(path)], []
    while todo:  # no recursion: a hostile tree may be 2,000 deep
        directories.append(todo.pop())
        os.chmod(directories[-1], 0o700)  # noqa: PTH101 names are bytes
        with os.scandir(directories[-1]) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                else:
                    os.unlink(entry.path)  # noqa: PTH108 names are bytes
    for directory in reversed(directories):
        os.rmdir(directory)  # noqa: PTH106 names are bytes


def try_lock(fd: int) -> bool:
    """Take the exclusive lock on an open file (flock) unless somebody else has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _left(code: int, place: Path) -> str:
    """Tell bytes from inodes: both run out with the same code."""
    if code not in FULL:
        return ""
    try:
        return f" (left on {mount_point(place)}: {free(place)})"
    except (OSError, NodeAgentError):  # it is the first failure that shall be told
        return ""
