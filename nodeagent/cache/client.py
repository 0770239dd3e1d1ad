"""One cache: ask it for a file, a few times if need be, and say what came of it."""

import contextlib
import http
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

import stamina
import stamina.instrumentation
import urllib3
from urllib3 import exceptions

from nodeagent.cache.access import Access
from nodeagent.cache.body import Body, LocalBody, read_head
from nodeagent.cache.decode import CHUNK_BYTES
from nodeagent.cache.health import DOWN_SECONDS, Health, Memory
from nodeagent.cache.text import bare
from nodeagent.cache.transport import Transport, explain
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

REDIRECTS: Final = 3
ATTEMPTS: Final = 3
PATIENCE_SECONDS: Final = 5.0  # a longer Retry-After is not waited for: others may have the file
_GONE: Final = frozenset(
    {http.HTTPStatus.FORBIDDEN, http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE}
)
_PASSING: Final = frozenset({408, 425, 429})  # of the 4xx; the others will be the same next time

stamina.instrumentation.set_on_retry_hooks([])  # what came of it is told, once, by who asked


class Broken(NodeAgentError):  # noqa: N818 what happened, as its relatives' reasons say
    """A body broke off, or its file changed meanwhile: from the start it may be had."""

    def __init__(self, message: str, reason: Reason = Reason.CACHE_UNREACHABLE) -> None:
        super().__init__(reason, message)


class _Trouble(Exception):  # noqa: N818 internal: tells stamina whether to try again, and when
    """`again` is stamina's: whether, or after how many seconds; `down` tells of the whole cache."""

    def __init__(
        self, cause: str, *, again: float | bool, down: float = 0.0, asked: bool = False
    ) -> None:
        super().__init__(cause)
        self.again, self.down, self.asked = again, down, asked


def _again(error: Exception) -> float | bool:
    return isinstance(error, _Trouble) and error.again


