"""One connection of the webhook: how long it may take for what.

aiohttp waits for a first request without end, so a `Guard` stands between it and the transport.
"""

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import web

REQUEST_SECONDS: Final = 2.0  # what an API server waits for the whole answer
IDLE_SECONDS: Final = 120.0  # API servers end idle connections after 90 s: let them be first


@dataclass(frozen=True)
class Bounds:
    """What connections may cost: how many at a time, and seconds for what.

    One that rests is kept for `idle_seconds`, or for `rest_seconds` where another waits for it.
    """

    connections: int = 256  # an API server has 200 writes under way at most
    request_seconds: float = REQUEST_SECONDS
    idle_seconds: float = IDLE_SECONDS
    rest_seconds: float = 1.0


class Door(Protocol):
    """Who let the connection in, and wants to know what it does."""

    @property
    def bounds(self) -> Bounds:
        """What it may cost."""

    @property
    def is_full(self) -> bool:
        """Tell whether somebody waits outside: then no connection is kept for later."""

    def busy(self, one: "Guard") -> None:
        """A request began."""

    def rested(self, one: "Guard") -> None:
        """It is answered."""

    def closed(self, one: "Guard", error: Exception | None) -> None:
        """The connection has ended."""


class Guard(asyncio.Protocol):
    """One connection: it rests, sends a request in time, is answered, and rests again."""

    def __init__(self, inner: web.RequestHandler, door: Door) -> None:
        self.inner, self.door = inner, door
        self.transport: asyncio.Transport | None = None
        self.resting, self.since = True, 0.0
        self._by: float | None = None  # when a request that began must be complete
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 of a stream
        self.transport = transport
        self.inner.connection_made(transport)
        self.rested()

    def data_received(self, data: bytes) -> None:
        if self.resting:
            self._busy()
            self._by = self._alarm(self.door.bounds.request_seconds)
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        self.inner.eof_received()
        return None  # half a connection is none: it ends

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.transport = None
        self.inner.connection_lost(exc)
        self.door.closed(self, exc)

    def begun(self) -> float:
        """The headers are there; give the time by which the body must be, too."""
        self._busy()
        by, self._by = self._by, None
        if self._timer is not None:
            self._timer.cancel()
        now = asyncio.get_running_loop().time()
        return now + self.door.bounds.request_seconds if by is None else by

    def rested(self) -> None:
        """Nothing is asked any more; whoever then does not ask for long, or read, is dropped."""
        self.resting, self.since = True, asyncio.get_running_loop().time()
        if self.transport is not None:
            self._alarm(self.door.bounds.idle_seconds)
        self.door.rested(self)

    @property
    def may_end(self) -> bool:
        """Tell whether it rests, and nobody has ended it yet."""
        return self.resting and self.transport is not None and not self.transport.is_closing()

    def end(self) -> None:
        """Say goodbye."""
        if self.transport is not None:
            self.transport.close()

    def drop(self) -> None:
        """End the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    def _busy(self) -> None:
        self.resting = False
        self.door.busy(self)

    def _alarm(self, seconds: float) -> float:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.drop)
        return self._timer.when()


def guard(request: web.Request) -> Guard | None:
    """Give the guard of a request's connection; None if that is lost."""
    transport = request.transport
    protocol = transport.get_protocol() if transport is not None else None
    return protocol if isinstance(protocol, Guard) else None
