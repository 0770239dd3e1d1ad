import bz2
import gzip
import lzma
from collections.abc import Callable
from typing import Final

import pytest
import zstandard

from nodeagent import cache
from nodeagent.cache import Undecodable, decode, decoder
from tests import nars

DATA: Final = bytes(range(256)) * 300
PACKERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "none": bytes,
    "zstd": zstandard.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "gzip": gzip.compress,
}


class Stream:
    """A source that hands out little at a time, as a network does."""

    def __init__(self, data: bytes) -> None:
        self.read = nars.reader(data, [7, 1000, 1])


def unpacked(compression: str, data: bytes) -> bytes:
    read = decoder(compression, Stream(data))
    return b"".join(iter(lambda: read(10_000), b""))


@pytest.mark.parametrize("compression", PACKERS)
def test_each_compression_is_unpacked(compression: str) -> None:
    assert unpacked(compression, PACKERS[compression](DATA)) == DATA


def test_frames_in_a_row_are_one_stream() -> None:
    assert unpacked("zstd", zstandard.compress(b"one ") + zstandard.compress(b"two")) == b"one two"


@pytest.mark.parametrize("compression", ["xz", "bzip2", "gzip"])
def test_a_stream_that_ends_too_early_is_undecodable(compression: str) -> None:
    with pytest.raises(Undecodable, match=compression):
        unpacked(compression, PACKERS[compression](DATA)[:-5])


def test_zstd_that_ends_too_early_gives_too_little() -> None:
    # The library says nothing; what reads the archive misses the rest.
    assert len(unpacked("zstd", zstandard.compress(DATA)[:-5])) < len(DATA)


@pytest.mark.parametrize("compression", ["zstd", "xz", "bzip2", "gzip"])
def test_garbage_is_undecodable(compression: str) -> None:
    with pytest.raises(Undecodable, match=f"the {compression} stream is broken"):
        unpacked(compression, b"this was never packed" * 100)


def test_streams_and_padding_in_a_row_are_one_stream() -> None:
    data = lzma.compress(b"one ") + bytes(8) + lzma.compress(b"two") + bytes(4)
    assert unpacked("xz", data) == b"one two"


@pytest.mark.parametrize("compression", ["xz", "bzip2", "gzip"])
def test_garbage_after_a_stream_is_undecodable_or_passed_over(compression: str) -> None:
    data = PACKERS[compression](DATA) + b"garbage" * 9
    if compression == "bzip2":  # as the library does
        assert unpacked(compression, data) == DATA
    else:
        with pytest.raises(Undecodable):
            unpacked(compression, data)


def test_xz_that_needs_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "WINDOW_BYTES", 4 << 20)
    assert unpacked("xz", lzma.compress(DATA, preset=1)) == DATA
    with pytest.raises(Undecodable, match=r"(?i)memory"):
        unpacked("xz", lzma.compress(DATA, preset=6))


def test_an_unknown_compression_is_undecodable_and_the_known_ones_are_told() -> None:
    with pytest.raises(Undecodable, match=r"'br' \(known: bzip2, gzip, none, xz, zstd\)"):
        decoder("br", Stream(b""))


def test_a_window_too_large_to_hold_is_refused() -> None:
    log = cache.WINDOW_BYTES.bit_length()
    parameters = zstandard.ZstdCompressionParameters(window_log=log, enable_ldm=False)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(Undecodable, match="memory"):
        unpacked("zstd", packer.compress(DATA) + packer.flush())
