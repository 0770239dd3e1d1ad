"""Reading requests whole, with bounds on time, on each one's size, and on all of them together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from aiohttp import web

LARGEST: Final = 4 << 20  # bytes; an API server takes objects of 3 MiB, and etcd less
ROOM: Final = 12 << 20  # bytes of all bodies at a time: the process has a memory limit
MOST_VALUES: Final = 100_000  # of JSON; each may take 200 bytes, and a pod has a few hundred


@dataclass
class Bodies:
    """The bodies that are in memory now; `held` is their size in bytes."""

    held: int = 0

    @contextlib.asynccontextmanager
    async def read(self, request: web.Request, deadline: float) -> AsyncIterator[bytes]:
        """Hold a request's body, complete by the deadline (of the loop's clock).

        Raises the HTTPException that says why not.
        """
        if (request.content_length or 0) > LARGEST:
            raise _too_large(request.content_length or 0)
        size, parts = 0, []
        try:
            try:
                async with asyncio.timeout_at(deadline):
                    async for part in request.content.iter_any():
                        size += len(part)
                        self.held += len(part)
                        self._check(size)
                        parts.append(part)
            except TimeoutError:
                raise web.HTTPRequestTimeout(text="the request took too long to arrive\n") from None
            except (web.RequestPayloadError, OSError):
                raise web.HTTPBadRequest(text="the request broke off\n") from None
            body = b"".join(parts)
            parts.clear()
            _count(body)
            yield body
        finally:
            self.held -= size

    def _check(self, size: int) -> None:
        if size > LARGEST:
            raise _too_large(size)
        if self.held > ROOM:
            raise web.HTTPServiceUnavailable(
                text=f"requests of more than {ROOM} bytes arrive at a time; ask again later\n"
            )


def _too_large(size: int) -> web.HTTPException:
    return web.HTTPRequestEntityTooLarge(
        LARGEST, size, text=f"a review has {LARGEST} bytes at most, not {size}\n"
    )


def _count(body: bytes) -> None:
    """Refuse what would be small on the wire and huge once it is read."""
    values = sum(body.count(mark) for mark in (b",", b"[", b"{"))
    if values > MOST_VALUES:
        raise web.HTTPRequestEntityTooLarge(
            LARGEST, len(body), text=f"a review has {MOST_VALUES} values at most, not {values}\n"
        )
