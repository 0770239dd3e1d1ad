from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nodeagent.names import Phase, Reason
from nodeagent.report import TELLINGS, Problem, Report, Status
from tests.handmade import NOW
from tests.statuses import STATUS


class Clock:
    """A clock that a test sets."""

    now = NOW

    def __call__(self) -> datetime:
        return self.now


def heard() -> tuple[Report, list[Problem], Clock]:
    problems: list[Problem] = []
    clock = Clock()
    return Report(on_problem=problems.append, clock=clock), problems, clock


def test_a_new_problem_is_told() -> None:
    report, problems, _ = heard()
    report.fail(Reason.PINS_MISSING, "no pins")
    assert problems == [Problem(reason=Reason.PINS_MISSING, message="no pins", since=NOW)]
    assert report.problem == problems[0]


def test_the_same_problem_again_is_no_news_and_keeps_its_age() -> None:
    report, problems, clock = heard()
    report.fail(Reason.PINS_MISSING, "no pins")
    clock.now += timedelta(hours=1)
    report.fail(Reason.PINS_MISSING, "no pins")
    assert len(problems) == 1
    assert report.problem is not None
    assert report.problem.since == NOW


@pytest.mark.parametrize(
    ("reason", "message"),
    [(Reason.PINS_INVALID, "no pins"), (Reason.PINS_MISSING, "no pins at all")],
)
def test_another_reason_or_message_is_another_problem(reason: Reason, message: str) -> None:
    report, problems, clock = heard()
    report.fail(Reason.PINS_MISSING, "no pins")
    clock.now += timedelta(hours=1)
    report.fail(reason, message)
    assert [one.since for one in problems] == [NOW, clock.now]


def test_problems_that_take_turns_are_each_told_once_and_keep_their_age() -> None:
    report, problems, clock = heard()
    for _ in range(5):
        report.fail(Reason.PATH_DAMAGED, "a path is gone")
        report.fail(Reason.CACHE_UNREACHABLE, "no cache")
        clock.now += timedelta(hours=1)
    assert [one.reason for one in problems] == [Reason.PATH_DAMAGED, Reason.CACHE_UNREACHABLE]
    assert report.problem == problems[1]


def test_a_problem_whose_message_keeps_changing_is_told_a_few_times_and_shown_always() -> None:
    report, problems, clock = heard()
    for free in range(3 * TELLINGS):
        report.fail(Reason.DISK_SHORT, f"{free} bytes left")
    clock.now += timedelta(hours=1)
    report.fail(Reason.DISK_SHORT, f"{free} bytes left")
    assert [one.message for one in problems] == [f"{n} bytes left" for n in range(TELLINGS)]
    assert report.problem is not None
    assert report.problem.message == f"{3 * TELLINGS - 1} bytes left"
    assert report.problem.since == NOW
    report.fail(Reason.PINS_MISSING, "no pins")
    report.problem = None
    report.fail(Reason.DISK_SHORT, "1 bytes left")
    later = [one.reason for one in problems[TELLINGS:]]
    assert later == [Reason.PINS_MISSING, Reason.DISK_SHORT]


def test_a_problem_that_comes_back_is_news() -> None:
    report, problems, _ = heard()
    report.fail(Reason.PINS_MISSING, "no pins")
    report.problem = None
    report.fail(Reason.PINS_MISSING, "no pins")
    assert len(problems) == 2


def test_a_report_of_its_own_has_the_right_time() -> None:
    report = Report()
    report.fail(Reason.PINS_MISSING, "no pins")
    assert report.problem is not None
    assert abs(datetime.now(UTC) - report.problem.since) < timedelta(minutes=1)


def test_a_new_conflict_is_told_once() -> None:
    told: list[Problem] = []
    report = Report(on_problem=told.append)
    for paths in (("a",), ("a",), ("a", "b"), (), ("a",)):
        report.conflict(paths)
        assert report.conflicts == paths
    assert [one.message.partition(":")[0] for one in told] == ["a", "b", "a"]
    assert {one.reason for one in told} == {Reason.PATH_CONFLICT}
    assert report.problem is None  # nothing went wrong: the path stays as it is


def test_each_phase_and_each_new_problem_may_have_something_to_tell() -> None:
    calls: list[Phase] = []
    report = Report()
    report.on_change = lambda: calls.append(report.phase)
    report.enter(Phase.PLANNING)
    assert calls == [Phase.PLANNING]
    for _ in range(2):
        report.fail(Reason.PINS_MISSING, "no pins")
    assert len(calls) == 2
    report.fail(Reason.PINS_MISSING, "still none")
    assert len(calls) == 3


def test_a_problem_is_there_when_a_change_is_announced() -> None:
    seen: list[Problem | None] = []
    report = Report()
    report.on_change = lambda: seen.append(report.problem)
    report.fail(Reason.PINS_MISSING, "no pins")
    assert report.problem is not None
    assert seen == [report.problem]


def pouring(total: int = 1000) -> Report:
    report = Report(phase=Phase.POURING)
    report.pouring(total, 10, now=100.0)
    return report


def test_progress_tells_rate_and_time_left() -> None:
    progress = pouring().progress(250, 2, now=110.0)
    assert progress is not None
    assert (progress.bytes_done, progress.bytes_total) == (250, 1000)
    assert (progress.paths_done, progress.paths_total) == (2, 10)
    assert (progress.bytes_per_second, progress.eta_seconds) == (25.0, 30.0)


@pytest.mark.parametrize(("done", "now"), [(0, 110.0), (250, 100.0), (0, 100.0)])
def test_before_anything_is_measured_no_time_is_promised(done: int, now: float) -> None:
    progress = pouring().progress(done, 0, now)
    assert progress is not None
    assert progress.eta_seconds is None


@pytest.mark.parametrize("phase", sorted(set(Phase) - {Phase.POURING}))
def test_in_other_phases_there_is_no_progress(phase: Phase) -> None:
    report = pouring()
    report.phase = phase
    assert report.progress(1, 1, now=101.0) is None


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.floats(0, 1e9), st.floats(0.001, 1e6))
def test_progress_is_always_a_document(done: int, more: int, start: float, took: float) -> None:
    report = Report(phase=Phase.POURING)
    report.pouring(done + more, 1, start)
    progress = report.progress(done, 0, start + took)
    assert progress is not None
    assert progress.eta_seconds is None or progress.eta_seconds >= 0


def test_a_status_is_read_as_it_was_written() -> None:
    text = STATUS.model_dump_json(by_alias=True)
    assert Status.model_validate_json(text) == STATUS


def test_a_status_speaks_camel_case() -> None:
    text = STATUS.model_dump_json(by_alias=True)
    assert '"apiVersion":"nodeagent.dev/v1"' in text
    assert '"bytesPerSecond":' in text


def test_another_document_is_no_status() -> None:
    with pytest.raises(ValidationError):
        Status.model_validate(STATUS.model_dump() | {"kind": "Pins"})
