"""The fleet snapshot against a fake API server: the conformance suite, order, and clocks."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from nodeagent import kube
from nodeagent.errors import NodeAgentError
from nodeagent.fleet import RESOURCES, Snapshot
from nodeagent.names import Kind, Reason
from tests import snapshots
from tests.fakewatch import FakeWatch, failure, serving
from tests.kube_server import Server
from tests.snapshot_conformance import *  # noqa: F403 the suite is collected here
from tests.snapshots import NAMESPACES, NODES, QUICK, STORES, running, until, watched
from tests.test_kube import kubeconfig

PODS: Final = "/api/v1/namespaces/ours/pods"


@pytest.fixture
def fake() -> FakeWatch:
    fake = FakeWatch()
    fake.compact()
    return fake


@pytest.fixture
async def server(fake: FakeWatch, tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(fake) as address:
        file = kubeconfig(tmp_path / "reader", address, "reader")
        yield Server(file, file, address)


@pytest.fixture
def ours(fake: FakeWatch) -> str:
    name = "ours"
    fake.put(f"{NAMESPACES}/{name}", {"metadata": {"name": name}})
    return name


def pieces(name: str) -> dict[str, dict[str, Any]]:
    """Make what a ready node consists of."""
    node = {**snapshots.node(name), **snapshots.healthy()}
    node["metadata"]["uid"] = "1"
    pod = {**snapshots.agent("agent", name), **snapshots.pod_ready()}
    store = {**snapshots.store(name, "1"), **snapshots.publishing(("ds", "env", True))}
    return {f"{NODES}/{name}": node, f"{STORES}/{name}": store, f"{PODS}/agent": pod}


@pytest.mark.parametrize(
    "order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
)
async def test_a_node_is_the_same_whatever_of_it_comes_first(
    fake: FakeWatch, server: Server, ours: str, order: tuple[int, ...]
) -> None:
    parts = list(pieces("a").items())
    async with watched(server, ours) as snapshot:
        for number, at in enumerate(order, 1):
            fake.put(*parts[at])
            await knows(snapshot, number)
        node = snapshot.fleet().nodes["a"]
        assert (node.ready, node.store_ready, node.agent_ready) == (True, True, True)
        assert node.profiles == {"ds": Kind.ENV}
        for number, at in enumerate(reversed(order), 1):
            fake.remove(parts[at][0])
            await knows(snapshot, 3 - number)
        assert snapshot.fleet().nodes == {}


async def knows(snapshot: Snapshot, count: int) -> None:
    kinds = ("nodes", "nodestores", "pods")
    await until(lambda: sum(snapshot.objects[kind] for kind in kinds) == count)


async def test_a_pod_that_moves_is_an_agent_where_it_is_now(
    fake: FakeWatch, server: Server, ours: str
) -> None:
    async with watched(server, ours) as snapshot:
        for name in ("a", "b"):
            fake.put(f"{NODES}/{name}", snapshots.node(name))
        for name in ("a", "b"):
            pod = {**snapshots.agent("agent", name), **snapshots.pod_ready()}
            fake.put(f"{PODS}/agent", pod)
            await has_agents(snapshot, name)
        fake.put(f"{PODS}/agent", snapshots.agent("agent", ""))
        await has_agents(snapshot)


async def has_agents(snapshot: Snapshot, *names: str) -> None:
    def found() -> list[str]:
        return [name for name, node in snapshot.fleet().nodes.items() if node.agent_ready]

    await until(lambda: found() == [*names])


async def test_what_went_unseen_is_gone_with_the_next_list(
    fake: FakeWatch, server: Server, ours: str
) -> None:
    parts = pieces("a")
    for path, item in parts.items():
        fake.put(path, item)
    async with watched(server, ours) as snapshot:
        await until(lambda: all(fake.watching(path.rpartition("/")[0]) for path in parts))
        fake.silent = True
        for path in parts:
            fake.remove(path)
        fake.compact()
        fake.silent = False
        fake.end()
        await knows(snapshot, 0)
        assert snapshot.fleet().nodes == {}


async def test_a_fleet_is_the_same_object_until_something_is_heard(
    fake: FakeWatch, server: Server, ours: str
) -> None:
    fake.put(f"{NODES}/a", snapshots.node("a"))
    now = [1000.0]
    async with kube.connected(server.kubeconfig) as api:
        snapshot = Snapshot(api, ours, clock=lambda: now[0], steady=lambda: now[0])
        async with running(snapshot):
            before = snapshot.fleet()
            assert snapshot.fleet() is before
            assert before.heard == dict.fromkeys(RESOURCES, 1000.0)
            now[0] = 1030.0
            await until(lambda: fake.watching(NODES))
            fake.bookmark()
            await until(lambda: snapshot.fleet().heard["nodes"] == 1030.0)
            assert snapshot.fleet().nodes is before.nodes
            fake.put(f"{NODES}/b", snapshots.node("b"))
            await until(lambda: "b" in snapshot.fleet().nodes)
            assert "b" not in before.nodes
            assert snapshot.fleet().nodes["a"] is before.nodes["a"]


async def test_a_clock_that_is_set_back_makes_nothing_younger(server: Server, ours: str) -> None:
    now, steady = [1_000_000.0], [50.0]
    async with kube.connected(server.kubeconfig) as api:
        snapshot = Snapshot(api, ours, clock=lambda: now[0], steady=lambda: steady[0])
        async with running(snapshot):
            assert snapshot.fleet().heard["nodes"] == now[0]
        now[0], steady[0] = now[0] - 3600 + 100, steady[0] + 100
        assert now[0] - snapshot.fleet().heard["nodes"] == 100
        now[0], steady[0] = now[0] + 3600, steady[0] + 1
        assert now[0] - snapshot.fleet().heard["nodes"] > 100


async def test_a_resource_that_is_refused_is_told_once_and_leaves_the_snapshot_unwhole(
    fake: FakeWatch, server: Server, ours: str
) -> None:
    told: list[tuple[str, NodeAgentError]] = []

    def trouble(request: web.Request) -> web.Response | None:
        if request.path != STORES:
            return None
        _, why = failure(403, "Forbidden", "nodestores is forbidden")
        return web.json_response(why, status=403)

    fake.trouble = trouble
    async with kube.connected(server.kubeconfig) as api:
        snapshot = Snapshot(api, ours, lambda *one: told.append(one), QUICK)
        task = asyncio.create_task(snapshot.run())
        await until(lambda: fake.times(STORES, watched=False) >= 3)
        assert not snapshot.whole
        assert [(resource, error.reason) for resource, error in told] == [
            ("nodestores", Reason.API_REFUSED)
        ]
        assert "GET /apis/nodeagent.dev/v1alpha1/nodestores: 403" in f"{told[0][1]}"
        fake.trouble = lambda _: None
        await until(lambda: snapshot.whole)
        assert "nodestores" not in snapshot.problems
        task.cancel()


async def test_a_namespace_is_read_once_for_all_that_ask_and_never_for_long(
    fake: FakeWatch, server: Server, ours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kube.connected(server.kubeconfig) as api:
        snapshot = Snapshot(api, ours)
        assert all(await asyncio.gather(*(snapshot.find_namespace(ours) for _ in range(20))))
        assert len(fake.asked) == 1
        monkeypatch.setattr("nodeagent.fleet.snapshot.FIND_SECONDS", 0.05)
        fake.put(f"{NAMESPACES}/slow", {"metadata": {"name": "slow"}})
        fake.awake.clear()
        assert not await snapshot.find_namespace("slow")
        fake.awake.set()
        assert await snapshot.find_namespace("slow")


async def test_a_policy_without_its_key_is_a_problem(
    fake: FakeWatch, server: Server, ours: str
) -> None:
    body = snapshots.policy("{}")
    body["data"] = {"policy.yaml": "{}"}
    fake.put(f"{NAMESPACES}/{ours}/configmaps/nodeagent-policy", body)
    async with watched(server, ours) as snapshot:
        assert snapshot.policy is None
        assert snapshot.policy_problem is not None
        assert snapshot.policy_problem.reason is Reason.POLICY_INVALID
