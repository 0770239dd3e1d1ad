"""The bytes of one answer, and whether they can be carried on where they broke off."""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol
from urllib.parse import unquote, urlsplit

import urllib3

_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_ENTITY: Final = re.compile(r'"[^"]*"')  # a strong tag: W/"…" promises too little for a range


class Body(Protocol):
    """What a cache gives for a file; `total` is the file's size where it is known."""

    total: int | None
    resumable: bool
    tag: str | None

    def read(self, size: int, /) -> bytes:
        """Give up to `size` bytes, none at the end; raises NodeAgentError."""

    def close(self) -> None:
        """Give the connection back, or end it."""


@dataclass(frozen=True)
class Answer:
    """What the head of an answer says of its body."""

    total: int | None
    start: int
    resumable: bool
    tag: str | None


def read_head(response: urllib3.BaseHTTPResponse) -> Answer:
    """Read what matters for ranges; a partial answer without a sound range starts at -1."""
    headers = response.headers
    plain = headers.get("Content-Encoding", "identity") == "identity"
    tag = headers.get("ETag", "")
    strong = tag if _ENTITY.fullmatch(tag) else None
    if response.status == 206:
        match = _RANGE.fullmatch(headers.get("Content-Range", ""))
        start, total = (int(match[1]), int(match[3])) if match and plain else (-1, -1)
        return Answer(total, start, plain, strong)
    length = headers.get("Content-Length", "")
    total_known = int(length) if length.isascii() and length.isdigit() else None
    ranges = plain and total_known is not None and headers.get("Accept-Ranges") == "bytes"
    return Answer(total_known, 0, ranges, strong)


class LocalBody:
    """A file of a cache in a directory."""

    tag: str | None = None
    resumable = True

    def __init__(self, address: str, at: int) -> None:
        self._file: IO[bytes] = Path(unquote(urlsplit(address).path)).open("rb")  # noqa: SIM115 closed by `close`
        self.total: int | None = self._file.seek(0, io.SEEK_END)
        self._file.seek(at)

    def read(self, size: int) -> bytes:
        """Read on."""
        return self._file.read(size)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
