"""The fake API server under the conformance suite, and the bad times that only it can have."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from nodeagent import kube
from nodeagent.errors import NodeAgentError
from nodeagent.kube import Api, BusyError, Node, NodeStore, RefusedError, api
from nodeagent.names import Reason
from tests.fakeapi import FakeApi
from tests.fakeserving import Direct, serving
from tests.handmade import NOW
from tests.kube_conformance import *  # noqa: F403 the suite is collected here
from tests.kube_conformance_leave import *  # noqa: F403 … in parts
from tests.kube_conformance_use import *  # noqa: F403
from tests.kube_server import Server

NODES: Final = "/api/v1/nodes"


def kubeconfig(file: Path, address: str, user: str) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": address}}],
        "users": [{"name": "test", "user": {"token": user}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    file.write_text(json.dumps(document))
    return file


@pytest.fixture
def fake() -> FakeApi:
    return FakeApi()


@pytest.fixture
async def server(fake: FakeApi, tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(fake) as address:
        agent, stranger = (
            kubeconfig(tmp_path / user, address, user) for user in ("agent", "stranger")
        )
        yield await Server(agent, stranger, address).with_node()


@pytest.mark.parametrize("status", [408, 409, 410, 429, 500, 503])
async def test_a_server_in_trouble_is_asked_again(
    fake: FakeApi, server: Server, status: int
) -> None:
    fake.faults[NODES] = status
    error = await fault(server)
    assert error.reason is Reason.API_UNREACHABLE
    assert f"GET {NODES}/{server.node}: {status} " in error.message
    assert f"told to answer {status}; this is tried again" in error.message


async def test_a_refusal_names_the_next_step(fake: FakeApi, server: Server) -> None:
    fake.faults[NODES] = 403
    error = await fault(server)
    assert error.reason is Reason.API_REFUSED
    assert "told to answer 403; compare its rights with those in daemonset/" in error.message


@pytest.mark.parametrize(("status", "asked", "wait"), [(429, 7, 7), (503, 9000, 120)])
async def test_a_server_that_asks_for_patience_is_left_alone(
    fake: FakeApi, server: Server, status: int, asked: int, wait: float
) -> None:
    fake.faults[NODES], fake.retry_after = status, asked
    async with kube.connected(server.kubeconfig) as connection:
        node = Node(connection, server.node)
        with pytest.raises(BusyError, match=f"told to answer {status}; this is") as caught:
            await node.look()
        assert caught.value.wait == wait
        before = fake.asked
        fake.faults.clear()
        with pytest.raises(BusyError, match=r"waits for \d+ s, as the API server") as caught:
            await node.label(())
        assert 0 < caught.value.wait <= wait
        assert fake.asked == before


@pytest.mark.parametrize("asked", ["Wed, 21 Oct 2026 07:28:00 GMT", "-1", "0"])
async def test_a_wait_that_is_no_number_of_seconds_is_ours_to_choose(
    fake: FakeApi, server: Server, asked: str
) -> None:
    fake.faults[NODES], fake.retry_after = 503, asked
    error = await fault(server)
    assert (error.reason, isinstance(error, BusyError)) == (Reason.API_UNREACHABLE, False)


async def test_a_token_that_was_replaced_is_read_anew_when_the_old_one_is_refused(
    fake: FakeApi, server: Server
) -> None:
    async with kube.connected(server.kubeconfig) as connection:
        node = Node(connection, server.node)
        await node.look()
        fake.expired.add("Bearer agent")
        before = fake.asked
        with pytest.raises(
            NodeAgentError, match=r"401 .* the token is read anew at each"
        ) as caught:
            await node.look()
        assert caught.value.reason is Reason.API_REFUSED
        assert fake.asked == before + 1  # one and the same token is shown once
        kubeconfig(server.kubeconfig, server.url, "agent2")
        await node.look()
        assert fake.asked == before + 3


async def test_a_token_that_is_being_written_is_tried_again(server: Server, fake: FakeApi) -> None:
    async with kube.connected(server.kubeconfig) as connection:
        fake.expired.add("Bearer agent")
        server.kubeconfig.write_text("")
        with pytest.raises(NodeAgentError, match="401"):
            await Node(connection, server.node).look()
        kubeconfig(server.kubeconfig, server.url, "agent2")
        await Node(connection, server.node).look()


async def test_a_crd_that_is_missing_is_named(fake: FakeApi, server: Server) -> None:
    fake.faults["/apis/nodeagent.dev"] = 404
    async with kube.connected(server.kubeconfig) as connection:
        with pytest.raises(NodeAgentError, match="compare the CRD with the one in daemonset/base"):
            await NodeStore(connection, server.node).own("uid")


async def test_a_connection_that_breaks_is_no_answer(fake: FakeApi, server: Server) -> None:
    fake.away = True
    error = await fault(server)
    assert error.reason is Reason.API_UNREACHABLE
    assert "no answer to GET" in error.message


async def test_a_server_that_does_not_answer_is_not_waited_for(
    fake: FakeApi, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "REQUEST_SECONDS", 0.05)
    fake.slow = 5.0
    error = await fault(server)
    assert error.reason is Reason.API_UNREACHABLE
    assert "TimeoutError" in error.message


@pytest.mark.parametrize("status", [200, 502])
async def test_an_answer_that_is_not_the_api_servers_is_tried_again(
    tmp_path: Path, status: int
) -> None:
    async def proxy(_: web.Request) -> web.Response:
        return web.Response(status=status, text="<h1>a proxy</h1>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/{path:.*}", proxy)
    async with TestServer(app) as answering:
        address = str(answering.make_url("")).rstrip("/")
        file = kubeconfig(tmp_path / "kubeconfig", address, "agent")
        error = await fault(Server(file, file, address, node="n"))
    assert error.reason is Reason.API_UNREACHABLE
    assert f"GET {NODES}/n" in error.message


async def test_a_field_that_a_crd_does_not_know_is_refused(tmp_path: Path) -> None:
    """A real API server says 500 to server-side apply then: see test_fleet_trouble_mistakes."""
    message = "failed to create typed patch object: .status.published: field not declared in schema"

    async def older(_: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "message": message, "code": 500}, status=500)

    app = web.Application()
    app.router.add_patch("/{path:.*}", older)
    async with TestServer(app) as answering:
        address = str(answering.make_url("")).rstrip("/")
        async with kube.connected(kubeconfig(tmp_path / "agent", address, "agent")) as connection:
            with pytest.raises(RefusedError, match=f"{message}; .* the CRD") as caught:
                await NodeStore(connection, "n").tell({}, NOW)
    assert caught.value.reason is Reason.API_REFUSED


async def fault(server: Server) -> NodeAgentError:
    async with kube.connected(server.kubeconfig) as connection:
        with pytest.raises(NodeAgentError) as caught:
            await Node(connection, server.node).look()
        return caught.value


async def test_the_client_without_a_socket_is_answered_the_same(
    fake: FakeApi, server: Server
) -> None:
    async with kube.connected(server.kubeconfig) as connection, Direct(fake) as direct:
        over_http, without = Node(connection, server.node), Node(Api(direct), server.node)
        await without.label({"nodeagent.dev/ready"})
        assert await over_http.look() == await without.look()
        fake.faults[NODES] = 403
        for node in (over_http, without):
            with pytest.raises(NodeAgentError, match=r"PATCH .*: 403 .*: told to answer 403"):
                await node.label(())


@pytest.mark.parametrize("content", [None, "", "{}", "clusters: [", "\0"])
async def test_a_kubeconfig_that_is_none_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "kubeconfig"
    if content is not None:
        file.write_text(content)
    with pytest.raises(NodeAgentError) as caught:
        async with kube.connected(file):
            pass
    assert caught.value.reason is Reason.SETTING_INVALID
    assert str(file) in caught.value.message


async def test_outside_a_pod_there_is_no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(NodeAgentError, match="this pod's service account") as caught:
        async with kube.connected():
            pass
    assert caught.value.reason is Reason.SETTING_INVALID
