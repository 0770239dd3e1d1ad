"""`nodeagent controller`, whole, beside a made-up API server."""

import asyncio
import contextlib
import json
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from nodeagent import controller
from nodeagent.config import ControllerSettings
from nodeagent.errors import NodeAgentError
from nodeagent.names import CONDITION, LABEL_INJECT, Reason
from tests import fakewatch, snapshots
from tests.fakewatch import FakeWatch
from tests.test_kube import kubeconfig
from tests.webhooking import CA, HOST, JSON, PATH, encoded, patch, review, until

NAMESPACE: Final = "nodeagent-system"
POLICY: Final = {
    "apiVersion": "nodeagent.dev/v1",
    "kind": "Policy",
    "profiles": {"ds": {"namespaces": ["team"]}},
    "assumePrivileged": True,
}
Tree = dict[str, Any]


@dataclass
class Running:
    """A controller that runs in this process, and who asks it."""

    task: asyncio.Task[None]
    session: aiohttp.ClientSession
    logs: list[Any]
    folder: Path

    def port(self, event: str) -> int:
        return next((int(one["port"]) for one in self.logs if one["event"] == event), 0)

    async def get(self, path: str) -> tuple[int, str]:
        await until(lambda: bool(self.port("started")) or self.task.done())
        async with self.session.get(f"http://{HOST}:{self.port('started')}{path}") as answer:
            return answer.status, await answer.text()

    async def until_ready(self) -> None:
        await self.until("/readyz", "ok\n")

    async def until(self, path: str, text: str) -> None:
        async with asyncio.timeout(60):
            while text not in (await self.get(path))[1]:  # noqa: ASYNC110 it is asked from outside
                await asyncio.sleep(0.02)

    async def review(self) -> Tree:
        await until(lambda: bool(self.port("answering")))
        url = f"https://localhost:{self.port('answering')}{PATH}"
        async with self.session.post(url, data=encoded(review()), headers=JSON) as answer:
            response: Tree = (await answer.json())["response"]
            return response


@dataclass
class World:
    """An API server with a ready node and a policy, and files for a controller beside it."""

    server: FakeWatch
    folder: Path
    address: str
    settings: dict[str, Any] = field(default_factory=dict)

    def certify(self) -> None:
        issued = CA.issue_cert("localhost")
        issued.private_key_pem.write_to_path(self.folder / "tls.key")
        issued.cert_chain_pems[0].write_to_path(self.folder / "tls.crt")

    def arguments(self) -> dict[str, Any]:
        return {
            "kubeconfig": kubeconfig(self.folder / "config", self.address, "reader"),
            "certificates": "files",
            "tls_cert": self.folder / "tls.crt",
            "tls_key": self.folder / "tls.key",
            "host": HOST,
            "port": 0,
            "webhook_port": 0,
            "drain_seconds": 0,
        } | self.settings

    @contextlib.asynccontextmanager
    async def controller(self) -> AsyncIterator[Running]:
        trust = ssl.create_default_context()
        CA.configure_trust(trust)
        connector = aiohttp.TCPConnector(ssl=trust, family=socket.AF_INET)
        with capture_logs() as logs:
            async with aiohttp.ClientSession(connector=connector) as session:
                task = asyncio.create_task(controller.run(ControllerSettings(**self.arguments())))
                try:
                    yield Running(task, session, logs, self.folder)
                finally:
                    task.cancel()
                    await asyncio.wait([task])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    server = FakeWatch()
    node = server.put("/api/v1/nodes/a", snapshots.node("a"))
    labels = {"nodeagent.dev/ready": "true", "profile.nodeagent.dev/ds": "true"}
    told = [snapshots.condition("Ready"), snapshots.condition(CONDITION)]
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    told[1]["lastHeartbeatTime"] = now
    server.put(
        "/api/v1/nodes/a",
        node | {"metadata": node["metadata"] | {"labels": labels}, "status": {"conditions": told}},
    )
    stored = snapshots.store("a", node["metadata"]["uid"]) | snapshots.publishing(
        ("ds", "env", True)
    )
    server.put(f"{snapshots.STORES}/a", stored)
    agent = snapshots.agent("agent", "a") | snapshots.pod_ready()
    server.put(f"/api/v1/namespaces/{NAMESPACE}/pods/agent", agent)
    team = {"metadata": {"name": "team", "labels": {LABEL_INJECT: "true"}}}
    server.put("/api/v1/namespaces/team", team)
    put_policy(server, json.dumps(POLICY))
    async with fakewatch.serving(server) as address:
        made = World(server, tmp_path, address)
        made.certify()
        yield made


def put_policy(server: FakeWatch, text: str) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps/nodeagent-policy"
    server.put(path, snapshots.policy(text))


