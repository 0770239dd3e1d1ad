from hypothesis import given
from hypothesis import strategies as st

from nodeagent.cache.throttle import Throttle


class Clock:
    """A clock that sleeping advances."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, 0.0

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds
        self.slept += seconds


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 10_000))), st.integers(1, 10_000))
def test_never_more_than_the_rate_comes(takes: list[tuple[float, int]], rate: int) -> None:
    clock = Clock()
    throttle, paid = Throttle(rate, clock.time, clock.sleep), 0
    for pause, count in takes:
        clock.now += pause
        throttle.pay(count)
        paid += count
        assert paid <= rate * clock.now * (1 + 1e-9)


def test_who_is_slower_than_the_rate_never_waits_twice() -> None:
    clock = Clock()
    throttle = Throttle(100, clock.time, clock.sleep)
    throttle.pay(50)
    clock.now += 10
    throttle.pay(50)
    assert clock.slept == 1.0


def test_without_a_rate_nobody_waits() -> None:
    clock = Clock()
    Throttle(0, clock.time, clock.sleep).pay(1 << 40)
    assert clock.slept == 0
