"""A raw HTTP server over a directory that misbehaves on demand: real sockets, no library's help.

Well-behaved, it knows ranges, entity tags and kept-alive connections.
"""

import contextlib
import gzip
import hashlib
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PAUSE_SECONDS: Final = 0.02


@dataclass
class Wire:
    """One request, and the connection to answer on."""

    path: str
    headers: Mapping[str, str]
    data: bytes | None  # what the file holds
    write: Callable[[bytes], object]
    ended: threading.Event

    @property
    def start(self) -> int:
        return int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.data or b"").hexdigest()[:16]}"'

    def head(self, status: str, **headers: str) -> None:
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
        self.write(f"HTTP/1.1 {status}\r\n{''.join(lines)}\r\n".encode())

    def head_of_file(self, tag: str | None = None, **more: str) -> bytes:
        """Write the head that belongs to the request; give the body that should follow."""
        data = self.data or b""
        known = {"Accept_Ranges": "bytes", "ETag": tag or self.tag} | more
        if self.start and self.headers.get("if-range", known["ETag"]) == known["ETag"]:
            body = data[self.start :]
            span = f"bytes {self.start}-{len(data) - 1}/{len(data)}"
            self.head(
                "206 Partial Content",
                **{"Content_Length": str(len(body)), "Content_Range": span} | known,
            )
            return body
        self.head("200 OK", **{"Content_Length": str(len(data))} | known)
        return data

    def behave(self) -> None:
        if self.data is None:
            self.head("404 Not Found", Content_Length="0")
        else:
            self.write(self.head_of_file())

    def drip(self, data: bytes) -> None:
        for at in range(len(data)):
            self.write(data[at : at + 1])
            if self.ended.wait(PAUSE_SECONDS):
                return

    def hang(self) -> None:
        self.ended.wait(30)


Misbehaviour = Callable[[Wire], None]


@dataclass
class Hostile:
    """The server: `misbehave` handles the requests whose path `where` picks."""

    root: Path
    port: int = 0
    misbehave: Misbehaviour | None = None
    where: Callable[[str], bool] = lambda path: path.endswith(".nar") or path.startswith("/nar/")
    connections: int = 0
    asked: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # of what was asked for in archives
    misbehaved: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, wire: Wire) -> bool:
        """Answer one request; False if the connection is of no more use."""
        self.asked.append(wire.path)
        if wire.path.startswith("/nar/"):
            self.starts.append(wire.start)
        if self.misbehave is not None and self.where(wire.path):
            self.misbehaved += 1
            self.misbehave(wire)
            return False
        wire.behave()
        return True


@contextlib.contextmanager
def serving(root: Path, port: int = 0) -> Iterator[Hostile]:
    """Run a server in threads until the block ends."""

    class Handler(socketserver.StreamRequestHandler):
        disable_nagle_algorithm = True

        def handle(self) -> None:
            server.connections += 1
            with contextlib.suppress(OSError):
                while (wire := self.request_read()) is not None and server.answer(wire):
                    pass

        def request_read(self) -> Wire | None:
            line = self.rfile.readline(4096).split()
            if len(line) < 2:
                return None
            headers = {}
            while (header := self.rfile.readline(4096)) not in {b"\r\n", b""}:
                name, _, value = header.decode().partition(":")
                headers[name.lower()] = value.strip()
            path = line[1].decode()
            file = root / path.lstrip("/")
            data = file.read_bytes() if file.is_file() else None
            return Wire(path, headers, data, self.wfile.write, server.ended)

    class Listener(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            """Stay silent: some clients speak TLS here, and most hang up early."""

    with Listener(("127.0.0.1", port), Handler) as listener:
        server = Hostile(root, listener.server_address[1])
        thread = threading.Thread(target=listener.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            listener.shutdown()
            thread.join()


def status(text: str, **headers: str) -> Misbehaviour:
    return lambda wire: wire.head(text, **{"Content_Length": "0"} | headers)


def circle(wire: Wire) -> None:
    wire.head("302 Found", Location=wire.path, Content_Length="0")


def hang(wire: Wire) -> None:
    wire.hang()


def hang_in_head(wire: Wire) -> None:
    wire.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    wire.hang()


def hang_in_body(wire: Wire) -> None:
    body = wire.head_of_file()
    wire.write(body[: len(body) // 2])
    wire.hang()


def drip_head(wire: Wire) -> None:
    wire.drip(b"HTTP/1.1 200 OK\r\n" + b"X-More: and more\r\n" * 1000)


def drip_body(wire: Wire) -> None:
    wire.drip(wire.head_of_file())


def drip_rest(wire: Wire) -> None:
    body = wire.head_of_file()
    half = len(body) // 2
    wire.write(body[:half])
    wire.drip(body[half:])


def drip_chunk_sizes(wire: Wire) -> None:
    wire.head("200 OK", Transfer_Encoding="chunked")
    wire.drip(b"0" * 5000)


def continue_for_ever(wire: Wire) -> None:
    while not wire.ended.is_set():
        wire.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def header_without_end(wire: Wire) -> None:
    wire.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000)


def hang_up(wire: Wire) -> None:
    pass


def rubbish(wire: Wire) -> None:
    wire.write(b"\x00\xff SSH-2.0 no HTTP at all\r\n\r\n")


def cut(wire: Wire) -> None:
    """Break off and know no ranges."""
    body = wire.head_of_file(Accept_Ranges="none")
    wire.write(body[: len(body) // 2])


def cut_and_continue(wire: Wire) -> None:
    """Break off after half of a small file, after 100 kB of a large one, and know ranges."""
    body = wire.head_of_file()
    wire.write(body[: min(100_000, (len(wire.data or b"") + 1) // 2)])


def change_between_ranges(wire: Wire) -> None:
    """Break off, and have another file when asked to go on."""
    body = wire.head_of_file(tag=f'"{wire.start}"')
    wire.write(body if wire.start else body[: len(body) // 2])


def change_in_silence(wire: Wire) -> None:
    """Go on with other bytes of the same size, under the same tag."""
    body = wire.head_of_file()
    wire.write(bytes(len(body)) if wire.start else body[: len(body) // 2])


def wrong_range(wire: Wire) -> None:
    """Go on somewhere else than asked."""
    body = wire.head_of_file(**({"Content_Range": "bytes 0-9/10"} if wire.start else {}))
    wire.write(body if wire.start else body[: len(body) // 2])


def ignore_ranges(wire: Wire) -> None:
    """Promise ranges, break off, and begin anew when asked to go on."""
    data = wire.data or b""
    wire.head("200 OK", Content_Length=str(len(data)), Accept_Ranges="bytes", ETag=wire.tag)
    wire.write(data[: len(data) // 2])


def content_encoding(wire: Wire) -> None:
    packed = gzip.compress(wire.data or b"")
    wire.head("200 OK", Content_Length=str(len(packed)), Content_Encoding="gzip")
    wire.write(packed)