async def test_a_pod_is_injected_by_what_the_api_server_says(world: World) -> None:
    async with world.controller() as it:
        await it.until_ready()
        response = await it.review()
        assert response["auditAnnotations"]["reason"] == "Injected"
        assert "/opt/nodeagent/ds" in json.dumps(patch(response))
        assert await it.get("/livez") == (200, "ok\n")


async def test_it_is_ready_when_it_has_a_certificate_and_has_seen_everything(world: World) -> None:
    (world.folder / "tls.key").unlink()
    world.server.trouble = lambda asked: (
        web.json_response({"message": "no"}, status=503)
        if asked.path.endswith("/nodestores")
        else None
    )
    async with world.controller() as it:
        await until(lambda: bool(it.port("started")))
        status, text = await it.get("/readyz")
        assert status == 503
        assert "snapshot: not listed yet: " in text
        assert "nodestores" in text
        assert "certificate: " in text
        assert "tls.key" in text
        assert await it.get("/livez") == (200, "ok\n")
        assert not it.port("answering")


async def test_certificates_alone_make_it_answer_but_not_ready(world: World) -> None:
    world.server.awake.clear()
    async with world.controller() as it:
        response = await it.review()
        assert response["auditAnnotations"]["reason"] == "StaleSnapshot"
        assert (await it.get("/readyz"))[0] == 503
        world.server.awake.set()
        await it.until_ready()


async def test_metrics_tell_the_snapshot_the_certificate_and_the_policy(world: World) -> None:
    async with world.controller() as it:
        await it.until_ready()
        await it.review()
        _, text = await it.get("/metrics")
        for line in (
            'nodeagent_snapshot_objects{resource="nodes"} 1.0',
            'nodeagent_snapshot_objects{resource="namespaces"} 1.0',
            'nodeagent_admissions_total{outcome="Injected"} 1.0',
            "nodeagent_policy_valid 1.0",
        ):
            assert line in text
        assert value(text, 'nodeagent_snapshot_age_seconds{resource="policy"}') < 90
        assert value(text, "nodeagent_certificate_expiry_timestamp_seconds{certificate=") > 1e9
        put_policy(world.server, "{")
        await it.until("/metrics", "nodeagent_policy_valid 0.0")
        assert (await it.review())["auditAnnotations"]["reason"] == "Injected"  # by the last good
        assert [one for one in it.logs if one.get("resource") == "policy"]


async def test_the_breaker_is_seen_in_answers_metrics_and_log(world: World) -> None:
    async with world.controller() as it:
        await it.until_ready()
        assert "nodeagent_breaker_open 0.0" in (await it.get("/metrics"))[1]
        event = snapshots.failed_create("a", "team", snapshots.REFUSAL)
        world.server.put("/api/v1/namespaces/team/events/a", event)
        await it.until("/metrics", "nodeagent_breaker_open 1.0")
        response = await it.review()
        assert response["auditAnnotations"]["reason"] == "BreakerOpen"
        [line] = [one for one in it.logs if one["event"].startswith("breaker open")]
        assert (line["namespace"], line["why"]) == ("team", "refused creations")


def value(text: str, start: str) -> float:
    (line,) = [one for one in text.splitlines() if one.startswith(start)]
    return float(line.rpartition(" ")[2])


async def test_told_to_end_it_is_unready_and_answers_until_nobody_asks(world: World) -> None:
    world.settings["drain_seconds"] = 2
    async with world.controller() as it:
        await it.until_ready()
        await it.review()
        it.task.cancel()
        await until(lambda: any(one["event"] == "leaving" for one in it.logs))
        status, text = await it.get("/readyz")
        assert (status, text) == (503, "process: it was told to end\n")
        assert (await it.review())["auditAnnotations"]["reason"] == "Injected"
        await asyncio.wait([it.task])
        assert it.task.cancelled()
        with pytest.raises(aiohttp.ClientError):
            await it.review()


@pytest.mark.parametrize("flag", ["port", "webhook_port"])
async def test_a_port_that_is_taken_is_told(world: World, flag: str) -> None:
    with socket.create_server((HOST, 0)) as taken:
        world.settings[flag] = taken.getsockname()[1]
        async with world.controller() as it:
            with pytest.raises(NodeAgentError, match="give another --") as failure:
                await it.task
    assert failure.value.reason is Reason.SETTING_INVALID


async def test_sigterm_ends_the_process_in_order(world: World) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in world.arguments().items()]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nodeagent", "controller", *flags),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async for line in process.stderr:
            if json.loads(line)["event"] == "answering":
                break
        process.send_signal(signal.SIGTERM)
        rest = await process.stderr.read()
        assert await process.wait() == 0
        assert [json.loads(line)["event"] for line in rest.splitlines()] == ["leaving"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
