"""Whether a cache is worth asking: a dead one costs one time-out, not one per path.

A worker lives for one pass, so its memory ends with the pass; the agent's is renewed at the
start of each, except where a cache itself said when to come back.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

DOWN_SECONDS: Final = 60.0
ASKED_SECONDS: Final = 120.0  # the longest Retry-After that is obeyed: the agent's slowest retry
STRIKES: Final = 3


@dataclass(frozen=True)
class Down:
    """A cache that is not to be asked for so many seconds, and why."""

    name: str
    cause: str
    seconds: float


@dataclass
class Health:
    """What is known of one cache."""

    clock: Callable[[], float] = time.monotonic
    strikes: int = 0
    cause: str = ""
    until: float = 0.0
    asked: bool = False

    @property
    def down(self) -> bool:
        """Tell whether to leave the cache alone now."""
        return self.clock() < self.until

    def good(self) -> None:
        """Note that a file came whole, or that its absence was told."""
        self.strikes = 0

    def strike(self, cause: str) -> None:
        """Note a fault that may be one file's; several in a row are the cache's."""
        self.strikes += 1
        if self.strikes >= STRIKES:
            self.give_up(cause)

    def give_up(self, cause: str, seconds: float = DOWN_SECONDS, *, asked: bool = False) -> None:
        """Leave the cache alone for a while; `asked` if it said so itself."""
        limit = ASKED_SECONDS if asked else DOWN_SECONDS
        self.strikes, self.cause, self.asked = 0, cause, asked
        self.until = self.clock() + min(seconds, limit)


@dataclass
class Memory:
    """What one process knows of its caches, by name."""

    healths: dict[str, Health] = field(default_factory=dict)

    def of(self, name: str) -> Health:
        """Give a cache's health, a new one for a new name."""
        return self.healths.setdefault(name, Health())

    def learn(self, downs: Iterable[Down]) -> None:
        """Take over what another process found out."""
        for down in downs:
            self.of(down.name).give_up(down.cause, down.seconds, asked=True)

    def downs(self) -> list[Down]:
        """List what is down, for another process."""
        return [
            Down(name, health.cause, health.until - health.clock())
            for name, health in self.healths.items()
            if health.down
        ]

    def renew(self) -> None:
        """Begin a pass: try all again but those that asked for time."""
        self.healths = {
            name: health for name, health in self.healths.items() if health.down and health.asked
        }
