"""When which contents are read again: within a period, spread evenly, the oldest first. Pure.

Each sitting reads what is paid for by the rest that follows it, so a node sleeps for long
between two. Times are unix seconds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

SITTINGS: Final = 1000  # in a period, at most: each starts a process
LOOKS: Final = 30  # in a period, at least: what is new on disk is noticed then
ROUND: Final = 0.8  # of the period: how long reading all of it takes
DEADLINE: Final = (
    0.9  # of the period: what is older does not wait for its turn; looks take time, too
)


@dataclass(frozen=True, order=True)
class Content:
    """A store path in the order of reading; `at` is when its contents were last known whole."""

    at: int
    unpublished: bool
    path: str
    size: int


@dataclass(frozen=True)
class Sitting:
    """What to read now; until when that is rest enough, when to look again; and the rate.

    `rate` is what the period demands, in bytes a second.
    """

    paths: Sequence[str]
    rests: float
    wake: float
    rate: float


def sitting(contents: Iterable[Content], now: float, rests: float | None, period: float) -> Sitting:
    """Decide what is read now, when earlier reading is rest enough until `rests`.

    Whatever is read pays for its size at the rate. What is about to be overdue is read at once,
    and for nothing: else all that was read in one burst would be read in one burst for ever.
    A node that begins (`rests` is None) begins with a rest.
    """
    horizon, look = now + period / SITTINGS, now + period / LOOKS
    known = sorted(contents)
    # A time ahead of now is a wrong clock's.
    urgent = [one.path for one in known if min(one.at, now) + DEADLINE * period <= horizon]
    rate = sum(one.size for one in known) / (ROUND * period)
    paid = max(now, horizon if rests is None else min(rests, now + period))
    paths = list(urgent)
    for one in known[len(urgent) :]:
        if paid >= horizon:
            break
        paths.append(one.path)
        paid += one.size / rate
    wake = look if paid < horizon else min(paid, look)
    return Sitting(paths, paid, wake, rate)
