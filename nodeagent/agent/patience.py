"""Patience with the API server: waits that double, and what is wrong is told once."""

import asyncio
from dataclasses import dataclass
from typing import Final

from nodeagent.errors import NodeAgentError
from nodeagent.kube import BusyError, RefusedError
from nodeagent.names import Reason

RETRY_SECONDS: Final = 1.0
RETRY_MAX_SECONDS: Final = 30.0


@dataclass
class Patience:
    """How one kind of request has fared since it last succeeded."""

    _failures: int = 0
    _said: str = ""
    _until: float = 0.0

    @property
    def left(self) -> float:
        """Seconds until the next try."""
        return max(self._until - asyncio.get_running_loop().time(), 0.0)

    def succeed(self) -> None:
        """Forget all failures."""
        self._failures, self._said, self._until = 0, "", 0.0

    def fail(self, error: NodeAgentError) -> None:
        """Note a failure: the next try comes later, and not before the server wants it."""
        own = min(RETRY_SECONDS * 2.0 ** min(self._failures, 16), RETRY_MAX_SECONDS)
        self._failures += 1
        wait = error.wait if isinstance(error, BusyError) else 0.0
        self._until = asyncio.get_running_loop().time() + max(own, wait)

    def is_news(self, error: NodeAgentError) -> bool:
        """Tell whether this was not said last, however often it comes."""
        unknown = isinstance(error, RefusedError) and error.status == 401
        away = error.reason is Reason.API_UNREACHABLE
        # Then each request fails in its own words.
        trouble = f"{error.reason}" if away or unknown else error.message
        before, self._said = self._said, trouble
        return trouble != before
