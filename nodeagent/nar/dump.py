"""Dump a tree as a NAR, hash it, or measure it without reading a file."""

import hashlib
import os
import stat
from collections.abc import Iterator

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
    NODE,
    OPEN,
    REGULAR,
    SYMLINK,
    NarError,
    encode,
    padded,
)


def dump(path: bytes) -> Iterator[bytes]:
    """Give the NAR of a tree in chunks of about 256 KiB; raises NarError for a device or pipe."""
    pending = bytearray(MAGIC)
    for part in _parts(path):
        pending += part
        if len(pending) >= CHUNK:
            yield bytes(pending)
            pending.clear()
    yield bytes(pending)


def hash_tree(path: bytes) -> tuple[bytes, int]:
    """Give the SHA-256 and the size in bytes of a tree's NAR."""
    digest, size = hashlib.sha256(), 0
    for chunk in dump(path):
        digest.update(chunk)
        size += len(chunk)
    return digest.digest(), size


def _parts(path: bytes) -> Iterator[bytes]:
    """Walk without recursion: a tree may be deeper than Python's stack."""
    todo = [(b"", path)]  # what to write, then the node to go into; last first
    while todo:
        token, path = todo.pop()
        yield token
        if not path:
            continue
        info = os.lstat(path)
        if stat.S_ISDIR(info.st_mode):
            yield OPEN + DIRECTORY
            todo.append((CLOSE, b""))
            for name in sorted(os.listdir(path), reverse=True):
                todo.append((CLOSE, b""))
                todo.append((ENTRY + encode(name) + NODE, b"%b/%b" % (path, name)))
        else:
            yield from _leaf(path, info)


def _leaf(path: bytes, info: os.stat_result) -> Iterator[bytes]:
    if stat.S_ISREG(info.st_mode):
        yield OPEN + REGULAR
        if info.st_mode & stat.S_IXUSR:
            yield EXECUTABLE
        yield CONTENTS + info.st_size.to_bytes(8, "little")
        yield from _contents(path, info.st_size)
        yield bytes(-info.st_size % 8) + CLOSE
    elif stat.S_ISLNK(info.st_mode):
        yield OPEN + SYMLINK + encode(os.readlink(path)) + CLOSE
    else:
        raise NarError(f"{os.fsdecode(path)} is neither file, directory nor symlink")


def _contents(path: bytes, size: int) -> Iterator[bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        left = size
        while left:
            chunk = os.read(fd, min(CHUNK, left))
            if not chunk:
                raise NarError(f"{os.fsdecode(path)} shrank while it was read")
            left -= len(chunk)
            yield chunk
    finally:
        os.close(fd)


_FRAME = len(OPEN) + len(CLOSE)
_FILE = _FRAME + len(REGULAR) + len(CONTENTS) + 8
_LINK = _FRAME + len(SYMLINK) + 8
_ENTRY = len(ENTRY) + 8 + len(NODE) + len(CLOSE)


def measure(path: bytes) -> int:
    """Give the size of a tree's NAR from names, sizes and modes alone.

    Raises NarError where a mode is not Nix's canonical one, OSError where something is gone.
    """
    total, stack = len(MAGIC), [(path, os.lstat(path))]
    while stack:
        at, info = stack.pop()
        mode, permissions = info.st_mode, stat.S_IMODE(info.st_mode)
        if stat.S_ISREG(mode):
            total += _FILE + padded(info.st_size)
            if permissions == EXECUTABLE_MODE:
                total += len(EXECUTABLE)
            elif permissions != FILE_MODE:
                raise NarError(f"{os.fsdecode(at)} has mode {permissions:04o}")
        elif stat.S_ISLNK(mode):
            total += _LINK + padded(info.st_size)
        elif stat.S_ISDIR(mode) and permissions == DIRECTORY_MODE:
            total += _FRAME + len(DIRECTORY)
            with os.scandir(at) as entries:
                for entry in entries:
                    total += _ENTRY + padded(len(entry.name))
                    stack.append((entry.path, entry.stat(follow_symlinks=False)))
        else:
            raise NarError(f"{os.fsdecode(at)} has mode {stat.filemode(mode)}")
    return total
