"""The breaker, fed: what is watched for it, and which namespaces it is open for now.

Where a sign cannot be watched it counts for nothing, and the breaker stays closed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from nodeagent.admission import breaker
from nodeagent.admission.breaker import Stuck
from nodeagent.fleet.trouble import Refusals, Waits
from nodeagent.kube.watch import Change

JUDGE_SECONDS: Final = 1.0  # it is not judged for each review
WAITS_SECONDS: Final = 90.0  # pods of which nothing was heard for so long may run by now
WAITING: Final = "waiting pods"
REFUSED: Final = "refused creations"

Break = Callable[[str, str | None], None]


class Breaker:
    """`on_break` hears of each namespace for which it opens, and why, or closes: None.

    `clock` gives unix seconds, `steady` seconds that only grow.
    """

    def __init__(
        self, on_break: Break, clock: Callable[[], float], steady: Callable[[], float]
    ) -> None:
        self.on_break, self.clock, self.steady = on_break, clock, steady
        self._waits, self._refusals = Waits(), Refusals()
        self.signs: Mapping[str, Waits | Refusals] = {
            WAITING: self._waits,
            REFUSED: self._refusals,
        }
        self._heard = self._judged = -math.inf
        self._open: frozenset[str] = frozenset()

    def take(self, resource: str, change: Change[Any]) -> None:
        """Follow a change of a sign; judge, too, so that the log has it though nobody asks."""
        self.signs[resource].take(change)
        if resource == WAITING:
            self._heard = self.steady()
        self.broken()

    def broken(self) -> frozenset[str]:
        """Name the namespaces for which it is open; what is new counts a moment later."""
        now = self.steady()
        if now - self._judged >= JUDGE_SECONDS:
            self._judged = now
            waits = self._waits if now - self._heard <= WAITS_SECONDS else ()
            self._judge([*waits], self.clock())
        return self._open

    def _judge(self, waits: Sequence[Stuck], now: float) -> None:
        refusals = self._refusals.fresh(now)
        before, self._open = self._open, breaker.broken(waits, refusals, now)
        refused = {one.namespace for one in refusals}
        for namespace in sorted(self._open - before):
            self.on_break(namespace, REFUSED if namespace in refused else WAITING)
        for namespace in sorted(before - self._open):
            self.on_break(namespace, None)
