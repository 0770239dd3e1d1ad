from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent import retention
from nodeagent.history import Span
from nodeagent.retention import Answer, Container, Generation, Step, Verdict
from tests.handmade import digest

NOW: Final = datetime(2026, 6, 1, tzinfo=UTC)
MARGIN: Final = timedelta(minutes=5)
GRACE: Final = timedelta(minutes=15)
HOUR: Final = timedelta(hours=1)
SECOND: Final = timedelta(seconds=1)


def generation(number: int, *hours: float, withdrawn: timedelta | None = None) -> Generation:
    """Make one that pods got between each pair of hours ago; an odd hour out is still open."""
    moments = [NOW - hour * HOUR for hour in hours]
    pairs = zip(moments[::2], [*moments[1::2], None][: (len(moments) + 1) // 2], strict=True)
    spans = tuple(Span(since=since, until=until) for since, until in pairs)
    return Generation(digest(number), spans, None if withdrawn is None else NOW - withdrawn)


CURRENT: Final = generation(3, 1)
BEFORE: Final = generation(2, 5, 1)
FIRST: Final = generation(1, 9, 5)
ALL: Final = (FIRST, BEFORE, CURRENT)


def verdict(one: Generation, *answers: Answer) -> Verdict:
    [judged] = retention.judge([one], answers, GRACE, NOW)
    return judged


def test_what_somebody_needs_is_kept_and_each_need_is_told() -> None:
    pins = Answer("pins", {FIRST.digest: "the pins select it"})
    pods = Answer("pods", {FIRST.digest: "container a/b/c may use it"})
    judged = verdict(replace(FIRST, withdrawn=NOW - HOUR), pins, pods)
    assert judged.step is Step.KEEP
    assert judged.reason == "the pins select it; container a/b/c may use it"


def test_who_does_not_answer_may_need_anything() -> None:
    judged = verdict(replace(FIRST, withdrawn=NOW - HOUR), Answer("pods", silent="no API server"))
    assert judged.step is Step.KEEP
    assert judged.reason == "nobody knows who needs it (pods: no API server)"


def test_what_nobody_needs_is_withdrawn_waits_and_goes() -> None:
    steps = []
    for ago in (None, timedelta(), GRACE - SECOND, GRACE):
        withdrawn = None if ago is None else NOW - ago
        steps.append(verdict(replace(FIRST, withdrawn=withdrawn), Answer("pins")).step)
    assert steps == [Step.WITHDRAW, Step.WAIT, Step.WAIT, Step.DELETE]


def test_a_clock_that_was_set_back_deletes_nothing_early() -> None:
    assert verdict(replace(FIRST, withdrawn=NOW + HOUR)).step is Step.WAIT


@pytest.mark.parametrize(
    ("ago", "expected"),
    [
        (timedelta(), {3}),
        (HOUR - MARGIN, {3, 2}),
        (HOUR - MARGIN - SECOND, {3}),
        (HOUR, {3, 2}),
        (HOUR + MARGIN, {3, 2}),
        (HOUR + MARGIN + SECOND, {2}),
        (9 * HOUR + MARGIN, {1}),
        (9 * HOUR + MARGIN + SECOND, {1, 2, 3}),  # older than all that is remembered
    ],
)
def test_a_container_uses_what_pods_got_when_it_started(ago: timedelta, expected: set[int]) -> None:
    needs = retention.used(ALL, [Container("ns/pod/main", NOW - ago)], MARGIN)
    assert needs.keys() == {digest(number) for number in expected}
    assert set(needs.values()) == {"container ns/pod/main may use it"}


def test_a_generation_that_came_back_is_used_by_those_of_either_time() -> None:
    back = generation(1, 9, 5, 2, 1)
    for hours in (7, 1.5):
        started = NOW - hours * HOUR
        assert back.digest in retention.used([back, BEFORE], [Container("a", started)], MARGIN)


def test_the_newest_are_those_that_pods_got_last() -> None:
    assert retention.newest(ALL, 2).keys() == {digest(3), digest(2)}
    assert retention.newest([*ALL, generation(4)], 9).keys() == {digest(n) for n in (1, 2, 3)}
    assert retention.newest(ALL, 0) == {}


DIGESTS: Final = [digest(number) for number in range(5)]
moments = st.integers(0, 1000).map(lambda minutes: NOW - timedelta(minutes=minutes))
generations = st.lists(
    st.builds(
        Generation,
        digest=st.sampled_from(DIGESTS),
        spans=st.lists(moments.map(lambda since: Span(since=since)), max_size=2).map(tuple),
        withdrawn=st.none() | moments,
    ),
    unique_by=lambda one: one.digest,
)
needs = st.dictionaries(st.sampled_from(DIGESTS), st.just("why"))
answers = st.lists(
    st.builds(Answer, holder=st.just("x"), needs=needs, silent=st.sampled_from(["", "away"]))
)


@given(generations, answers)
def test_nothing_goes_that_is_needed_that_may_be_needed_or_that_had_no_grace(
    known: Sequence[Generation], told: Sequence[Answer]
) -> None:
    judged = {one.digest: one for one in retention.judge(known, told, GRACE, NOW)}
    assert judged.keys() == {one.digest for one in known}
    for one in known:
        found = judged[one.digest]
        assert found.reason
        needed = any(answer.silent or one.digest in answer.needs for answer in told)
        assert (found.step is Step.KEEP) == needed
        if found.step is Step.DELETE:
            assert one.withdrawn is not None
            assert one.withdrawn + GRACE <= NOW


@given(generations, answers, needs)
def test_another_need_lets_nothing_more_go(
    known: Sequence[Generation], told: Sequence[Answer], more: Mapping[str, str]
) -> None:
    fewer = {
        one.digest for one in retention.judge(known, told, GRACE, NOW) if one.step is Step.KEEP
    }
    again = retention.judge(known, [*told, Answer("more", more)], GRACE, NOW)
    assert fewer <= {one.digest for one in again if one.step is Step.KEEP}
