"""Report: what the agent says of itself at /v1/status, and how it is kept.

`Report` is the agent's own running account; `Status` is the document others read.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from nodeagent import __version__
from nodeagent.model import Document, Moment
from nodeagent.names import API_VERSION, Phase, Reason

TELLINGS: Final = 10  # of one reason until all is well again: messages with numbers change


class Target(Document):
    """A release as selected or published."""

    release: str
    channel: str
    serial: int


class Progress(Document):
    """How far the running pass is; bytes are of NARs, unpacked; rate in bytes per second."""

    bytes_done: int
    bytes_total: int
    paths_done: int
    paths_total: int
    bytes_per_second: float
    eta_seconds: float | None


class ScrubProgress(Document):
    """How far the scrub of contents is, or was when it ended; bytes are of NARs."""

    running: bool
    bytes_done: int
    bytes_total: int
    paths_done: int
    paths_total: int
    damaged: int


class Problem(Document):
    """The last thing that went wrong and still does."""

    reason: Reason
    message: str
    since: Moment


class FailedCheck(Document):
    """A check that does not hold; only a `needed` one makes the node unready."""

    name: str
    needed: bool
    reason: Reason
    message: str


class ProfileStatus(Document):
    """One published profile."""

    root: str
    kind: str
    published: bool


class Repair(Document):
    """A path that was exchanged in this boot, and the published profiles that need it.

    A container that started before `at` may still hold what was there, which is kept in `kept`;
    `restart` names those (`namespace/pod/container`), where there is an API server to ask.
    """

    path: str
    fault: str
    at: Moment
    kept: str
    profiles: tuple[str, ...]
    restart: tuple[str, ...] = ()


class ReleaseVerdict(Document):
    """What becomes of a release that the node has, and why."""

    release: str
    step: str
    reason: str


class Collection(Document):
    """The answer to POST /v1/collect; bytes are of NARs, `paths` says of each why it stays."""

    releases: tuple[ReleaseVerdict, ...]
    paths_deleted: int
    bytes_deleted: int
    paths: Mapping[str, str] = {}


class Status(Document):
    """The document at /v1/status."""

    api_version: Literal["nodeagent.dev/v1"] = API_VERSION
    kind: Literal["Status"] = "Status"
    version: str = __version__
    node: str
    fleet: str
    channel: str
    system: str
    phase: Phase
    ready: bool
    wanted: Target | None
    published: Target | None
    profiles: Mapping[str, ProfileStatus]
    progress: Progress | None
    problem: Problem | None
    elsewhere: Mapping[str, tuple[str, ...]] = {}
    conflicts: tuple[str, ...] = ()
    scrub: ScrubProgress | None = None
    repairs: tuple[Repair, ...] = ()
    failed_checks: tuple[FailedCheck, ...] = ()


def utc_now() -> datetime:
    """Read this machine's clock."""
    return datetime.now(UTC)


def clock(skew_seconds: float) -> Callable[[], datetime]:
    """Give a clock that is ahead of this machine's, or behind it by a negative number."""
    skew = timedelta(seconds=skew_seconds)
    return lambda: utc_now() + skew


@dataclass
class Report:
    """The account that the agent keeps while it works.

    `on_problem` hears each new problem; `on_change` is called when there is anything to tell.
    `clock` is the agent's only one: it judges expiry and dates heartbeats, too.
    """

    on_problem: Callable[[Problem], None] = lambda _: None
    on_change: Callable[[], None] = lambda: None
    clock: Callable[[], datetime] = utc_now
    phase: Phase = Phase.STARTING
    wanted: Target | None = None
    problem: Problem | None = None
    conflicts: tuple[str, ...] = ()
    elsewhere: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unguarded: bool = False
    bytes_total: int = 0
    paths_total: int = 0
    poured_from: float = 0.0
    _told: dict[tuple[Reason, str], Problem] = field(default_factory=dict)

    def enter(self, phase: Phase) -> None:
        """Note what the agent is doing now."""
        self.phase = phase
        self.on_change()

    def fail(self, reason: Reason, message: str) -> None:
        """Note a problem; one that was told since all was well is no news and keeps its `since`.

        Faults that take turns are each told once, and of one reason never more than TELLINGS.
        """
        before = self.problem
        if before is None:
            self._told.clear()
        elif (before.reason, before.message) == (reason, message):
            return
        self.problem = self._told.get((reason, message)) or self._new(reason, message)
        self.on_change()

    def _new(self, reason: Reason, message: str) -> Problem:
        problem = Problem(reason=reason, message=message, since=self.clock())
        if Counter(known for known, _ in self._told)[reason] < TELLINGS:
            self._told[reason, message] = problem
            self.on_problem(problem)
        return problem

    def tell(self, reason: Reason, message: str) -> None:
        """Tell a problem that is none of the passes'."""
        self.on_problem(Problem(reason=reason, message=message, since=self.clock()))

    def conflict(self, paths: tuple[str, ...]) -> None:
        """Note the paths that stay as they are with another hash than released; alert once."""
        if fresh := [path for path in paths if path not in self.conflicts]:
            message = f"{', '.join(fresh)}: valid with another hash than released, stays as it is"
            self.tell(Reason.PATH_CONFLICT, message)
        self.conflicts = paths

    def pouring(self, bytes_total: int, paths_total: int, now: float) -> None:
        """Note what a pass has to bring; `now` is monotonic, in seconds."""
        self.bytes_total, self.paths_total, self.poured_from = bytes_total, paths_total, now

    def progress(self, bytes_done: int, paths_done: int, now: float) -> Progress | None:
        """Work out rate and time left while a pass pours."""
        if self.phase is not Phase.POURING:
            return None
        elapsed = now - self.poured_from
        rate = bytes_done / elapsed if elapsed > 0 else 0.0
        left = self.bytes_total - bytes_done
        return Progress(
            bytes_done=bytes_done,
            bytes_total=self.bytes_total,
            paths_done=paths_done,
            paths_total=self.paths_total,
            bytes_per_second=round(rate, 1),
            eta_seconds=round(left / rate, 1) if rate else None,
        )
