"""When contents are read again: spread over the period, none later than it, and seldom."""

from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.verify.schedule import DEADLINE, LOOKS, ROUND, SITTINGS, Content, sitting
from tests.handmade import path

DAY: Final = 86_400.0
PERIOD: Final = 30 * DAY
NOW: Final = 1_800_000_000


def content(name: str, size: int = 1000, *, age: float = 0, unpublished: bool = False) -> Content:
    return Content(int(NOW - age), unpublished, path(name), size)


def many(count: int, size: int = 1_000_000, *, age: float = 0) -> list[Content]:
    return [content(f"part-{number}", size, age=age) for number in range(count)]


CONTENTS: Final = st.lists(
    st.builds(
        lambda number, size, age: content(f"{number}", size, age=age),
        st.integers(0, 10**6),
        st.integers(1, 10**11),
        st.floats(-PERIOD, 2 * PERIOD),
    ),
    max_size=40,
    unique_by=lambda one: one.path,
)


def test_nothing_to_read_is_looked_for_now_and_then() -> None:
    found = sitting([], NOW, NOW - 1, PERIOD)
    assert (found.paths, found.wake, found.rate) == ([], NOW + PERIOD / LOOKS, 0)


def test_a_new_node_begins_with_a_rest() -> None:
    found = sitting(many(3), NOW, None, PERIOD)
    assert found.paths == []
    assert found.wake == NOW + PERIOD / SITTINGS


def test_while_earlier_reading_is_rest_enough_nothing_is_read() -> None:
    found = sitting(many(3), NOW, NOW + DAY, PERIOD)
    assert (found.paths, found.rests, found.wake) == ([], NOW + DAY, NOW + DAY)


def test_a_large_path_is_paid_for_by_a_long_rest_with_looks_in_it() -> None:
    found = sitting([content("model", 10**10), *many(5)], NOW, NOW, PERIOD)
    rest = 10**10 / found.rate
    assert path("model") in found.paths
    assert found.rests >= NOW + rest > NOW + 20 * DAY
    assert found.wake == NOW + PERIOD / LOOKS


def test_what_is_overdue_is_read_at_once_whatever_was_read_before() -> None:
    late = content("late", 10**12, age=PERIOD)
    found = sitting([late, *many(5)], NOW, NOW + DAY, PERIOD)
    assert found.paths == [late.path]
    assert found.rests == NOW + DAY


def test_of_equally_old_contents_the_published_come_first() -> None:
    some = [content(f"{number}", unpublished=number % 2 == 0, age=PERIOD) for number in range(6)]
    found = sitting(some, NOW, NOW, PERIOD)
    published = {one.path for one in some if not one.unpublished}
    assert set(found.paths[:3]) == published


def test_a_clock_that_was_ahead_does_not_put_reading_off() -> None:
    ahead = [replace(one, at=NOW + 10**9) for one in many(3)]
    assert sitting(ahead, NOW, NOW + 10**9, PERIOD).rests <= NOW + PERIOD
    assert sitting(ahead, NOW, NOW, PERIOD).paths


@given(CONTENTS, st.none() | st.floats(NOW - PERIOD, NOW + 2 * PERIOD))
def test_a_sitting_reads_what_it_must_and_no_more_than_it_can_rest_for(
    contents: list[Content], rests: float | None
) -> None:
    found = sitting(contents, NOW, rests, PERIOD)
    step = PERIOD / SITTINGS
    sizes = {one.path: one.size for one in contents}
    must = {one.path for one in contents if min(one.at, NOW) + DEADLINE * PERIOD <= NOW + step}
    assert must <= set(found.paths)
    assert len(found.paths) == len(set(found.paths))
    more = [sizes[one] for one in found.paths if one not in must]
    assert sum(more[:-1]) <= found.rate * step * 1.001  # only the last one goes beyond
    assert NOW + step <= found.wake <= NOW + PERIOD / LOOKS
    assert NOW <= found.rests <= NOW + PERIOD + (more[-1] / found.rate if more else 0)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=25))
def test_every_content_is_read_again_within_each_period(sizes: list[int]) -> None:
    state = {path(f"{number}"): (NOW, size) for number, size in enumerate(sizes)}
    now, rests, wakes = float(NOW), None, 0
    longest, read = 0.0, 0
    end = NOW + 3 * PERIOD
    while now < end:
        found = sitting(
            [Content(at, False, name, size) for name, (at, size) in state.items()],  # noqa: FBT003 published
            now,
            rests,
            PERIOD,
        )
        for name in found.paths:
            longest, read = max(longest, now - state[name][0]), read + state[name][1]
            state[name] = (int(now), state[name][1])
        rests, now, wakes = found.rests, found.wake, wakes + 1
    assert longest <= PERIOD
    assert min(at for at, _ in state.values()) > end - PERIOD
    assert wakes <= 3 * SITTINGS
    assert read <= 3 * sum(sizes) / ROUND + 2 * max(sizes) + 1


def test_after_a_burst_reading_is_even_again() -> None:
    contents = many(100, age=2 * PERIOD)
    burst = sitting(contents, NOW, NOW, PERIOD)
    assert len(burst.paths) == 100
    after = [replace(one, at=NOW) for one in contents]
    found = sitting(after, burst.wake, burst.rests, PERIOD)
    assert len(found.paths) == 1
    assert found.rests - burst.wake == pytest.approx(ROUND * PERIOD / 100)
