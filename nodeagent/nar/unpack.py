"""Unpack a NAR stream into a fresh path, hashing as it goes.

Memory is bounded by one chunk whatever the lengths in the stream say, and the declared size
bounds what is read. Nothing is ever created through a name of the stream that existed before:
names are unique and sorted, and every directory is made here, so no symlink is followed.
"""

import os

from nodeagent.nar.directory import Directory
from nodeagent.nar.format import (
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
    NODE,
    OPEN,
    REGULAR,
    STAGED_DIRECTORY_MODE,
    SYMLINK,
    NarError,
)
from nodeagent.nar.small import NEW_FILE, TIMES, small_files
from nodeagent.nar.stream import Digest, Progress, Read, Stream


def unpack(
    read: Read,
    target: bytes,
    size: int,
    progress: Progress | None = None,
    digest: Digest | None = None,
) -> bytes:
    """Unpack a NAR of `size` bytes into `target`, which must not exist; give its SHA-256.

    `read(n)` gives about n bytes, none at the end; `digest` is a SHA-256 to use. Modes and
    times become Nix's canonical ones, but a top directory stays writable (0755), for a directory
    of mode 0555 cannot be renamed without CAP_DAC_OVERRIDE. Raises NarError, and OSError when the
    disk refuses; what was written until then is the caller's to remove.
    """
    stream = Stream(read, size, progress, digest)
    stream.expect(MAGIC)
    open_directories: list[Directory] = []
    path = target
    while True:
        stream.expect(OPEN)
        if stream.next_is(DIRECTORY):
            os.mkdir(path, STAGED_DIRECTORY_MODE)
            open_directories.append(Directory(path))
        else:
            _leaf(stream, path)
            stream.expect(CLOSE)
            if open_directories:
                stream.expect(CLOSE)
        entry = _next_entry(stream, open_directories)
        if entry is None:
            return stream.finish()
        path = entry


def _next_entry(stream: Stream, open_directories: list[Directory]) -> bytes | None:
    """Close what ends here; give the path of the next node, or None at the archive's end."""
    while open_directories:
        directory = open_directories[-1]
        small_files(stream, directory)
        if stream.next_is(ENTRY):
            name = stream.string(MAX_NAME, "file name")
            stream.expect(NODE)
            return directory.add(name)
        stream.expect(CLOSE)
        open_directories.pop()
        os.utime(directory.path, TIMES)
        os.chmod(directory.path, DIRECTORY_MODE if open_directories else STAGED_DIRECTORY_MODE)
        if open_directories:
            stream.expect(CLOSE)
    return None


def _leaf(stream: Stream, path: bytes) -> None:
    if stream.next_is(REGULAR):
        executable = stream.next_is(EXECUTABLE)
        stream.expect(CONTENTS)
        length = stream.length()
        fd = os.open(path, NEW_FILE, 0o600)
        try:
            stream.body(length, fd)
            os.fchmod(fd, EXECUTABLE_MODE if executable else FILE_MODE)
            os.utime(fd, TIMES)
        finally:
            os.close(fd)
    elif stream.next_is(SYMLINK):
        target = stream.string(MAX_PATH, "symlink target")
        if b"\0" in target:
            raise NarError("a symlink target with a NUL byte")
        os.symlink(target, path)
        os.utime(path, TIMES, follow_symlinks=False)
    else:
        raise NarError("a node that is neither file, directory nor symlink")
