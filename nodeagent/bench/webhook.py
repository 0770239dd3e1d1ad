"""How fast the webhook answers over TLS, and the memory that this takes.

Run as `python -m nodeagent.bench.webhook` it is the server: a process of its own tells its RSS.
"""

import asyncio
import contextlib
import json
import os
import ssl
import statistics
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import psutil

from nodeagent import admission, log, process
from nodeagent.admission.fleet import Fleet
from nodeagent.admission.review import Review
from nodeagent.bench.admission import NAMESPACE, NOW, POLICY, SPECS, fleets, reviews
from nodeagent.bench.figures import Figure, figure
from nodeagent.bench.room import Room
from nodeagent.certs import x509
from nodeagent.certs.serving import Serving
from nodeagent.metrics import ControllerMetrics
from nodeagent.webhook import listen
from nodeagent.webhook.app import Webhook
from nodeagent.webhook.guard import Bounds
from nodeagent.webhook.notice import Notices

HOST: Final = "localhost"
RATE: Final = 500
SECONDS: Final = 10.0
CONNECTIONS: Final = 16  # that are used; so many an API server has open at such a rate
DAY: Final = 86400

_Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def webhook(room: Room) -> list[Figure]:
    """Ask 500 times a second for ten seconds, with 1,000 nodes and 10 profiles."""
    p50, p99, rss, full = [], [], [], []
    for _ in range(room.runs):
        async with _served() as it:
            taken = statistics.quantiles(await it.load(SECONDS * room.scale), n=100)
            p50.append(taken[49])
            p99.append(taken[98])
            rss.append(it.rss())
            async with it.connected(Bounds().connections):
                full.append(it.rss())
    return [
        figure("answer at 500 reviews/s, p50", p50, "ms"),
        figure("answer at 500 reviews/s, p99", p99, "ms", 10),
        figure("RSS after that", rss, "MiB"),
        figure(f"RSS with {Bounds().connections} connections open", full, "MiB"),
    ]


@dataclass
class _Fleet:
    """A snapshot that stays as it is."""

    known: Fleet
    policy = POLICY

    def fleet(self) -> Fleet:
        return self.known

    async def find_namespace(self, _: str) -> bool:
        return False


@dataclass
class _Served:
    """A server in another process."""

    process: psutil.Process
    port: int
    trust: ssl.SSLContext

    def rss(self) -> float:
        return float(self.process.memory_info().rss / (1 << 20))

    async def load(self, seconds: float) -> list[float]:
        """Ask at a steady rate, whether answers come or not; give milliseconds of each."""
        requests = [_request(one) for one in reviews(200, SPECS)]
        taken: list[float] = []
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            free = asyncio.LifoQueue[_Line]()
            for _ in range(CONNECTIONS):
                line = await stack.enter_async_context(self._line())
                await _ask(line, requests[0])
                free.put_nowait(line)
            began = loop.time()
            async with asyncio.TaskGroup() as asked:
                for number in range(int(seconds * RATE)):
                    await asyncio.sleep(began + number / RATE - loop.time())
                    asked.create_task(_timed(free, requests[number % 200], taken))
        return taken

    @contextlib.asynccontextmanager
    async def _line(self) -> AsyncIterator[_Line]:
        """Hold a connection."""
        reader, writer = await asyncio.open_connection(HOST, self.port, ssl=self.trust)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    @contextlib.asynccontextmanager
    async def connected(self, count: int) -> AsyncIterator[None]:
        """Hold so many connections that ask nothing."""
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(count):
                await stack.enter_async_context(self._line())
            yield


async def _timed(free: asyncio.Queue[_Line], request: bytes, taken: list[float]) -> None:
    """Ask on a connection that is free; the wait for one counts."""
    began = time.perf_counter()
    line = await free.get()
    await _ask(line, request)
    taken.append((time.perf_counter() - began) * 1000)
    free.put_nowait(line)


async def _ask(line: _Line, request: bytes) -> None:
    """Send by hand what a client library would: one in Python costs more than the server."""
    reader, writer = line
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    body = await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
    assert b'"patch"' in body, body  # noqa: S101 a figure of a wrong answer is none


@contextlib.asynccontextmanager
async def _served() -> AsyncIterator[_Served]:
    argv = [sys.executable, "-m", "nodeagent.bench.webhook"]
    async with process.started(argv, stderr=None) as child:
        assert child.stdout is not None  # noqa: S101 it is a pipe
        told = json.loads(await child.stdout.readline())
        trust = ssl.create_default_context(cadata=told["authority"])
        yield _Served(psutil.Process(child.pid), told["port"], trust)


def _request(asked: Review) -> bytes:
    """Write a review as an API server does."""
    request: dict[str, Any] = {
        "uid": asked.uid,
        "resource": dict(zip(("group", "version", "resource"), asked.resource, strict=True)),
        "operation": asked.operation,
        "namespace": NAMESPACE,
        "object": asked.pod,
    }
    document = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    body = json.dumps(document).encode()
    head = f"POST /v1/mutate/pod HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _serve() -> None:
    """Answer until the other process ends this one."""
    now = int(time.time())
    issuer, seed = x509.Issuer("nodeagent bench", os.urandom(32)), os.urandom(32)
    times = (now - DAY, now + DAY)
    serving = Serving()
    serving.load(x509.server(issuer, seed, [HOST], *times), x509.private_key(seed))
    notices = Notices(log.get())
    snapshot = _Fleet(next(fleets(changing=False)))
    one = Webhook(snapshot, admission.decide, ControllerMetrics(), notices, clock=lambda: NOW)
    listener = listen.bound(HOST, 0)
    async with listen.serving(one.app(), listener, serving.context, notices):
        told = {"port": listener.getsockname()[1], "authority": x509.authority(issuer, *times)}
        print(json.dumps(told), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
