"""A scrub worker: one process that hashes trees, for the NAR reader holds the interpreter's lock.

Run as `python -m nodeagent.verify.worker`: jobs on stdin, events on stdout.
"""

import ctypes
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nodeagent import messages, nar, storepath

_PR_SET_PDEATHSIG: Final = 1
_SAY_EVERY_SECONDS: Final = 0.1
_NICENESS: Final = 10  # counts inside the agent's own container only: a pour goes first


@dataclass(frozen=True)
class Job:
    """Hash the tree at a real path; no `bytes_per_second` means full speed."""

    tree: str
    bytes_per_second: float | None = None


@dataclass(frozen=True)
class Progress:
    """Bytes of NAR hashed since the last word."""

    bytes: int


@dataclass(frozen=True)
class Hashed:
    """What the tree is; the hash as narinfos write it, the size in bytes of its NAR."""

    nar_hash: str
    nar_size: int


@dataclass(frozen=True)
class Unreadable:
    """The tree cannot be read to its end."""

    fault: str


@dataclass(frozen=True)
class Misshapen:
    """The tree has a mode or a kind of file that no store path has; its contents may be whole."""

    fault: str


Event = Progress | Hashed | Unreadable | Misshapen
_EVENTS: tuple[type[Event], ...] = (Progress, Hashed, Unreadable, Misshapen)


def read_event(line: bytes) -> Event:
    """Read what a worker says."""
    return messages.decode(line, *_EVENTS)


def hash_tree(job: Job, say: Callable[[Progress], None]) -> Hashed | Unreadable | Misshapen:
    """Look at a tree's modes, then hash it, telling how far it is; expected failures are values."""
    try:
        nar.measure(os.fsencode(job.tree))  # of modes, a NAR has the owner's x bit alone
    except nar.NarError as error:
        return Misshapen(str(error))
    except OSError as error:
        return Unreadable(str(error))
    return _hash_contents(job, say)


def _hash_contents(job: Job, say: Callable[[Progress], None]) -> Hashed | Unreadable:
    digest, size, said = hashlib.sha256(), 0, 0
    began = said_at = time.monotonic()
    try:
        for chunk in nar.dump(os.fsencode(job.tree)):
            digest.update(chunk)
            size += len(chunk)
            now = time.monotonic()
            if now - said_at >= _SAY_EVERY_SECONDS:
                say(Progress(size - said))
                said, said_at = size, now
            if job.bytes_per_second is not None:
                time.sleep(max(0.0, began + size / job.bytes_per_second - now))
    except (OSError, nar.NarError) as error:
        return Unreadable(str(error))
    return Hashed(storepath.nar_hash(digest.digest()), size)


def main() -> None:
    """Work off jobs until stdin ends, or the agent does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the agent decides
    os.nice(_NICENESS)
    out = sys.stdout.buffer

    def say(event: Event) -> None:
        out.write(messages.encode(event))
        out.flush()

    for line in sys.stdin.buffer:
        say(hash_tree(messages.decode(line, Job), say))


if __name__ == "__main__":
    main()
