"""A webhook on loopback, over TLS by a throw-away CA, that decides as a test says."""

import asyncio
import base64
import contextlib
import io
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import structlog
import trustme
from structlog.testing import LogCapture

from nodeagent.admission.decision import Decision
from nodeagent.admission.fleet import Fleet
from nodeagent.admission.review import Review
from nodeagent.metrics import ControllerMetrics
from nodeagent.names import Outcome
from nodeagent.policy import Policy
from nodeagent.webhook import listen
from nodeagent.webhook.app import Decide, Snapshot, Webhook
from nodeagent.webhook.guard import Bounds
from nodeagent.webhook.listen import Door
from nodeagent.webhook.notice import Notices

HOST: Final = "127.0.0.1"
PATH: Final = "/v1/mutate/namespace"
JSON: Final = {"Content-Type": "application/json"}
CA: Final = trustme.CA()
ADDED: Final = ({"op": "add", "path": "/metadata/labels", "value": {"injected": "yes"}},)
Tree = dict[str, Any]


def injected(*_: object) -> Decision:
    """Decide to inject, whatever is asked."""
    return Decision(Outcome.INJECTED, "as asked", ADDED)


def refused(*_: object) -> Decision:
    """Decide to leave the pod alone."""
    return Decision(Outcome.CONFLICT, "it has a volume of our name", warning="rename the volume")


@dataclass
class Known:
    """A snapshot that holds what a test puts there; `to_find` is known once it was read."""

    namespaces: dict[str, Mapping[str, str]] = field(default_factory=dict)
    policy: Policy | None = None
    to_find: set[str] = field(default_factory=set)
    finding: Callable[[], Awaitable[object]] | None = None
    found: list[str] = field(default_factory=list)

    def fleet(self) -> Fleet:
        return Fleet(namespaces=dict(self.namespaces))

    async def find_namespace(self, name: str) -> bool:
        self.found.append(name)
        if self.finding is not None:
            await self.finding()
        if name in self.to_find:
            self.namespaces[name] = {}
        return name in self.to_find


@dataclass
class Site:
    """A running webhook, who asks it, and what it has said."""

    webhook: Webhook
    door: Door
    port: int
    session: aiohttp.ClientSession
    said: Sequence[Mapping[str, Any]]
    trust: ssl.SSLContext
    context: ssl.SSLContext
    over: asyncio.Event

    def url(self, path: str = PATH) -> str:
        return f"https://localhost:{self.port}{path}"

    async def post(
        self, body: bytes, headers: Mapping[str, str] = JSON, path: str = PATH
    ) -> tuple[int, str]:
        async with self.session.post(
            self.url(path), data=io.BytesIO(body), headers=headers
        ) as answer:
            return answer.status, await answer.text()

    async def review(self, **changes: object) -> Tree:
        """Ask about a pod; give the response in the answer."""
        status, text = await self.post(encoded(review(**changes)))
        assert status == 200, text
        response: Tree = json.loads(text)["response"]
        return response

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to write on by hand."""
        return await asyncio.open_connection(
            "localhost", self.port, ssl=self.trust, family=2, limit=1 << 20
        )


@contextlib.asynccontextmanager
async def running(
    decide: Decide = injected, snapshot: Snapshot | None = None, bounds: Bounds | None = None
) -> AsyncIterator[Site]:
    """Run a webhook until the end."""
    capture = LogCapture()
    notices = Notices(structlog.wrap_logger(None, processors=[capture]))
    webhook = made(decide, snapshot or Known(), notices)
    context, trust = certified(), ssl.create_default_context()
    CA.configure_trust(trust)
    listener = listen.bound(HOST, 0)
    port = listener.getsockname()[1]
    up: asyncio.Future[Door] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def serve() -> None:
        async with listen.serving(webhook.app(), listener, context, notices, bounds) as door:
            up.set_result(door)
            await over.wait()

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trust, limit=0, family=socket.AF_INET),
        timeout=aiohttp.ClientTimeout(60),
    ) as session:
        serving = asyncio.create_task(serve())
        site = Site(webhook, await up, port, session, capture.entries, trust, context, over)
        try:
            yield site
        finally:
            over.set()
            await serving


def unused() -> Webhook:
    """Make a webhook that nobody asks."""
    return made(injected, Known(), Notices(structlog.get_logger()))


def made(decide: Decide, snapshot: Snapshot, notices: Notices) -> Webhook:
    return Webhook(snapshot, decide, ControllerMetrics(), notices)


def certified() -> ssl.SSLContext:
    """Make a server's context with a certificate of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("localhost").configure_cert(context)
    return context


def review(**changes: object) -> Tree:
    """Ask as an API server does about a small pod; `changes` are fields of the request."""
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": "CREATE",
        "namespace": "team",
        "userInfo": {"username": "somebody"},
        "object": pod(),
        "dryRun": False,
    }
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": request | changes,
    }


def pod() -> Tree:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "task-", "annotations": {"nodeagent.dev/profiles": "ds"}},
        "spec": {"containers": [{"name": "task", "image": "debian"}]},
    }


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


def patch(response: Tree) -> list[Tree]:
    """Read the patch in a response."""
    assert response["patchType"] == "JSONPatch"
    operations: list[Tree] = json.loads(base64.b64decode(response["patch"], validate=True))
    return operations


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a state of which nobody tells."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 see above
            await asyncio.sleep(0.01)


def raising(error: Exception) -> Decide:
    """Decide by failing."""

    def decide(_: Review, __: Fleet, ___: Policy | None, ____: float) -> Decision:
        raise error

    return decide


BODY: Final = encoded(review())
HEAD: Final = (
    f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(BODY)}\r\n\r\n"
).encode()


@contextlib.asynccontextmanager
async def by_hand(site: Site) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await site.connect()
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Read until the other side ends the connection, however it does."""
    try:
        return await reader.read()
    except OSError:
        return b""


async def answer(reader: asyncio.StreamReader) -> bytes:
    """Read one answer with a body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    return head + await reader.readexactly(length)