@dataclass(frozen=True)
class Cache:
    """One binary cache by name and address."""

    name: str
    url: str
    http: Transport = field(default_factory=Transport, compare=False, repr=False)
    health: Health = field(default_factory=Health, compare=False, repr=False)

    def fetch(self, file: str, limit: int) -> bytes | None:
        """Get a small file whole; None if the cache has none.

        Raises CacheUnreachable, also for more than `limit` bytes.
        """
        with self.open(file) as source:
            if source is None:
                return None
            data = io.BytesIO()
            while chunk := source.read(CHUNK_BYTES):
                data.write(chunk)
                if data.tell() > limit:
                    raise self.unreachable(file, f"more than {limit:,} bytes")
            return data.getvalue()

    @contextlib.contextmanager
    def open(self, file: str) -> Iterator[Body | None]:
        """Open a file for streaming; None if the cache has none."""
        body = self.body(file)
        try:
            yield body
        finally:
            if body is not None:
                body.close()

    def body(self, file: str, at: int = 0, tag: str | None = None) -> Body | None:
        """Open a file from byte `at`, whose entity tag was `tag`; None if the cache has none.

        Raises CacheUnreachable; Broken if it is another file by now.
        """
        try:
            address = urljoin(self.url.rstrip("/") + "/", file)
            scheme = urlsplit(address).scheme
        except ValueError as error:
            raise self.unreachable(file, f"no address ({error})") from None
        if scheme == "file":
            return self._local(address, at)
        if self.health.down:
            raise self.unreachable(file, f"not asked again yet ({self.health.cause})")
        response = self._request(address, file, at, tag)
        if response.status in _GONE:
            _discard(response)
            self.health.good()
            return None
        head = read_head(response)
        if head.start != at:
            _discard(response)
            raise Broken(self.unreachable(file, "it cannot be continued").message)
        return _RemoteBody(self, file, response, head.total, head.tag, resumable=head.resumable)

    def _local(self, address: str, at: int) -> Body | None:
        if urlsplit(self.url).scheme != "file":
            raise self.unreachable(address, "a remote cache may not name local files")
        try:
            return LocalBody(address, at)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            cause = getattr(error, "strerror", None) or "unreadable"
            raise self.unreachable(address, cause) from None

    def _request(
        self, address: str, file: str, at: int, tag: str | None
    ) -> urllib3.BaseHTTPResponse:
        try:
            for attempt in stamina.retry_context(
                on=_again, attempts=ATTEMPTS, wait_initial=0.2, wait_max=2.0
            ):
                with attempt:
                    return self._follow(address, at, tag)
        except _Trouble as error:
            if error.down:
                self.health.give_up(str(error), error.down, asked=error.asked)
            else:
                self.health.strike(str(error))
            raise self.unreachable(file, str(error)) from None
        raise AssertionError("stamina ends by returning or raising")

    def _follow(self, address: str, at: int, tag: str | None) -> urllib3.BaseHTTPResponse:
        for _ in range(REDIRECTS + 1):
            response = self._request_once(address, self._headers(address, at, tag))
            location = response.get_redirect_location()
            if not location:
                return _expected(response, at)
            _discard(response)
            try:
                address = urljoin(address, location)
                known = urlsplit(address).scheme in {"http", "https"}
            except ValueError:
                known = False
            if not known:
                raise _Trouble("a redirect that leads nowhere", again=False)
        raise _Trouble("too many redirects", again=False)

    def _request_once(self, address: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        try:
            return self.http.get(address, headers)
        except exceptions.HTTPError as error:
            cause = explain(error)
            match error:
                case exceptions.LocationValueError():
                    raise _Trouble(cause, again=False) from None
                case exceptions.NewConnectionError() | exceptions.ProxyError():
                    raise _Trouble(cause, again=True, down=DOWN_SECONDS) from None
                case exceptions.TimeoutError() | exceptions.SSLError():
                    # A second try would cost a second time-out; a certificate stays what it is.
                    raise _Trouble(cause, again=False, down=DOWN_SECONDS) from None
            raise _Trouble(cause, again=True) from None

    def _headers(self, address: str, at: int, tag: str | None) -> dict[str, str]:
        """Ask for bytes as they are; credentials of our address go to its own host alone."""
        headers = {"Accept-Encoding": "identity"}
        if at:
            headers["Range"] = f"bytes={at}-"
            if tag:
                headers["If-Range"] = tag
        own = urlsplit(self.url)
        if own[:2] == urlsplit(address)[:2]:
            credentials, at_sign, _ = own.netloc.rpartition("@")
            known = unquote(credentials) if at_sign else self.http.netrc.of(own.hostname or "")
            if known:
                headers.update(urllib3.make_headers(basic_auth=known))
        return headers

    def unreachable(self, file: str, cause: str) -> NodeAgentError:
        """Say that a file cannot be had from here."""
        return NodeAgentError(
            Reason.CACHE_UNREACHABLE,
            f"cache {self.name} ({bare(self.url)}) gave no {bare(file)}: {cause}; "
            "check that it runs and that this node can reach it",
        )


@contextlib.contextmanager
def opened(
    addresses: Iterable[tuple[str, str]],
    access: Access | None = None,
    memory: Memory | None = None,
) -> Iterator[list[Cache]]:
    """Own caches by (name, address); their connections end with the block."""
    transport, known = Transport(access), memory or Memory()
    try:
        yield [Cache(name, url, transport, known.of(name)) for name, url in addresses]
    finally:
        transport.clear()


def _expected(response: urllib3.BaseHTTPResponse, at: int) -> urllib3.BaseHTTPResponse:
    """Pass on what can be used; a range that cannot be had is seen by where the body starts."""
    if response.status == 200 or response.status in _GONE or (at and response.status in {206, 416}):
        return response
    _discard(response)
    cause = f"HTTP {response.status} {response.reason or ''}".strip()
    if 400 <= response.status < 500 and response.status not in _PASSING:
        raise _Trouble(cause, again=False)
    seconds = _retry_after(response)
    if seconds > PATIENCE_SECONDS:
        told = f"{cause}, to be asked again in {seconds:g} s"
        raise _Trouble(told, again=False, down=seconds, asked=True)
    raise _Trouble(cause, again=seconds or True)


def _retry_after(response: urllib3.BaseHTTPResponse) -> float:
    """Give the seconds; 0 if nothing is said. A date is left: our clock is not the cache's."""
    text = response.headers.get("Retry-After", "").strip()
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _discard(response: urllib3.BaseHTTPResponse) -> None:
    # A body read to its end leaves the connection usable; anything else does not.
    if response.connection is not None:
        response.close()
    response.release_conn()


@dataclass
class _RemoteBody:
    """A response's body, whose faults are the cache's."""

    cache: Cache
    file: str
    response: urllib3.BaseHTTPResponse
    total: int | None
    tag: str | None
    resumable: bool = field(kw_only=True)

    def read(self, size: int) -> bytes:
        try:
            # read1: what has come, not all that was asked for, or a drip would go unnoticed.
            data = self.response.read1(size, decode_content=False)
        except exceptions.TimeoutError as error:
            self.cache.health.give_up("it is too slow")
            raise self._broken(error) from None
        except exceptions.HTTPError as error:
            self.cache.health.strike(explain(error))
            raise self._broken(error) from None
        if not data:
            self.cache.health.good()
        return data

    def close(self) -> None:
        _discard(self.response)

    def _broken(self, error: Exception) -> Broken:
        return Broken(self.cache.unreachable(self.file, explain(error)).message)
