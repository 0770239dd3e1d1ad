"""What a build and its workers say to each other."""

from dataclasses import dataclass

from nodeagent import messages
from nodeagent.bake.pack import Packed


@dataclass(frozen=True)
class Job:
    """Pack the store path that lies at `tree` and should have this hash and size."""

    path: str
    tree: str
    nar_hash: str
    nar_size: int


@dataclass(frozen=True)
class Progress:
    """Bytes of NAR packed since the last word."""

    bytes: int


@dataclass(frozen=True)
class Failed:
    """The path could not be packed; `fatal` if no other could be either."""

    cause: str
    fatal: bool


Event = Progress | Packed | Failed
_EVENTS: tuple[type[Event], ...] = (Progress, Packed, Failed)


def read_job(line: bytes) -> Job:
    """Read a job."""
    return messages.decode(line, Job)


def read_event(line: bytes) -> Event:
    """Read what a worker says."""
    return messages.decode(line, *_EVENTS)
