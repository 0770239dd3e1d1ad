"""One HTTP request, to the host itself or through the environment's proxy; no redirects here."""

import contextlib
import functools
import re
import ssl
import urllib.request
from typing import Final
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from nodeagent.cache.access import Access, Netrc
from nodeagent.cache.pace import Connection, TlsConnection, TlsSocket
from nodeagent.cache.text import bare
from nodeagent.cache.throttle import Throttle

_CONNECTIONS: Final = 4
_WHO: Final = re.compile(r"^.*>: |^_\w*Pool\([^)]*\): ")  # the object that an error begins with


class _Pool(HTTPConnectionPool):
    ConnectionCls = Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = TlsConnection


class Transport:
    """Connections that caches of one process share."""

    def __init__(self, access: Access | None = None) -> None:
        self.access = access or Access()
        self.netrc = Netrc(self.access.netrc)
        self.throttle = Throttle(self.access.bytes_per_second)
        self._proxies: dict[tuple[str, str], str | None] = {}
        self._managers: dict[tuple[str, str | None], urllib3.PoolManager] = {}

    def get(self, address: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """Ask once; the body is not read yet. Raises urllib3's HTTPError."""
        return self._manager(address).request(
            "GET",
            address,
            headers=headers,
            preload_content=False,
            decode_content=False,
            redirect=False,
            retries=False,
        )

    @property
    def hosts(self) -> int:
        """Count the hosts that connections are kept to."""
        return sum(len(manager.pools) for manager in self._managers.values())

    def clear(self) -> None:
        """End all connections now: urllib3's own `clear` leaves that to the garbage collector."""
        for manager in self._managers.values():
            for key in manager.pools.keys():  # noqa: SIM118 it is no mapping: iterating is refused
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()
            manager.clear()
        self._managers.clear()

    def _proxy(self, address: str) -> str | None:
        """Look up a host's proxy once: the environment is slow to read, and stays as it is."""
        host = urlsplit(address)[:2]
        if host not in self._proxies:
            self._proxies[host] = _proxy_for(*host)
        return self._proxies[host]

    @functools.cached_property
    def _trust(self) -> ssl.SSLContext:
        context = self.access.trust()
        context.sslsocket_class = TlsSocket
        return context

    def _manager(self, address: str) -> urllib3.PoolManager:
        kind = urlsplit(address).scheme, self._proxy(address)
        if kind not in self._managers:
            self._managers[kind] = self._make(*kind)
        return self._managers[kind]

    def _make(self, scheme: str, proxy: str | None) -> urllib3.PoolManager:
        timeout = urllib3.Timeout(
            connect=self.access.connect_seconds, read=self.access.stall_seconds
        )
        manager: urllib3.PoolManager
        if proxy is None:
            # To read what the system trusts takes longer than many a file: only where TLS is.
            trust = self._trust if scheme == "https" else None
            manager = urllib3.PoolManager(maxsize=_CONNECTIONS, timeout=timeout, ssl_context=trust)
        else:
            credentials, at, _ = urlsplit(proxy).netloc.rpartition("@")
            manager = urllib3.ProxyManager(
                proxy,
                maxsize=_CONNECTIONS,
                timeout=timeout,
                ssl_context=self._trust,
                proxy_ssl_context=self._trust,
                proxy_headers=urllib3.make_headers(proxy_basic_auth=unquote(credentials))
                if at
                else None,
            )
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        return manager


def _proxy_for(scheme: str, netloc: str) -> str | None:
    """Choose by http_proxy, https_proxy, all_proxy and no_proxy, as curl does."""
    parts = urlsplit(f"{scheme}://{netloc}")
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    with contextlib.suppress(ValueError):  # an impossible port: said by whoever connects
        port = f":{parts.port}" if parts.port else ""
        if proxy and not urllib.request.proxy_bypass(f"{parts.hostname}{port}"):
            return proxy if "://" in proxy else f"http://{proxy}"
    return None


def explain(error: Exception) -> str:
    """Say what urllib3 means without its wrapping."""
    cause = getattr(error, "reason", None) or error
    text = str(cause.args[0]) if cause.args else ""
    return bare(_WHO.sub("", text)) or type(cause).__name__
