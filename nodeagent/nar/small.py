"""The fast way through a directory: files that lie whole in the buffer.

Most files of a closure are small, and a call a token costs more than unpacking them. Whatever
does not look exactly as expected is left to the careful reader, which then says what is wrong.
"""

import os
from typing import Final

from nodeagent.nar.directory import Directory
from nodeagent.nar.format import (
    CLOSE,
    CONTENTS,
    ENTRY,
    EXECUTABLE,
    EXECUTABLE_MODE,
    FILE_MODE,
    MAX_NAME,
    MTIME,
    NODE,
    OPEN,
    REGULAR,
)
from nodeagent.nar.stream import Stream

NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
TIMES: Final = (MTIME, MTIME)

_PLAIN: Final = NODE + OPEN + REGULAR + CONTENTS
_PROGRAM: Final = NODE + OPEN + REGULAR + EXECUTABLE + CONTENTS
_END: Final = CLOSE + CLOSE
_ZEROS: Final = tuple(bytes(count) for count in range(8))


def small_files(stream: Stream, directory: Directory) -> None:
    """Unpack the files that come next in a directory, as far as they lie whole in the buffer."""
    buffer, at = stream.buffer, stream.at
    view = memoryview(buffer)  # a slice of it copies nothing
    while buffer.startswith(ENTRY, at):
        name_at = at + len(ENTRY) + 8
        length = int.from_bytes(buffer[name_at - 8 : name_at], "little")
        if not 0 < length <= MAX_NAME:
            return
        name_end = name_at + length
        head = name_end + -length % 8
        if buffer[name_end:head] != _ZEROS[head - name_end]:
            return
        if buffer.startswith(_PLAIN, head):
            mode, body = FILE_MODE, head + len(_PLAIN) + 8
        elif buffer.startswith(_PROGRAM, head):
            mode, body = EXECUTABLE_MODE, head + len(_PROGRAM) + 8
        else:
            return
        size = int.from_bytes(buffer[body - 8 : body], "little")
        end, tail = body + size, body + size + -size % 8
        if not buffer.startswith(_END, tail) or buffer[end:tail] != _ZEROS[tail - end]:
            return  # not whole here, or broken
        _write(directory.add(buffer[name_at:name_end]), view[body:end], mode)
        stream.at = at = tail + len(_END)


def _write(path: bytes, contents: memoryview, mode: int) -> None:
    fd = os.open(path, NEW_FILE, 0o600)
    try:
        written = os.write(fd, contents)
        while written < len(contents):
            written += os.write(fd, contents[written:])
        os.fchmod(fd, mode)
        os.utime(fd, TIMES)
    finally:
        os.close(fd)
