"""The breaker: namespaces in which what admission adds keeps pods from starting.

Pods that wait because no node fits their selector or affinity count, if they are injected, and so
do creations that other admission refused over our volumes. It closes when they are gone. Times
are unix seconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

MANY: Final = 3
MANY_SECONDS: Final = 120.0  # an autoscaler needs about as long for a node
ONE_SECONDS: Final = 600.0
REFUSED_SECONDS: Final = 600.0  # how long a refused creation counts


@dataclass(frozen=True, slots=True)
class Stuck:
    """An injected pod that no node fits; `since` when."""

    namespace: str
    since: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A creation that other admission refused over what we had added, and when."""

    namespace: str
    at: float


def broken(stuck: Iterable[Stuck], refused: Iterable[Refused], now: float) -> frozenset[str]:
    """Name the namespaces into which nothing is injected for now."""
    waits: dict[str, list[float]] = {}
    for one in stuck:
        waits.setdefault(one.namespace, []).append(now - one.since)
    found = {one.namespace for one in refused if abs(now - one.at) < REFUSED_SECONDS}
    return frozenset(found | {namespace for namespace, ages in waits.items() if _opens(ages)})


def _opens(ages: list[float]) -> bool:
    longest = sorted(ages, reverse=True)
    return longest[0] >= ONE_SECONDS or longest[MANY - 1 :][:1] >= [MANY_SECONDS]
