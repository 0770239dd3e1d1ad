"""The webhook's port: connections are accepted one by one, and only so many at a time.

asyncio would take any number, and give each a minute for its handshake.
"""

import asyncio
import contextlib
import socket
import ssl
from asyncio import sslproto
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.webhook.guard import Bounds, Guard
from nodeagent.webhook.notice import Notices, http_logger

ACCEPT_AGAIN_SECONDS: Final = 1.0
BACKLOG: Final = 1024  # one more is not heard, and tries again only after a second
LINGER_SECONDS: Final = 0.5  # so long a body is read that was refused: else nobody sees why
TLS_BUFFER: Final = 32 << 10  # bytes for each connection; asyncio's own are 256 KiB
CLOSE_SECONDS: Final = 1.0


@dataclass
class Door:
    """Lets connections in, up to a bound: beyond, one that rests is ended for each that comes."""

    server: web.Server
    context: ssl.SSLContext
    notices: Notices
    bounds: Bounds = field(default_factory=Bounds)
    is_full: bool = False  # somebody waits outside: no connection is kept for later

    def __post_init__(self) -> None:
        self._open: set[Guard] = set()
        self._busy: set[Guard] = set()
        self._moved = asyncio.Event()

    @property
    def under_way(self) -> int:
        """Count the requests that are not answered yet."""
        return len(self._busy)

    async def accept(self, listener: socket.socket) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as handshakes:
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:  # no file descriptors, most of all
                    self.notices.tell("accept", "cannot accept a connection", error=str(error))
                    await asyncio.sleep(ACCEPT_AGAIN_SECONDS)
                    continue
                try:
                    await self._room()
                except BaseException:
                    connection.close()
                    raise
                one = Guard(self.server(), self)
                self._open.add(one)
                handshakes.create_task(self._greet(one, connection), name="handshake")

    async def _room(self) -> None:
        """Wait until one more connection may be open."""
        while len(self._open) >= self.bounds.connections:
            self.is_full = True
            self._moved.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._end_one()):
                    await self._moved.wait()
        self.is_full = False

    def _end_one(self) -> float | None:
        """End the connection that rests longest; give the seconds until it has rested enough.

        One that rested but a moment may just now be asked by: its request would be lost.
        """
        resting = [one for one in self._open if one.may_end]
        if not resting:
            return None
        oldest = min(resting, key=lambda one: one.since)
        left = oldest.since + self.bounds.rest_seconds - asyncio.get_running_loop().time()
        if left > 0:
            return left
        oldest.end()
        return None

    async def calm(self) -> None:
        """Wait until no request is under way, or none may be any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.bounds.request_seconds):
                while self._busy:
                    self._moved.clear()
                    await self._moved.wait()

    async def _greet(self, one: Guard, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: one,
                connection,
                ssl=self.context,
                ssl_handshake_timeout=self.bounds.request_seconds,
                ssl_shutdown_timeout=CLOSE_SECONDS,
            )
        except OSError as error:  # ssl.SSLError is one, and what a time-out raises
            self.closed(one, error)

    def busy(self, one: Guard) -> None:
        """Note that a request began."""
        self._busy.add(one)

    def rested(self, one: Guard) -> None:
        """Note that it is answered."""
        self._busy.discard(one)
        self._moved.set()

    def closed(self, one: Guard, error: Exception | None) -> None:
        """Forget a connection; one that does not trust us is worth a line: pods go unchanged."""
        self._open.discard(one)
        self.rested(one)
        if isinstance(error, ssl.SSLError):
            self.notices.tell(
                ("tls", error.reason),
                "a TLS connection failed; if it was the API server's, compare the caBundle",
                error=str(error),
            )


def bound(host: str, port: int) -> socket.socket:
    """Take the port; nobody is answered before it is listened on."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.setblocking(False)  # noqa: FBT003 the library's
            taken.bind(address)
        except OSError:
            taken.close()
            raise
    except OSError as error:
        raise NodeAgentError(
            Reason.SETTING_INVALID,
            f"cannot listen on {host}:{port}: {error.strerror}; give another --webhook-port",
        ) from None
    return taken


@contextlib.asynccontextmanager
async def serving(
    application: web.Application,
    listener: socket.socket,
    context: ssl.SSLContext,
    notices: Notices,
    bounds: Bounds | None = None,
) -> AsyncIterator[Door]:
    """Answer on a port that was taken; at the end, requests that are under way are answered."""
    bounds = bounds or Bounds()
    sslproto.SSLProtocol.max_size = TLS_BUFFER
    runner = web.AppRunner(
        application,
        access_log=None,
        logger=http_logger(notices),
        auto_decompress=False,  # nobody compresses reviews but to fill our memory
        keepalive_timeout=2 * bounds.idle_seconds,  # the guard's business
        lingering_time=LINGER_SECONDS,
        shutdown_timeout=bounds.request_seconds,
    )
    await runner.setup()
    try:
        assert runner.server is not None  # noqa: S101 it was set up
        door = Door(runner.server, context, notices, bounds)
        listener.listen(BACKLOG)
        async with asyncio.TaskGroup() as tasks:
            accepting = tasks.create_task(door.accept(listener), name="accept")
            try:
                yield door
            finally:
                accepting.cancel()
                await door.calm()
    finally:
        listener.close()
        await runner.cleanup()
