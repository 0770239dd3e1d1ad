"""A bound on the bytes that caches give us in a second, for nodes whose network others share."""

import time
from collections.abc import Callable


class Throttle:
    """Whoever got bytes waits until they are paid for; no `bytes_per_second` means no bound."""

    def __init__(
        self,
        bytes_per_second: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate, self._clock, self._sleep = bytes_per_second, clock, sleep
        self._free_at = clock()

    def pay(self, count: int) -> None:
        """Wait as long as `count` bytes may take; a pause before earns nothing."""
        if not self._rate:
            return
        now = self._clock()
        self._free_at = max(self._free_at, now) + count / self._rate
        self._sleep(self._free_at - now)
