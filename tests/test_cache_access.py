"""Credentials, private authorities and proxies: who is told what, and who is believed."""

import base64
import contextlib
import os
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, Final

import pytest
import stamina
import trustme

from nodeagent.cache import ATTEMPTS, Access, Cache, opened
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from tests.test_cache import Server, refusal, reply, serving

LIMIT: Final = 1 << 20

_one = pytest.fixture(serving, name="server")
_other = pytest.fixture(serving, name="elsewhere")


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with stamina.set_testing(testing=True, attempts=ATTEMPTS):
        yield


@pytest.fixture
def netrc(tmp_path: Path) -> Path:
    return tmp_path / "netrc"


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


def write(file: Path, text: str) -> None:
    """Replace a file as a mounted Secret is replaced."""
    fresh = file.with_name("fresh")
    fresh.write_text(text)
    fresh.rename(file)


@pytest.fixture
def main(server: Server, netrc: Path) -> Iterator[Cache]:
    server.on("/a", reply(200, b"a"))
    with opened([("main", server.url)], Access(netrc=str(netrc))) as [cache]:
        yield cache


def test_a_netrc_says_who_we_are(server: Server, main: Cache, netrc: Path) -> None:
    write(netrc, "machine other login x password y\nmachine 127.0.0.1 login me password s3cret\n")
    assert main.fetch("a", LIMIT) == b"a"
    assert server.asked == [("/a", basic("me:s3cret"))]


def test_a_netrc_is_read_anew_when_it_changes(server: Server, main: Cache, netrc: Path) -> None:
    for password in ("first", "other", "third"):
        write(netrc, f"machine 127.0.0.1 login me password {password}\n")
        assert main.fetch("a", LIMIT) == b"a"
        assert server.asked.pop() == ("/a", basic(f"me:{password}"))


@pytest.mark.parametrize(
    "text", ["", "machine other login x password y", "default login x password y"]
)
def test_who_is_not_named_in_a_netrc_is_told_nothing(
    server: Server, main: Cache, netrc: Path, text: str
) -> None:
    write(netrc, text)
    assert main.fetch("a", LIMIT) == b"a"
    assert server.asked == [("/a", None)]


def test_credentials_of_a_netrc_do_not_follow_a_redirect_or_an_index(
    server: Server, elsewhere: Server, main: Cache, netrc: Path
) -> None:
    write(netrc, "machine 127.0.0.1 login me password s3cret\n")
    server.on("/r", reply(302, Location=f"{elsewhere.url}/a"))
    elsewhere.on("/a", reply(200, b"there"))
    assert main.fetch("r", LIMIT) == b"there"
    assert main.fetch(f"{elsewhere.url}/a", LIMIT) == b"there"
    assert elsewhere.asked == [("/a", None), ("/a", None)]


def test_credentials_are_sent_again_to_their_own_host_after_a_redirect(
    server: Server, main: Cache, netrc: Path
) -> None:
    write(netrc, "machine 127.0.0.1 login me password s3cret\n")
    server.on("/r", reply(302, Location="/a"))
    assert main.fetch("r", LIMIT) == b"a"
    assert server.asked == [("/r", basic("me:s3cret")), ("/a", basic("me:s3cret"))]


@pytest.mark.parametrize("text", [None, "machine h login x pass word s3cret\n", "s3cret"])
def test_a_netrc_that_cannot_be_read_is_told_without_its_passwords(
    main: Cache, netrc: Path, text: str | None
) -> None:
    if text is not None:
        write(netrc, text)
    with pytest.raises(NodeAgentError) as caught:
        main.fetch("a", LIMIT)
    assert caught.value.reason is Reason.SETTING_INVALID
    assert str(netrc) in caught.value.message
    assert "s3cret" not in caught.value.message
    write(netrc, "machine 127.0.0.1 login me password s3cret\n")
    assert main.fetch("a", LIMIT) == b"a"


