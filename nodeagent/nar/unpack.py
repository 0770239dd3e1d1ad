"""Unpack a NAR stream into a fresh path, hashing as it goes.

Memory is bounded by one chunk whatever the lengths in the stream say, and the declared size
bounds what is read. Nothing is ever created through a name of the stream that existed before:
names are unique and sorted, and every directory is made here, so no symlink is followed.
"""

import hashlib
import os
from collections.abc import Callable
from typing import Final

from nodeagent.nar.format import (
    CHUNK,
    CLOSE,
    CONTENTS,
    DIRECTORY,
    DIRECTORY_MODE,
    ENTRY,
    EXECUTABLE,
    EXECUTABLE_MODE,
    FILE_MODE,
    MAGIC,
    MAX_NAME,
    MAX_PATH,
    MTIME,
    NODE,
    OPEN,
    REGULAR,
    STAGED_DIRECTORY_MODE,
    SYMLINK,
    NarError,
    padded,
)

Read = Callable[[int], bytes]
Progress = Callable[[int], None]

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TIMES: Final = (MTIME, MTIME)


class _Stream:
    """A bounded, hashing window on the stream."""

    def __init__(self, read: Read, size: int, progress: Progress | None) -> None:
        self.read, self.left, self.progress = read, size, progress
        self.hash = hashlib.sha256()
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


_TOO_LONG: Final = "the archive is longer than its declared size"


def unpack(read: Read, target: bytes, size: int, progress: Progress | None = None) -> bytes:
    """Unpack a NAR of `size` bytes into `target`, which must not exist; give its SHA-256.

    `read(n)` gives up to n bytes, none at the end. Modes and times become Nix's canonical ones,
    but a top directory stays writable (0755), for a directory of mode 0555 cannot be renamed
    without CAP_DAC_OVERRIDE. Raises NarError, and OSError when the disk refuses; what was
    written until then is the caller's to remove.
    """
    stream = _Stream(read, size, progress)
    stream.expect(MAGIC)
    open_directories: list[_Directory] = []
    path = target
    while True:
        stream.expect(OPEN)
        if stream.next_is(DIRECTORY):
            os.mkdir(path, STAGED_DIRECTORY_MODE)
            open_directories.append(_Directory(path))
        else:
            _leaf(stream, path)
            stream.expect(CLOSE)
            if open_directories:
                stream.expect(CLOSE)
        entry = _next_entry(stream, open_directories)
        if entry is None:
            return stream.finish()
        path = entry


class _Directory:
    """A directory that is being filled, and the last name in it."""

    __slots__ = ("last", "path")

    def __init__(self, path: bytes) -> None:
        self.path, self.last = path, b""

    def add(self, name: bytes) -> bytes:
        """Check the next name and give its path."""
        if name in {b".", b".."} or b"/" in name or b"\0" in name:
            raise NarError(f"a file name that no directory can hold: {name!r}")
        if name <= self.last:
            raise NarError(f"file names out of order: {name!r} after {self.last!r}")
        self.last = name
        path = b"%b/%b" % (self.path, name)
        if len(path) > MAX_PATH:
            raise NarError(f"a path of {len(path):,} bytes; Linux opens at most {MAX_PATH:,}")
        return path


def _next_entry(stream: _Stream, open_directories: list[_Directory]) -> bytes | None:
    """Close what ends here; give the path of the next node, or None at the archive's end."""
    while open_directories:
        directory = open_directories[-1]
        if stream.next_is(ENTRY):
            name = stream.string(MAX_NAME, "file name")
            stream.expect(NODE)
            return directory.add(name)
        stream.expect(CLOSE)
        open_directories.pop()
        os.utime(directory.path, _TIMES)
        os.chmod(directory.path, DIRECTORY_MODE if open_directories else STAGED_DIRECTORY_MODE)
        if open_directories:
            stream.expect(CLOSE)
    return None


def _leaf(stream: _Stream, path: bytes) -> None:
    if stream.next_is(REGULAR):
        executable = stream.next_is(EXECUTABLE)
        stream.expect(CONTENTS)
        length = stream.length()
        fd = os.open(path, _NEW_FILE, 0o600)
        try:
            stream.body(length, fd)
            os.fchmod(fd, EXECUTABLE_MODE if executable else FILE_MODE)
            os.utime(fd, _TIMES)
        finally:
            os.close(fd)
    elif stream.next_is(SYMLINK):
        target = stream.string(MAX_PATH, "symlink target")
        if b"\0" in target:
            raise NarError("a symlink target with a NUL byte")
        os.symlink(target, path)
        os.utime(path, _TIMES, follow_symlinks=False)
    else:
        raise NarError("a node that is neither file, directory nor symlink")
