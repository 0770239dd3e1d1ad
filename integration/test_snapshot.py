"""The fleet snapshot against a real API server: the conformance suite, and a line that breaks."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from integration.apiserver import BASE, api_server
from integration.fleet_proxy import Proxy
from nodeagent import kube
from nodeagent.fleet import Snapshot
from nodeagent.names import NAMESPACE
from tests.kube_server import MERGE, Server
from tests.snapshot_conformance import *  # noqa: F403 the suite is collected here
from tests.snapshots import (
    NAMESPACES,
    NODES,
    REFUSAL,
    RESUMING,
    failed_create,
    fresh,
    injected,
    node,
    policy,
    running,
    unschedulable,
    until,
    watched,
)


@pytest.fixture(scope="module")
def real(cluster_host: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give an API server that knows NodeStores; the snapshot reads it as its admin."""
    directory = tmp_path_factory.mktemp("api")
    with api_server(directory, "namespace.yaml", "crd.yaml") as (server, admin):
        admin.kubectl("apply", "-f", str(BASE.parent / "controller/rbac.yaml"))
        yield replace(server, kubeconfig=directory / "admin.kubeconfig")


@pytest.fixture
async def server(real: Server) -> Server:
    return real


@pytest.fixture
async def ours(server: Server) -> str:
    name = fresh("ours")
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    await server.ask("POST", NAMESPACES, body)
    return name


@pytest.fixture
async def line(server: Server, tmp_path: Path) -> AsyncIterator[tuple[Proxy, Server]]:
    """Give a proxy to the API server, and the API server as it is seen through it."""
    port = urlsplit(server.url).port
    assert port
    proxy = Proxy(port)
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as listening:
        own = listening.sockets[0].getsockname()[1]
        file = tmp_path / "proxied"
        file.write_text(server.kubeconfig.read_text().replace(f":{port}", f":{own}"))
        yield proxy, replace(server, kubeconfig=file)
        proxy.obey("drop")


async def test_what_changes_while_the_line_is_broken_is_known_after_it(
    line: tuple[Proxy, Server], ours: str
) -> None:
    proxy, server = line
    gone, new = fresh("node"), fresh("node")
    await server.ask("POST", NODES, node(gone))
    async with watched(server, ours) as snapshot:
        assert gone in snapshot.fleet().nodes
        proxy.obey("drop")
        await server.ask("DELETE", f"{NODES}/{gone}")
        await server.ask("POST", NODES, node(new))
        await until(lambda: gone not in snapshot.fleet().nodes and new in snapshot.fleet().nodes)


async def test_the_controllers_own_rights_are_enough(server: Server, ours: str) -> None:
    async with kube.connected(server.kubeconfig) as api:
        account = f"system:serviceaccount:{NAMESPACE}:nodeagent-controller"
        api.client.set_default_header("Impersonate-User", account)
        snapshot = Snapshot(api, NAMESPACE, times=RESUMING)
        async with running(snapshot):
            path = f"{NAMESPACES}/{NAMESPACE}/configmaps"
            await server.ask("POST", path, policy("{}"))
            await until(lambda: snapshot.policy)
            assert await snapshot.find_namespace(NAMESPACE)
            event = failed_create("refused", ours, REFUSAL)
            await server.ask("POST", f"{NAMESPACES}/{ours}/events", event)
            pod, pods = "waits", f"{NAMESPACES}/{NAMESPACE}/pods"
            await server.ask("POST", pods, injected(pod))
            await server.ask("PATCH", f"{pods}/{pod}/status", unschedulable(3600), MERGE)
            await until(lambda: snapshot.fleet().broken >= {NAMESPACE, ours})
            assert not snapshot.problems
            await server.ask("DELETE", f"{pods}/{pod}")
        await server.ask("DELETE", f"{path}/nodeagent-policy")


async def test_the_bench_fills_an_api_server_and_keeps_its_figures(
    real: Server, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    bench = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nodeagent", "bench", "snapshot", "--runs", "1"),
        *("--scale", "0.01", "--idle-seconds", "0.1", "--kubeconfig", str(real.kubeconfig)),
        *("--memory", str(tmp_path), "--disk", str(tmp_path)),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await bench.communicate())[0].decode()
    assert bench.returncode in {0, 1}, output  # 1: a target was missed
    figures = json.loads((tmp_path / "build/bench/snapshot.json").read_text())
    assert [one["name"] for one in figures if one["target"] == 90] == [figures[0]["name"]]
    assert figures[0]["name"] in (tmp_path / "docs/benchmarks.md").read_text()
