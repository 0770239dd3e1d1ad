"""A real API server that is overloaded: the agent's client hears 429, and waits as it is asked to.

One request is enough for that: it hangs in a webhook that never answers, and holds the only seat
there is for the agent's account.
"""

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any, Final

import pytest

from integration.apiserver import AGENT, api_server
from integration.cluster.kubernetes import Kubernetes
from integration.fleet_counts import NAME, VERSION, flow_schema
from nodeagent.kube import BusyError, NodeStore
from nodeagent.names import Reason
from tests.kube_server import Server, connected

LEVEL: Final = {
    "apiVersion": VERSION,
    "kind": "PriorityLevelConfiguration",
    "metadata": {"name": NAME},
    "spec": {
        "type": "Limited",
        "limited": {
            "nominalConcurrencyShares": 0,
            "lendablePercent": 0,
            "borrowingLimitPercent": 0,
            "limitResponse": {"type": "Reject"},
        },
    },
}


def webhook(port: int) -> dict[str, Any]:
    """Make a webhook that is asked about NodeStores."""
    rule = {"apiGroups": ["nodeagent.dev"], "apiVersions": ["*"], "resources": ["nodestores"]}
    hook = {
        "name": "nobody.nodeagent.dev",
        "clientConfig": {"url": f"https://127.0.0.1:{port}/"},
        "rules": [{**rule, "operations": ["*"]}],
        "sideEffects": "None",
        "failurePolicy": "Ignore",
        "timeoutSeconds": 30,
        "admissionReviewVersions": ["v1"],
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": NAME},
        "webhooks": [hook],
    }


@pytest.fixture(scope="module")
def busy(
    cluster_host: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Kubernetes, socket.socket]]:
    """Give an API server with one seat for agents, and who never answers its webhook."""
    declared = ("namespace.yaml", "rbac.yaml", "crd.yaml")
    with (
        socket.create_server(("127.0.0.1", 0)) as nobody,
        api_server(tmp_path_factory.mktemp("api"), *declared) as (server, admin),
    ):
        flow = flow_schema({"kind": "User", "user": {"name": AGENT}}, NAME)
        for made in (LEVEL, flow, webhook(nobody.getsockname()[1])):
            admin.kubectl("apply", "-f", "-", stdin=json.dumps(made))
        yield server, admin, nobody


async def test_while_an_api_server_is_overloaded_it_is_asked_once_for_each_wait(
    busy: tuple[Server, Kubernetes, socket.socket],
) -> None:
    real, admin, nobody = busy
    server = await real.with_node()
    async with connected(server) as (api, _), connected(server) as (_, other):
        hanging, line = await hang(NodeStore(api, server.node), nobody)
        with pytest.raises(BusyError, match="429 Too Many Requests") as caught:
            await other.look()
        assert caught.value.reason is Reason.API_UNREACHABLE
        assert 0 < caught.value.wait <= 64
        assert rejected(admin) == 1
        with pytest.raises(BusyError, match="as the API server asked for"):
            await other.look()
        assert rejected(admin) == 1
        line.close()
        await hanging
        await asyncio.sleep(caught.value.wait)
        assert (await other.look()).uid


async def hang(store: NodeStore, nobody: socket.socket) -> tuple[asyncio.Task[None], socket.socket]:
    """Make a request that has reached the webhook; those before it came too early for that."""
    nobody.setblocking(False)  # noqa: FBT003 the library's
    accepted = asyncio.create_task(asyncio.get_running_loop().sock_accept(nobody))
    async with asyncio.timeout(60):
        while True:
            hanging = asyncio.create_task(store.own("uid"))
            await asyncio.wait([accepted, hanging], return_when=asyncio.FIRST_COMPLETED)
            if accepted.done():
                return hanging, accepted.result()[0]


def rejected(admin: Kubernetes) -> int:
    text = admin.kubectl("get", "--raw", "/metrics").stdout
    start = f'apiserver_flowcontrol_rejected_requests_total{{flow_schema="{NAME}"'
    found = [line for line in text.splitlines() if line.startswith(start)]
    return sum(int(float(line.rpartition(" ")[2])) for line in found)
