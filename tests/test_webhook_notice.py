from dataclasses import dataclass, field
from typing import Any

import structlog
from structlog.testing import LogCapture

from nodeagent.webhook import notice
from nodeagent.webhook.notice import Notices


@dataclass
class Told:
    """Notices, with a clock to turn; `lines` are what the log got."""

    now: float = 1000.0
    capture: LogCapture = field(default_factory=LogCapture)

    def __post_init__(self) -> None:
        logger = structlog.wrap_logger(None, processors=[self.capture])
        self.notices = Notices(logger, clock=lambda: self.now)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [dict(one) for one in self.capture.entries]


def test_the_same_is_told_once_a_minute_with_how_often_it_was() -> None:
    told = Told()
    for _ in range(5):
        told.notices.tell("a", "it happened", pod="x")
        told.now += 10
    assert told.lines == [{"event": "it happened", "pod": "x", "log_level": "warning"}]
    told.now += 60
    told.notices.tell("a", "it happened", pod="y")
    assert told.lines[1:] == [
        {"event": "it happened", "pod": "y", "unsaid": 4, "log_level": "warning"}
    ]


def test_each_kind_of_thing_is_told() -> None:
    told = Told()
    for kind in ("a", "b", "a", ("a", "b")):
        told.notices.tell(kind, "it happened", kind=kind)
    assert [one["kind"] for one in told.lines] == ["a", "b", ("a", "b")]


def test_what_is_told_seldom_says_nothing_of_others() -> None:
    told = Told()
    for _ in range(3):
        told.notices.tell("a", "it happened")
        told.now += notice.QUIET_SECONDS
    assert len(told.lines) == 3
    assert not [one for one in told.lines if "unsaid" in one]


def test_however_many_kinds_there_are_few_are_remembered() -> None:
    told = Told()
    for number in range(notice.REMEMBERED + 10):
        told.notices.tell(number, "it happened")
    told.notices.tell(notice.REMEMBERED, "it happened")  # known still
    assert len(told.lines) == notice.REMEMBERED + 10
    told.notices.tell(0, "it happened")  # forgotten
    assert len(told.lines) == notice.REMEMBERED + 11
