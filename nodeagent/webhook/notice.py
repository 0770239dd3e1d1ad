"""Log lines that cannot become a flood: the same thing once a minute, with how often it was."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

QUIET_SECONDS: Final = 60.0
REMEMBERED: Final = 1024  # kinds of lines; the one that was told longest ago is forgotten first
NO_HTTP: Final = "somebody who does not speak HTTP was turned away"


@dataclass
class _Told:
    at: float
    since: int = 0


@dataclass
class Notices:
    """Tells each kind of thing at most once in `QUIET_SECONDS`; memory is bounded."""

    logger: FilteringBoundLogger
    clock: Callable[[], float] = time.monotonic
    _told: OrderedDict[Hashable, _Told] = field(default_factory=OrderedDict)

    def tell(self, kind: Hashable, event: str, /, **facts: Any) -> None:  # noqa: ANN401 structlog's
        """Log it, or count it for the next line of its kind."""
        now = self.clock()
        told = self._told.get(kind)
        if told is not None and now - told.at < QUIET_SECONDS:
            told.since += 1
            return
        if told is not None and told.since:
            facts["unsaid"] = told.since
        self._told[kind] = _Told(now)
        self._told.move_to_end(kind)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        self.logger.warning(event, **facts)


class _Turned(logging.Handler):
    def __init__(self, notices: Notices) -> None:
        super().__init__()
        self.notices = notices

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        text = " ".join(f"{error or record.getMessage()}".split())
        self.notices.tell((NO_HTTP, type(error)), NO_HTTP, error=text)


def http_logger(notices: Notices) -> logging.Logger:
    """Make what aiohttp logs, a trace for each malformed request, a notice."""
    logger = logging.Logger("webhook", logging.WARNING)  # noqa: LOG001 nobody else shall find it
    logger.addHandler(_Turned(notices))
    return logger
