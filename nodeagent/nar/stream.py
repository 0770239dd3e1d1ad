"""A bounded, hashing window on a NAR stream."""

import hashlib
import os
from collections.abc import Callable
from typing import Final, Protocol

from nodeagent.nar.format import CHUNK, NarError, padded

Read = Callable[[int], bytes]
Progress = Callable[[int], None]


class Digest(Protocol):
    """A hash under way, as `hashlib` makes them."""

    def update(self, data: bytes, /) -> None:
        """Hash on."""

    def digest(self) -> bytes:
        """Give the digest of all that was hashed."""


_TOO_LONG: Final = "the archive is longer than its declared size"


class Stream:
    """What is read but not parsed yet stands in `buffer` from `at` on."""

    def __init__(
        self, read: Read, size: int, progress: Progress | None, digest: Digest | None = None
    ) -> None:
        self.read, self.left, self.progress = read, size, progress
        self.hash: Digest = digest or hashlib.sha256()
        self.buffer = b""
        self.at = 0

    def fill(self) -> None:
        """Put the next chunk behind what is left of this one."""
        chunk = self.read(min(CHUNK, self.left)) if self.left else b""
        if not chunk:
            raise NarError("the archive ends too early" if self.left else _TOO_LONG)
        self.left -= len(chunk)
        if self.left < 0:
            raise NarError(_TOO_LONG)
        self.hash.update(chunk)
        self.buffer = self.buffer[self.at :] + chunk if self.at < len(self.buffer) else chunk
        self.at = 0
        if self.progress is not None:
            self.progress(len(chunk))

    def need(self, length: int) -> None:
        """Have at least `length` (small, never from the wire unbounded) bytes at hand."""
        while len(self.buffer) - self.at < length:
            self.fill()

    def take(self, token: bytes) -> bool:
        """Consume the token if it is next."""
        self.need(len(token))
        if self.buffer.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def next_is(self, token: bytes) -> bool:
        """Consume an optional token; one byte decides where the rest may be shorter."""
        self.need(8)
        if self.buffer[self.at : self.at + 8] != token[:8]:
            return False
        return self.take(token)

    def expect(self, token: bytes) -> None:
        """Consume the token or refuse the archive."""
        if not self.take(token):
            found = self.buffer[self.at : self.at + len(token)]
            raise NarError(f"unexpected bytes in the archive: {found!r} instead of {token!r}")

    def length(self) -> int:
        """Read a length word that cannot exceed what is still to come."""
        self.need(8)
        value = int.from_bytes(self.buffer[self.at : self.at + 8], "little")
        self.at += 8
        if padded(value) > self.left + len(self.buffer) - self.at:
            raise NarError(f"a length of {value:,} bytes exceeds the archive")
        return value

    def string(self, limit: int, what: str) -> bytes:
        """Read a short string: a name or a symlink's target."""
        length = self.length()
        if not 0 < length <= limit:
            raise NarError(f"a {what} of {length:,} bytes")
        self.need(padded(length))
        text = self.buffer[self.at : self.at + length]
        self.at += length
        self.padding(length)
        return text

    def body(self, length: int, fd: int) -> None:
        """Copy a file's contents to `fd`, chunk by chunk."""
        left = length
        while left:
            if self.at == len(self.buffer):
                self.fill()
            part = memoryview(self.buffer)[self.at : self.at + left]
            written = os.write(fd, part)
            self.at += written
            left -= written
        self.padding(length)

    def padding(self, length: int) -> None:
        """Consume the zeros that follow a string."""
        if pad := -length % 8:
            self.need(pad)
            if any(self.buffer[self.at : self.at + pad]):
                raise NarError("padding that is not zero")
            self.at += pad

    def finish(self) -> bytes:
        """Make sure that all was read and nothing follows; give the digest."""
        surplus = len(self.buffer) - self.at + self.left
        if surplus:
            raise NarError(f"the archive is {surplus:,} bytes shorter than its declared size")
        if self.read(1):
            raise NarError(_TOO_LONG)
        return self.hash.digest()
