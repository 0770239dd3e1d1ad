"""One large archive on several cores: read and decompress ahead, hash behind, write between.

All three leave the interpreter's lock. Chunks under way are few, so memory stays bounded.
"""

import contextlib
import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from nodeagent.nar import CHUNK, Read

UNDER_WAY: Final = 4  # chunks, in each direction


class _Ahead:
    """A `read` whose next chunks are read while this one is used."""

    def __init__(self, thread: ThreadPoolExecutor, read: Read) -> None:
        self._thread, self._read = thread, read
        self._over = False
        self._chunks: deque[Future[bytes]] = deque(
            thread.submit(self._next) for _ in range(UNDER_WAY)
        )

    def read(self, _size: int) -> bytes:
        """Give the next chunk, none at the end; raises what reading it raised."""
        chunk = self._chunks.popleft().result()
        self._chunks.append(self._thread.submit(self._next))
        return chunk

    def _next(self) -> bytes:
        if self._over:
            return b""
        self._over = True  # also if this raises: nothing can follow
        chunk = self._read(CHUNK)
        self._over = not chunk
        return chunk


class _Behind:
    """A SHA-256 that may lag a few chunks; the same calls as one of `hashlib`."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread, self._hash = thread, hashlib.sha256()
        self._chunks: deque[Future[None]] = deque()

    def update(self, chunk: bytes) -> None:
        """Hash a chunk soon."""
        if len(self._chunks) == UNDER_WAY:
            self._chunks.popleft().result()
        self._chunks.append(self._thread.submit(self._hash.update, chunk))

    def digest(self) -> bytes:
        """Wait for the rest; give the digest."""
        while self._chunks:
            self._chunks.popleft().result()
        return self._hash.digest()


@contextlib.contextmanager
def side_by_side(read: Read) -> Iterator[tuple[Read, _Behind]]:
    """Give a `read` and a hash, each with a thread of its own until the block ends."""
    with _thread("read") as reader, _thread("hash") as hasher:
        yield _Ahead(reader, read).read, _Behind(hasher)


@contextlib.contextmanager
def _thread(name: str) -> Iterator[ThreadPoolExecutor]:
    executor = ThreadPoolExecutor(1, thread_name_prefix=name)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)  # what is being read is waited for
