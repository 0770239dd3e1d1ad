"""The conformance suite's part on taints, and on who uses a node; see tests.kube_conformance."""

import uuid
from collections.abc import Mapping
from typing import Any, Final

import pytest

from nodeagent.errors import NodeAgentError
from nodeagent.names import TAINT, Reason
from tests.kube_server import MERGE, Server, connected

TAINTED: Final = {"key": TAINT, "effect": "NoSchedule"}
OTHERS: Final = [
    {"key": "gpu", "value": "yes", "effect": "NoSchedule"},
    {"key": "spot", "effect": "NoExecute"},
]


@pytest.mark.parametrize("place", range(3))
async def test_our_taint_alone_comes_off_wherever_it_is(server: Server, place: int) -> None:
    taints = [*OTHERS[:place], TAINTED, *OTHERS[place:]]
    await server.change(spec={"taints": taints})
    async with connected(server) as (_, node):
        for _again in range(2):
            await node.untaint(await node.look())
    assert (await server.read())["spec"]["taints"] == OTHERS


async def test_without_our_taint_none_comes_off(server: Server) -> None:
    await server.change(spec={"taints": OTHERS})
    async with connected(server) as (_, node):
        await node.untaint(await node.look())
    assert (await server.read())["spec"]["taints"] == OTHERS


async def test_taints_that_moved_meanwhile_stay(server: Server) -> None:
    await server.change(spec={"taints": [TAINTED, *OTHERS]})
    async with connected(server) as (_, node):
        seen = await node.look()
        await server.change(spec={"taints": [*OTHERS, TAINTED]})
        with pytest.raises(NodeAgentError) as caught:
            await node.untaint(seen)
    assert caught.value.reason is Reason.API_REFUSED
    assert (await server.read())["spec"]["taints"] == [*OTHERS, TAINTED]


def _affinity(strength: str) -> Mapping[str, Any]:
    term = {"matchExpressions": [{"key": "profile.nodeagent.dev/ds", "operator": "Exists"}]}
    terms = (
        {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        if strength == "required"
        else {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": term}]
        }
    )
    return {"affinity": {"nodeAffinity": terms}}


def _volume(directory: str) -> dict[str, Any]:
    return {"volumes": [{"name": "v", "hostPath": {"path": directory}}]}


USERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "selector": {"nodeSelector": {"nodeagent.dev/ready": "true"}},
    "required affinity": _affinity("required"),
    "preferred affinity": _affinity("preferred"),
    "store": _volume("/run/nodeagent/store"),
    "profile": _volume("/run/nodeagent/profiles/ds"),
}
STRANGERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "nothing": {},
    "other selector": {"nodeSelector": {"zone": "b"}},
    "other path": _volume("/run/elsewhere"),
}
AGENT: Final = {**_volume("/run/nodeagent"), **USERS["selector"]}


async def _pod(
    server: Server,
    spec: Mapping[str, Any],
    *,
    node: str = "",
    phase: str = "",
    namespace: str = "default",
) -> None:
    name = f"pod-{uuid.uuid4().hex[:8]}"
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": str(uuid.uuid4())}
    place = f"/api/v1/namespaces/{namespace}/pods"
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "ownerReferences": [owner]},
        "spec": {
            "nodeName": node or server.node,
            "containers": [{"name": "c", "image": "localhost/base:1"}],
            **spec,
        },
    }
    await server.ask("POST", place, body)
    if phase:
        await server.ask("PATCH", f"{place}/{name}/status", {"status": {"phase": phase}}, MERGE)


@pytest.mark.parametrize("use", USERS)
async def test_a_pod_that_needs_us_is_seen(server: Server, use: str) -> None:
    for spec in STRANGERS.values():
        await _pod(server, spec)
    async with connected(server) as (_, node):
        assert not await node.in_use()
        await _pod(server, USERS[use], phase="Running")
        assert await node.in_use()


async def test_finished_pods_and_those_of_other_nodes_need_nothing(server: Server) -> None:
    for phase in ("Succeeded", "Failed"):
        await _pod(server, USERS["store"], phase=phase)
    await _pod(server, USERS["store"], node="elsewhere")
    async with connected(server) as (_, node):
        assert not await node.in_use()


async def test_agents_are_not_users_but_only_in_their_own_namespace(server: Server) -> None:
    async with connected(server) as (_, node):
        await _pod(server, AGENT, namespace="nodeagent-system")
        assert not await node.in_use()
        await _pod(server, AGENT)
        assert [one.partition("/")[0] for one in await node.users(())] == ["default"]
