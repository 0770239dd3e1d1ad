import base64
import gzip
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest
import stamina
import zstandard

from nodeagent.cache import ATTEMPTS, REDIRECTS, Cache, Transport, decoder, opened
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

Answer = Callable[[BaseHTTPRequestHandler], None]
DATA: Final = bytes(range(256)) * 3000
LIMIT: Final = 1 << 20


@dataclass
class Server:
    """An HTTP server whose every answer is a function of the handler; the last one stays."""

    port: int
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def on(self, path: str, *answers: Answer) -> None:
        self.answers[path] = list(answers)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append((handler.path, handler.headers.get("Authorization")))
        answers = self.answers.get(handler.path, [reply(404)])
        (answers.pop(0) if len(answers) > 1 else answers[0])(handler)


def reply(status: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


def chunked_and_cut(handler: BaseHTTPRequestHandler) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"5\r\nhello\r\n")
    handler.close_connection = True


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def serving() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        server = Server(listener.server_port)
        thread = threading.Thread(target=listener.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()


_one = pytest.fixture(serving, name="server")
_other = pytest.fixture(serving, name="elsewhere")


@pytest.fixture(autouse=True)
def _no_waits() -> Iterator[None]:
    with stamina.set_testing(testing=True, attempts=ATTEMPTS):
        yield


@pytest.fixture
def main(server: Server) -> Iterator[Cache]:
    client = Cache("main", server.url)
    yield client
    client.http.clear()


def refusal(client: Cache, file: str) -> str:
    with pytest.raises(NodeAgentError) as caught:
        client.fetch(file, LIMIT)
    assert caught.value.reason is Reason.CACHE_UNREACHABLE
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_file_is_fetched_whole(server: Server, main: Cache) -> None:
    server.on("/a/b", reply(200, DATA))
    assert main.fetch("a/b", LIMIT) == DATA


def test_the_address_may_have_a_path_of_its_own_with_or_without_a_slash(server: Server) -> None:
    server.on("/bucket/a", reply(200, b"a"))
    for url in (f"{server.url}/bucket", f"{server.url}/bucket/"):
        client = Cache("main", url)
        assert client.fetch("a", LIMIT) == b"a"
        client.http.clear()


@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_a_cache_does_not_have_is_none_at_once(
    server: Server, main: Cache, status: int
) -> None:
    server.on("/a", reply(status, b"<Error>no such key</Error>"))
    assert main.fetch("a", LIMIT) is None
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_trouble_is_tried_again_and_then_told(server: Server, main: Cache, status: int) -> None:
    server.on("/a", reply(status))
    assert f"HTTP {status}" in refusal(main, "a")
    assert len(server.asked) == ATTEMPTS


def test_trouble_that_passes_is_no_trouble(server: Server, main: Cache) -> None:
    server.on("/a", reply(500), hang_up, reply(200, b"a"))
    assert main.fetch("a", LIMIT) == b"a"


def test_a_cache_that_is_not_there_is_told_by_name_and_address() -> None:
    message = refusal(Cache("main", "http://127.0.0.1:1"), "a")
    assert message.startswith("cache main (http://127.0.0.1:1) gave no a: ")
    assert "Connection refused" in message


def test_redirects_are_followed_also_to_another_host(
    server: Server, elsewhere: Server, main: Cache
) -> None:
    server.on("/0", reply(302, Location="/1"))
    server.on("/1", reply(307, Location="/2"))
    server.on("/2", reply(301, Location=f"{elsewhere.url}/3"))
    elsewhere.on("/3", reply(200, b"there"))
    assert main.fetch("0", LIMIT) == b"there"


def test_more_redirects_than_allowed_are_refused(server: Server, main: Cache) -> None:
    for number in range(REDIRECTS + 1):
        server.on(f"/{number}", reply(302, Location=f"/{number + 1}"))
    server.on(f"/{REDIRECTS + 1}", reply(200, b"too far"))
    assert "too many redirects" in refusal(main, "0")


def test_a_circle_of_redirects_is_refused(server: Server, main: Cache) -> None:
    server.on("/a", reply(302, Location="/a"))
    assert "too many redirects" in refusal(main, "a")


def test_a_redirect_to_a_local_file_is_refused(server: Server, main: Cache) -> None:
    server.on("/a", reply(302, Location="file:///etc/passwd"))
    refusal(main, "a")


def test_a_remote_cache_names_no_local_file(main: Cache) -> None:
    assert "may not name local files" in refusal(main, "file:///etc/passwd")


@pytest.mark.parametrize("file", ["http://[bad", "gopher://host/a", "http://host:99999/a"])
def test_an_impossible_address_from_an_index_is_the_caches_fault(main: Cache, file: str) -> None:
    refusal(main, file)


@pytest.mark.parametrize(
    "answer",
    [chunked_and_cut, reply(200, b"four", Content_Length="5"), reply(200, b"", Content_Length="9")],
)
def test_a_stream_that_is_cut_is_told(server: Server, main: Cache, answer: Answer) -> None:
    server.on("/a", answer)
    assert "IncompleteRead" in refusal(main, "a")


def test_more_bytes_than_announced_are_not_read(server: Server, main: Cache) -> None:
    server.on("/a", reply(200, b"four and more", Content_Length="4"))
    assert main.fetch("a", LIMIT) == b"four"


def test_more_bytes_than_allowed_are_refused(server: Server, main: Cache) -> None:
    server.on("/a", reply(200, bytes(LIMIT)))
    server.on("/b", reply(200, bytes(LIMIT + 1)))
    assert main.fetch("a", LIMIT) == bytes(LIMIT)
    assert "more than 1,048,576 bytes" in refusal(main, "b")


def test_content_encoding_is_passed_over(server: Server, main: Cache) -> None:
    packed = gzip.compress(DATA)
    server.on("/a", reply(200, packed, Content_Encoding="gzip"))
    assert main.fetch("a", LIMIT) == packed


def test_a_connection_is_used_again(server: Server, main: Cache) -> None:
    def keep_alive(handler: BaseHTTPRequestHandler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Content-Length", "1")
        handler.end_headers()
        handler.wfile.write(b"a")
        handler.close_connection = False
        clients.append(handler.client_address)

    clients: list[object] = []
    server.on("/a", keep_alive)
    assert [main.fetch("a", LIMIT) for _ in range(3)] == [b"a"] * 3
    assert len(set(clients)) == 1


def test_connections_end_with_the_block_that_opened_them(server: Server) -> None:
    server.on("/a", reply(200, b"a"))
    with opened([("main", server.url), ("other", "http://127.0.0.1:1")]) as (main, other):
        assert main.fetch("a", LIMIT) == b"a"
        assert (main.name, other.name) == ("main", "other")
        assert main.http.hosts == 1
    assert main.http.hosts == 0


def with_password(url: str) -> Cache:
    return Cache("main", url.replace("//", "//user:s3%2Fcret@"))


def test_credentials_in_the_address_go_to_that_host_alone(
    server: Server, elsewhere: Server
) -> None:
    server.on("/a", reply(302, Location=f"{elsewhere.url}/a"))
    elsewhere.on("/a", reply(200, b"a"))
    elsewhere.on("/b", reply(200, b"b"))
    client = with_password(server.url)
    assert client.fetch("a", LIMIT) == b"a"
    assert client.fetch(f"{elsewhere.url}/b", LIMIT) == b"b"
    assert server.asked == [("/a", f"Basic {base64.b64encode(b'user:s3/cret').decode()}")]
    assert elsewhere.asked == [("/a", None), ("/b", None)]
    client.http.clear()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[bad", "http://host:99999"])
def test_credentials_are_never_in_a_message(url: str) -> None:
    assert "cret" not in refusal(with_password(url), "a")


def test_credentials_that_an_index_holds_are_never_in_a_message(main: Cache) -> None:
    assert "cret" not in refusal(main, "http://user:s3cret@127.0.0.1:1/a")


def test_a_directory_is_a_cache_too(tmp_path: Path) -> None:
    (tmp_path / "a b").write_bytes(DATA)
    client = Cache("main", tmp_path.as_uri())
    assert client.fetch("a%20b", LIMIT) == DATA
    assert client.fetch("nar/absent", LIMIT) is None


@pytest.mark.parametrize("file", [".", "a/below", "%00", "n" * 300])
def test_what_cannot_be_read_in_a_directory_is_told(tmp_path: Path, file: str) -> None:
    (tmp_path / "a").write_bytes(DATA)
    refusal(Cache("main", tmp_path.as_uri()), file)


def test_a_fault_of_the_cache_while_unpacking_stays_the_caches(server: Server, main: Cache) -> None:
    server.on("/a", reply(200, zstandard.compress(DATA)[:100], Content_Length="999"))
    with main.open("a") as source:
        assert source is not None
        read = decoder("zstd", source)
        with pytest.raises(NodeAgentError) as caught:
            read(LIMIT)
    assert caught.value.reason is Reason.CACHE_UNREACHABLE


def test_two_caches_of_one_name_and_address_are_equal(main: Cache) -> None:
    assert Cache("main", main.url, Transport()) == main
