"""A binary cache as a client sees it: files under one address, http(s):// or file://.

Synchronous on purpose: pouring happens in worker processes. Nothing that a cache says is
believed; every answer has a bound. "Not there" is a value (None), trouble is CacheUnreachable.
"""

import bz2
import contextlib
import gzip
import http
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Protocol, cast
from urllib.parse import unquote, urljoin, urlsplit

import stamina
import urllib3
import zstandard

from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 30.0
REDIRECTS: Final = 3
ATTEMPTS: Final = 3
WINDOW_BYTES: Final = 128 << 20  # what zstd itself accepts unasked
_GONE: Final = frozenset(
    {http.HTTPStatus.FORBIDDEN, http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE}
)
_READ_CHUNK: Final = 256 * 1024
_CREDENTIALS: Final = re.compile(r"//[^/?#\s]*@")
# Only redirects are followed here: `total` would count them, and 0 would forbid them.
_RETRIES: Final = urllib3.Retry(None, connect=0, read=0, redirect=REDIRECTS, status=0, other=0)


class Readable(Protocol):
    """Anything with `read(n)`."""

    def read(self, size: int, /) -> bytes:
        """Give up to `size` bytes, none at the end."""


class Undecodable(Exception):  # noqa: N818 a state of the data, as in UnicodeDecodeError's family
    """The compressed stream is broken or of an unknown kind."""


class _Transient(Exception):  # noqa: N818 internal: makes stamina try again
    pass


def _pool() -> urllib3.PoolManager:
    timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
    return urllib3.PoolManager(num_pools=8, maxsize=4, timeout=timeout)


@dataclass(frozen=True)
class Cache:
    """One binary cache by name and address."""

    name: str
    url: str
    http: urllib3.PoolManager = field(default_factory=_pool, compare=False, repr=False)

    def fetch(self, file: str, limit: int) -> bytes | None:
        """Get a small file whole; None if the cache has none.

        Raises CacheUnreachable, also for more than `limit` bytes.
        """
        with self.open(file) as source:
            if source is None:
                return None
            data = io.BytesIO()
            while chunk := source.read(_READ_CHUNK):
                data.write(chunk)
                if data.tell() > limit:
                    raise self._unreachable(file, f"more than {limit:,} bytes")
            return data.getvalue()

    @contextlib.contextmanager
    def open(self, file: str) -> Iterator[Readable | None]:
        """Open a file for streaming; None if the cache has none."""
        try:
            address = urljoin(self.url.rstrip("/") + "/", file)
            scheme = urlsplit(address).scheme
        except ValueError as error:
            raise self._unreachable(file, f"no address ({error})") from None
        if scheme == "file":
            with self._open_file(address) as source:
                yield source
            return
        response = self._request(address, file)
        try:
            yield None if response.status in _GONE else _Body(self, file, response)
        finally:
            # A body read to its end leaves the connection usable; anything else does not.
            if response.connection is not None:
                response.close()
            response.release_conn()

    @contextlib.contextmanager
    def _open_file(self, address: str) -> Iterator[IO[bytes] | None]:
        if urlsplit(self.url).scheme != "file":
            raise self._unreachable(address, "a remote cache may not name local files")
        try:
            source = Path(unquote(urlsplit(address).path)).open("rb")  # noqa: SIM115 closed below
        except FileNotFoundError:
            yield None
            return
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            cause = getattr(error, "strerror", None) or "unreadable"
            raise self._unreachable(address, cause) from None
        with source:
            yield source

    def _request(self, address: str, file: str) -> urllib3.BaseHTTPResponse:
        try:
            for attempt in stamina.retry_context(
                on=_Transient, attempts=ATTEMPTS, wait_initial=0.2, wait_max=2.0
            ):
                with attempt:
                    return self._request_once(address)
        except _Transient as error:
            raise self._unreachable(file, str(error)) from None
        raise AssertionError("stamina ends by returning or raising")

    def _request_once(self, address: str) -> urllib3.BaseHTTPResponse:
        try:
            response = self.http.request(
                "GET",
                address,
                headers=self._headers(address),
                preload_content=False,
                decode_content=False,
                retries=_RETRIES,
            )
        except urllib3.exceptions.HTTPError as error:
            raise _Transient(explain(error)) from None
        if response.status in {http.HTTPStatus.OK, *_GONE}:
            return response
        response.close()
        raise _Transient(f"HTTP {response.status} {response.reason or ''}".strip())

    def _headers(self, address: str) -> dict[str, str]:
        """Ask for bytes as they are; credentials of our address go to its own host alone."""
        headers = {"Accept-Encoding": "identity"}
        own = urlsplit(self.url)
        credentials, at, _ = own.netloc.rpartition("@")
        if at and own[:2] == urlsplit(address)[:2]:
            headers.update(urllib3.make_headers(basic_auth=unquote(credentials)))
        return headers

    def unreachable(self, file: str, cause: str) -> NodeAgentError:
        """Say that a file cannot be had from here."""
        return self._unreachable(file, cause)

    def _unreachable(self, file: str, cause: str) -> NodeAgentError:
        return NodeAgentError(
            Reason.CACHE_UNREACHABLE,
            f"cache {self.name} ({_bare(self.url)}) gave no {_bare(file)}: {cause}; "
            "check that it runs and that this node can reach it",
        )


@contextlib.contextmanager
def opened(addresses: Iterable[tuple[str, str]]) -> Iterator[list[Cache]]:
    """Own caches by (name, address); their connections end with the block."""
    caches = [Cache(name, url) for name, url in addresses]
    try:
        yield caches
    finally:
        for cache in caches:
            cache.http.clear()


@dataclass
class _Body:
    """A response's body, whose faults are the cache's."""

    cache: Cache
    file: str
    response: urllib3.BaseHTTPResponse

    def read(self, size: int) -> bytes:
        try:
            return self.response.read(size, decode_content=False)
        except urllib3.exceptions.HTTPError as error:
            raise self.cache.unreachable(self.file, explain(error)) from None


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
        cast("IO[bytes]", source), read_size=_READ_CHUNK, read_across_frames=True
    )


_DECODERS: Final[dict[str, Callable[[Readable], Readable]]] = {
    "none": lambda source: source,
    "zstd": _zstd,
    "xz": lambda source: lzma.LZMAFile(cast("IO[bytes]", source)),  # noqa: SIM115 read by the caller
    "bzip2": lambda source: bz2.BZ2File(cast("IO[bytes]", source)),
    "gzip": lambda source: gzip.GzipFile(fileobj=cast("IO[bytes]", source)),
}


def explain(error: Exception) -> str:
    """Say what urllib3 means without its wrapping."""
    cause = getattr(error, "reason", None) or error
    text = str(cause.args[0]) if cause.args else ""
    return _bare(text.rpartition(">: ")[2]) or type(cause).__name__


def _bare(text: str) -> str:
    """Take the credentials out of every address in a text."""
    return _CREDENTIALS.sub("//", text)