@pytest.mark.parametrize("kind", ["netrc", "ca_file"])
def test_unusable_files_are_refused_at_the_start(tmp_path: Path, kind: str) -> None:
    (tmp_path / "rubbish").write_bytes(os.urandom(100))
    for name in ("absent", "rubbish"):
        access = Access(**{kind: str(tmp_path / name)})  # type: ignore[arg-type]
        with pytest.raises(NodeAgentError) as caught:
            access.require_usable()
        assert caught.value.reason is Reason.SETTING_INVALID
        assert f"--{kind.replace('_', '-')}" in caught.value.message
    Access().require_usable()


class Tls:
    """An HTTPS server whose authority nobody knows."""

    def __init__(self, directory: Path) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                reply(200, b"over TLS")(self)

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        authority = trustme.CA()
        self.ca_file = directory / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        self.listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.listener.socket = context.wrap_socket(self.listener.socket, server_side=True)
        self.url = f"https://localhost:{self.listener.server_port}"
        self.thread = threading.Thread(target=self.listener.serve_forever, args=[0.01])
        self.thread.start()

    def end(self) -> None:
        self.listener.shutdown()
        self.thread.join()
        self.listener.server_close()


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[Tls]:
    server = Tls(tmp_path)
    yield server
    server.end()


def test_a_private_authority_is_trusted_if_it_is_named(tls: Tls) -> None:
    with opened([("main", tls.url)], Access(ca_file=str(tls.ca_file))) as [main]:
        assert main.fetch("a", LIMIT) == b"over TLS"


def test_a_cache_of_an_unknown_authority_is_not_believed_nor_asked_twice(tls: Tls) -> None:
    with opened([("main", tls.url)]) as [main]:
        assert "certificate verify failed" in refusal(main, "a")
        assert main.health.down


def test_a_private_authority_vouches_for_its_own_names_only(tls: Tls) -> None:
    address = tls.url.replace("localhost", "127.0.0.1")
    with opened([("main", address)], Access(ca_file=str(tls.ca_file))) as [main]:
        refusal(main, "a")


def test_a_proxy_of_the_environment_is_asked_for_other_hosts(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("http://cache.invalid/a", reply(200, b"through"))
    monkeypatch.setenv("http_proxy", server.url)
    with opened([("main", "http://cache.invalid")]) as [main]:
        assert main.fetch("a", LIMIT) == b"through"


def test_a_proxys_password_is_for_the_proxy(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[str | None]()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers.get("Proxy-Authorization"))
        reply(200, b"through")(handler)

    server.on("http://cache.invalid/a", answer)
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//us:s3cret@"))
    with opened([("main", "http://cache.invalid")]) as [main]:
        assert main.fetch("a", LIMIT) == b"through"
    assert seen == [basic("us:s3cret")]
    assert server.asked == [("http://cache.invalid/a", None)]


def test_no_proxy_is_asked_for_hosts_that_are_excepted(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("/a", reply(200, b"direct"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with opened([("main", server.url)]) as [main]:
        assert main.fetch("a", LIMIT) == b"direct"


class Tunnel(socketserver.StreamRequestHandler):
    """A proxy that knows CONNECT, and takes every name for this host."""

    asked: ClassVar = list[bytes]()

    def handle(self) -> None:
        line = self.rfile.readline()
        self.asked.append(line)
        while self.rfile.readline() not in {b"\r\n", b""}:
            pass
        port = int(line.split()[1].rpartition(b":")[2])
        with socket.create_connection(("127.0.0.1", port)) as there:
            self.wfile.write(b"HTTP/1.1 200 Go on\r\n\r\n")
            back = threading.Thread(target=relay, args=[there, self.connection])
            back.start()
            relay(self.connection, there)
            back.join()


def relay(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def test_a_cache_over_tls_is_reached_through_a_tunnel(
    tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=[0.01])
        thread.start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_address[1]}")
        with opened([("main", tls.url)], Access(ca_file=str(tls.ca_file))) as [main]:
            assert main.fetch("a", LIMIT) == b"over TLS"
        proxy.shutdown()
        thread.join()
    assert Tunnel.asked[0].startswith(b"CONNECT localhost:")


def test_a_proxy_that_refuses_a_tunnel_is_told(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", server.url.replace("//", "//us:s3cret@"))
    with opened([("main", "https://cache.invalid")]) as [main]:
        assert "s3cret" not in refusal(main, "a")
        assert main.health.down
