"""What a build and its workers say to each other: JSON lines over a pipe.

Plain dataclasses: a worker must start fast and stay small.
"""

import json
from dataclasses import asdict, dataclass

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
_EVENTS: dict[str, type[Progress] | type[Packed] | type[Failed]] = {
    kind.__name__: kind for kind in (Progress, Packed, Failed)
}


def encode(message: Job | Event) -> bytes:
    """Write one line."""
    return json.dumps({"is": type(message).__name__, **asdict(message)}).encode() + b"\n"


def read_job(line: bytes) -> Job:
    """Read a job."""
    data = json.loads(line)
    del data["is"]
    return Job(**data)


def read_event(line: bytes) -> Event:
    """Read what a worker says."""
    data = json.loads(line)
    return _EVENTS[data.pop("is")](**data)
