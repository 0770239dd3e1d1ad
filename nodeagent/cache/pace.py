"""Sockets that give up on a peer that is too slow: a time-out per `recv` alone lets it drip.

Only time spent waiting counts: a slow disk on our side is no fault of the cache.
"""

import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import HTTPResponse

MIN_BYTES_PER_SECOND: Final = 1000


class Pace:
    """How much must come in each window of waiting; an answer's head must come in one."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._began = clock()
        self._in_head = True
        self._waited = 0.0
        self._count = 0

    def body(self) -> None:
        """Begin the body: the head is whole."""
        self._in_head, self._waited, self._count = False, 0.0, 0

    def patience(self) -> float:
        """Give the seconds that the next `recv` may take; raises TimeoutError."""
        if self._in_head:
            self._waited = self._clock() - self._began
        if self._waited >= self._seconds:
            if self._in_head or self._count < MIN_BYTES_PER_SECOND * self._seconds:
                raise TimeoutError("too slow")
            self._waited, self._count = 0.0, 0
        return self._seconds - self._waited

    def receive(self, settle: Callable[[float], None], call: Callable[[], int]) -> int:
        """Make `call` a `recv` that `settle` bounds, and count what it brings."""
        while True:
            settle(self.patience())
            began = self._clock()
            try:
                count = call()
            except TimeoutError:
                self._waited += self._clock() - began
                continue  # the window is over: enough may have come before in it
            self._waited += self._clock() - began
            self._count += count
            return count


class _Socket(socket.socket):
    pace: Pace | None = None

    def recv_into(self, *arguments: Any) -> int:  # noqa: ANN401 handed through as it comes
        """Receive at the peer's pace, if that is a pace."""
        if self.pace is None:
            return super().recv_into(*arguments)
        call = super().recv_into
        return self.pace.receive(self.settimeout, lambda: call(*arguments))


class TlsSocket(ssl.SSLSocket):
    """The same over TLS; its handshake has one deadline in all, by `ssl` itself."""

    pace: Pace | None = None

    def recv_into(self, *arguments: Any) -> int:  # noqa: ANN401 handed through as it comes
        """Receive at the peer's pace, if that is a pace."""
        if self.pace is None:
            return super().recv_into(*arguments)
        call = super().recv_into
        return self.pace.receive(self.settimeout, lambda: call(*arguments))


class _Connects(Protocol):
    sock: Any
    timeout: float | None


def _paced(plain: socket.socket, seconds: float) -> socket.socket:
    paced = _Socket(plain.family, plain.type, plain.proto, fileno=plain.detach())
    paced.settimeout(seconds)
    paced.pace = Pace(seconds)  # for what a proxy says before TLS begins
    return paced


def _head(connection: _Connects, respond: Callable[[], HTTPResponse]) -> HTTPResponse:
    """Read an answer's head; its socket may be another one (TLS through a TLS proxy)."""
    paced = connection.sock
    pace = Pace(cast("float", connection.timeout))
    paced.pace = pace
    response = respond()
    pace.body()
    return response


class Connection(HTTPConnection):
    """One connection, paced."""

    def _new_conn(self) -> socket.socket:
        return _paced(super()._new_conn(), cast("float", self.timeout))

    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as urllib3 itself does
        """Read an answer's head."""
        return _head(self, super().getresponse)


class TlsConnection(HTTPSConnection):
    """One connection over TLS, paced."""

    def _new_conn(self) -> socket.socket:
        return _paced(super()._new_conn(), cast("float", self.timeout))

    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as urllib3 itself does
        """Read an answer's head."""
        return _head(self, super().getresponse)
