import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from nodeagent import metrics
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.readiness import Check
from nodeagent.report import Collection, ReleaseVerdict, Status
from nodeagent.serve import health
from tests.handmade import digest
from tests.statuses import STATUS

OK = Check("generation", ok=True, needed=True)
NOTED = Check("pass", ok=False, needed=False, reason=Reason.PINS_MISSING, message="no pins")
FAILED = Check("store", ok=False, needed=True, reason=Reason.PATH_DAMAGED, message="one is gone")
Client = TestClient[web.Request, web.Application]
AiohttpClient = Callable[[web.Application], Awaitable[Client]]


COLLECTION: Final = Collection(
    releases=(ReleaseVerdict(release=digest(7), step="keep", reason="pods get it"),),
    paths_deleted=3,
    bytes_deleted=1000,
)


@dataclass
class Shown:
    """A view whose node looks as a test says."""

    found: Sequence[Check] = (OK,)
    asked: list[str] = field(default_factory=list)
    fault: str = ""

    async def checks(self) -> Sequence[Check]:
        self.asked.append("checks")
        return self.found

    async def status(self) -> Status:
        return STATUS

    async def metrics(self) -> bytes:
        return b"nodeagent_ready 1.0\n"

    async def collect(self, *, dry: bool, paths: bool) -> Collection:
        self.asked.append(f"collect {dry} {paths}")
        if self.fault:
            raise NodeAgentError(Reason.NIX_FAILED, self.fault)
        return COLLECTION


async def get(aiohttp_client: AiohttpClient, address: str, *checks: Check) -> tuple[int, str]:
    client = await aiohttp_client(health.app(Shown(checks)))
    answer = await client.get(address)
    return answer.status, await answer.text()


async def test_the_process_lives_whatever_the_node_is_like(aiohttp_client: AiohttpClient) -> None:
    assert await get(aiohttp_client, "/livez", FAILED) == (200, "ok\n")


async def test_whether_the_process_lives_needs_no_look_at_the_node(
    aiohttp_client: AiohttpClient,
) -> None:
    view = Shown()
    client = await aiohttp_client(health.app(view))
    await client.get("/livez")
    assert view.asked == []


async def test_a_whole_node_is_ready(aiohttp_client: AiohttpClient) -> None:
    assert await get(aiohttp_client, "/readyz", OK, NOTED) == (200, "ok\n")


async def test_a_node_that_is_not_ready_says_why(aiohttp_client: AiohttpClient) -> None:
    status, text = await get(aiohttp_client, "/readyz", OK, NOTED, FAILED)
    assert (status, text) == (503, "store: PathDamaged: one is gone\n")


@pytest.mark.parametrize(
    ("check", "status", "ready"), [(OK, 200, True), (NOTED, 503, True), (FAILED, 503, False)]
)
async def test_health_is_stricter_than_readiness_and_shows_every_check(
    aiohttp_client: AiohttpClient, check: Check, status: int, *, ready: bool
) -> None:
    answered, text = await get(aiohttp_client, "/healthz", check)
    assert answered == status
    assert json.loads(text) == {
        "ready": ready,
        "checks": [
            {
                "name": check.name,
                "ok": check.ok,
                "needed": check.needed,
                "reason": check.reason,
                "message": check.message,
            }
        ],
    }


async def test_the_status_is_the_document(aiohttp_client: AiohttpClient) -> None:
    status, text = await get(aiohttp_client, "/v1/status")
    assert status == 200
    assert Status.model_validate_json(text) == STATUS


async def test_metrics_come_as_prometheus_reads_them(aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(health.app(Shown()))
    answer = await client.get("/metrics")
    assert answer.headers["Content-Type"] == metrics.CONTENT_TYPE
    assert await answer.read() == b"nodeagent_ready 1.0\n"


async def test_every_probe_looks_anew(aiohttp_client: AiohttpClient) -> None:
    view = Shown()
    client = await aiohttp_client(health.app(view))
    assert (await client.get("/readyz")).status == 200
    view.found = [FAILED]
    assert (await client.get("/readyz")).status == 503


async def test_nothing_can_be_changed_through_the_endpoints(aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(health.app(Shown()))
    for address in ("/livez", "/readyz", "/healthz", "/v1/status", "/metrics"):
        assert (await client.post(address)).status == 405
    assert (await client.get("/")).status == 404


async def test_who_is_beside_the_agent_may_have_it_collect(aiohttp_client: AiohttpClient) -> None:
    view = Shown()
    client = await aiohttp_client(health.app(view))
    for query in ("", "?dryRun", "?dryRun&paths"):
        answer = await client.post(f"/v1/collect{query}")
        assert Collection.model_validate_json(await answer.text()) == COLLECTION
    assert view.asked == ["collect False False", "collect True False", "collect True True"]


async def test_nobody_else_may(aiohttp_client: AiohttpClient) -> None:
    view = Shown()
    client = await aiohttp_client(health.app(view))
    elsewhere = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with aiohttp.ClientSession(connector=elsewhere) as session:
        answer = await session.post(client.make_url("/v1/collect"))
    assert answer.status == 403
    assert view.asked == []


async def test_why_nothing_was_collected_is_told(aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(health.app(Shown(fault="no end within 300 s")))
    answer = await client.post("/v1/collect")
    assert (answer.status, await answer.text()) == (503, "NixFailed: no end within 300 s\n")
