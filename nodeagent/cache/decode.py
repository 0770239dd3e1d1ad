"""Unpack compressed streams with bounded memory: what the archive claims is not believed."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Final, Protocol, cast

import zstandard

WINDOW_BYTES: Final = 128 << 20  # what zstd itself accepts unasked; xz -9 needs half of it
CHUNK_BYTES: Final = 256 * 1024


class Readable(Protocol):
    """Anything with `read(n)`."""

    def read(self, size: int, /) -> bytes:
        """Give up to `size` bytes, none at the end."""


class Undecodable(Exception):  # noqa: N818 a state of the data, as in UnicodeDecodeError's family
    """The compressed stream is broken or of an unknown kind."""


def decoder(compression: str, source: Readable) -> Callable[[int], bytes]:
    """Give a bounded `read(n)` of the unpacked stream; it raises Undecodable."""
    make = _DECODERS.get(compression)
    if make is None:
        known = ", ".join(sorted(_DECODERS))
        raise Undecodable(f"unknown compression {compression!r} (known: {known})")
    reader: Readable = make(source)

    def read(size: int) -> bytes:
        try:
            return reader.read(size)
        except (zstandard.ZstdError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
            raise Undecodable(f"the {compression} stream is broken: {error}") from None

    return read


def _zstd(source: Readable) -> Readable:
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)
    return decompressor.stream_reader(
        cast("IO[bytes]", source), read_size=CHUNK_BYTES, read_across_frames=True
    )


class _Xz:
    """`lzma.LZMAFile` with a limit of memory, which that has not."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._stream: lzma.LZMADecompressor | None = None

    def read(self, size: int) -> bytes:
        data, rest = b"", b""
        while not data:
            if self._stream is None or self._stream.eof:
                rest = (self._stream.unused_data if self._stream else rest).lstrip(b"\0")
                rest = rest or self._source.read(CHUNK_BYTES).lstrip(b"\0")  # padding of streams
                if not rest:
                    break
                self._stream = lzma.LZMADecompressor(memlimit=WINDOW_BYTES)
            elif self._stream.needs_input:
                rest = self._source.read(CHUNK_BYTES)
                if not rest:
                    raise EOFError("it ends too early")
            data, rest = self._stream.decompress(rest, size), b""
        return data


_DECODERS: Final[dict[str, Callable[[Readable], Readable]]] = {
    "none": lambda source: source,
    "zstd": _zstd,
    "xz": _Xz,
    "bzip2": lambda source: bz2.BZ2File(cast("IO[bytes]", source)),
    "gzip": lambda source: gzip.GzipFile(fileobj=cast("IO[bytes]", source)),
}
