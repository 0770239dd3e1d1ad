"""What the agent and its pour workers say to each other."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from nodeagent import messages
from nodeagent.cache import Access, Down


@dataclass(frozen=True)
class Setup:
    """What every job of a worker shares; `caches` are (name, address), in order of trial.

    `down` are those that the agent found not to be worth asking now.
    """

    caches: Sequence[tuple[str, str]]
    trusted_keys: Sequence[str]
    staging: str
    access: Access = field(default_factory=Access)
    down: Sequence[Down] = ()


@dataclass(frozen=True)
class Where:
    """Where a NAR is said to lie, and who vouches for the path.

    `file_hash` only tells which caches have the same bytes: a download may go on at another.
    """

    url: str
    compression: str
    sigs: Sequence[str]
    file_hash: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Job:
    """Bring one store path into staging.

    `found` is a tree that may be the path already (in the store or staged, unregistered).
    """

    path: str
    nar_hash: str
    nar_size: int
    references: Sequence[str]
    where: Where | None = None
    found: str | None = None


@dataclass(frozen=True)
class Progress:
    """Bytes of NAR unpacked since the last word."""

    bytes: int


@dataclass(frozen=True)
class Done:
    """The path is whole and verified, in staging or where it was found."""

    sigs: Sequence[str]
    fetched: bool


@dataclass(frozen=True)
class Failed:
    """The path cannot be had now."""

    reason: str
    message: str


Event = Progress | Done | Failed
_EVENTS: tuple[type[Event], ...] = (Progress, Done, Failed)


def read_setup(line: bytes) -> Setup:
    """Read a worker's first line."""
    data = json.loads(line)
    caches = [(name, url) for name, url in data["caches"]]
    down = tuple(Down(**one) for one in data["down"])
    return Setup(caches, data["trusted_keys"], data["staging"], Access(**data["access"]), down)


def read_job(line: bytes) -> Job:
    """Read a job."""
    data = json.loads(line)
    del data["is"]
    where = data.pop("where")
    return Job(**data, where=Where(**where) if where else None)


def read_event(line: bytes) -> Event:
    """Read what a worker says."""
    return messages.decode(line, *_EVENTS)
