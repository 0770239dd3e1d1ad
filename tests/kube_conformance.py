"""What `nodeagent.kube` promises, against any API server: tests that other modules collect.

Each of those gives a fixture `server`: a `Server` with a Node of its own, fresh for each test.
"""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from nodeagent import kube
from nodeagent.errors import NodeAgentError
from nodeagent.kube import Event, Events, NodeStore
from nodeagent.names import CONDITION, Kind, Phase, Reason
from nodeagent.readiness import Condition
from nodeagent.report import Problem, ProfileStatus, Status
from tests.handmade import NOW, path
from tests.kube_server import Server, connected, kubelets
from tests.statuses import IDLE, STATUS

READY: Final = Condition(ready=True, reason="Published", message="release 7 is published")
LOST: Final = Condition(ready=False, reason="PathDamaged", message="1 path is gone")
SUSPECT: Final = Condition(ready=True, reason="RepeatedDamage", message="3 paths went bad")
OURS: Final = frozenset({"nodeagent.dev/ready", "profile.nodeagent.dev/ds"})
EVENTS: Final = "/api/v1/namespaces/default/events"


async def test_a_look_at_a_new_node_shows_that_nothing_is_ours(server: Server) -> None:
    async with connected(server) as (_, node):
        seen = await node.look()
    assert seen.uid == (await server.read())["metadata"]["uid"]
    assert seen.labels["zone"] == "b"
    assert (seen.ours, seen.condition, seen.since) == (frozenset(), None, None)
    assert seen.told < NOW - timedelta(days=365)


async def test_a_look_shows_what_was_written(server: Server) -> None:
    async with connected(server) as (_, node):
        await node.label(OURS)
        await node.tell(READY, NOW - timedelta(hours=1), NOW)
        seen = await node.look()
    assert (seen.ours, seen.condition) == (OURS, READY)
    assert (seen.since, seen.told) == (NOW - timedelta(hours=1), NOW)


async def test_labels_and_annotations_of_others_stay(server: Server) -> None:
    async with connected(server) as (_, node):
        await node.label(OURS)
        await server.change(metadata={"labels": {"later": "1"}, "annotations": {"b": "2"}})
        await node.label(OURS - {"profile.nodeagent.dev/ds"})
    found = (await server.read())["metadata"]
    assert (
        found["labels"].items()
        >= {"zone": "b", "later": "1", "nodeagent.dev/ready": "true"}.items()
    )
    assert found["annotations"].items() >= {"a": "1", "b": "2"}.items()


async def test_only_labels_that_we_leave_out_go(server: Server) -> None:
    async with connected(server) as (_, node):
        await node.label(OURS)
        await node.label({"nodeagent.dev/ready"})
        assert (await node.look()).ours == {"nodeagent.dev/ready"}
        await node.label(())
        assert (await node.look()).ours == frozenset()
    assert (await server.read())["metadata"]["labels"]["zone"] == "b"


async def test_labels_that_were_changed_by_hand_are_ours_again(server: Server) -> None:
    async with connected(server) as (_, node):
        await node.label(OURS)
        await server.change(metadata={"labels": {"nodeagent.dev/ready": "maybe"}})
        assert (await node.look()).ours == OURS - {"nodeagent.dev/ready"}
        await node.label(OURS)
        assert (await node.look()).labels["nodeagent.dev/ready"] == "true"


async def test_labels_do_not_touch_the_condition_nor_the_reverse(server: Server) -> None:
    async with connected(server) as (_, node):
        await node.tell(READY, NOW, NOW)
        await node.label(OURS)
        await node.tell(LOST, NOW, NOW)
        seen = await node.look()
    assert (seen.condition, seen.ours) == (LOST, OURS)


async def test_the_conditions_of_the_kubelet_stay(server: Server) -> None:
    async with connected(server) as (_, node):
        await node.tell(READY, NOW, NOW)
        await node.tell(LOST, NOW, NOW + timedelta(minutes=5))
    conditions = {one["type"]: one for one in (await server.read())["status"]["conditions"]}
    assert conditions["Ready"] == kubelets("Ready")
    assert conditions[CONDITION] == {
        "type": CONDITION,
        "status": "False",
        "reason": LOST.reason,
        "message": LOST.message,
        "lastTransitionTime": "2026-06-01T12:00:00Z",
        "lastHeartbeatTime": "2026-06-01T12:05:00Z",
    }


async def test_the_disks_condition_comes_with_suspicion_and_goes_with_it(server: Server) -> None:
    async with connected(server) as (_, node):
        await node.tell(READY, NOW, NOW)
        assert (await node.look()).disk is None
        await node.tell(READY, NOW, NOW, SUSPECT, NOW - timedelta(hours=1))
        seen = await node.look()
        assert (seen.condition, seen.disk) == (READY, SUSPECT)
        assert (seen.since, seen.disk_since) == (NOW, NOW - timedelta(hours=1))
        await node.tell(LOST, NOW, NOW)
        seen = await node.look()
        assert (seen.condition, seen.disk, seen.disk_since) == (LOST, None, None)
    conditions = {one["type"]: one for one in (await server.read())["status"]["conditions"]}
    assert conditions["Ready"] == kubelets("Ready")


async def test_a_condition_that_somebody_overwrote_is_ours_again(server: Server) -> None:
    async with connected(server) as (_, node):
        await node.tell(READY, NOW, NOW)
        forged = kubelets(CONDITION) | {"status": "Unknown"}
        await server.change("/status", status={"conditions": [kubelets("Ready"), forged]})
        await node.tell(READY, NOW, NOW)
        assert (await node.look()).condition == READY


async def test_a_nodestore_is_made_once_and_belongs_to_its_node(server: Server) -> None:
    async with connected(server) as (api, node):
        uid = (await node.look()).uid
        for _ in range(2):
            await NodeStore(api, server.node).own(uid)
        (owner,) = (await _nodestore(server))["metadata"]["ownerReferences"]
        assert owner == {"apiVersion": "v1", "kind": "Node", "name": server.node, "uid": uid}
        other = str(uuid.uuid4())
        await NodeStore(api, server.node).own(other)
        (owner,) = (await _nodestore(server))["metadata"]["ownerReferences"]
        assert owner["uid"] == other


async def test_a_nodestore_is_read_only_as_that_of_its_node(server: Server) -> None:
    async with connected(server) as (api, node):
        store, uid = NodeStore(api, server.node), (await node.look()).uid
        assert await store.look(uid) is None
        await store.own(uid)
        assert await store.look(uid) == {}
        assert await store.look("of an earlier node") is None


def _statuses() -> Iterator[Status]:
    yield from (IDLE, STATUS)
    nothing: dict[str, object] = {"ready": False, "wanted": None, "published": None, "profiles": {}}
    yield from (IDLE.model_copy(update=nothing | {"phase": phase}) for phase in Phase)
    profiles = {
        f"p-{kind}": ProfileStatus(root=path(kind), kind=kind, published=kind != Kind.ENV)
        for kind in Kind
    }
    yield IDLE.model_copy(update={"profiles": profiles})
    for reason in Reason:
        problem = Problem(reason=reason, message=f"{reason}: why", since=NOW)
        yield IDLE.model_copy(update={"phase": Phase.RETRYING, "problem": problem})


async def test_every_status_is_taken_with_all_its_fields(server: Server) -> None:
    async with connected(server) as (api, node):
        store = NodeStore(api, server.node)
        await store.own((await node.look()).uid)
        for status in _statuses():
            told = kube.describe(status, READY if status.ready else LOST)
            await store.tell(told, NOW)
            found = (await _nodestore(server))["status"]
            assert found == told | {"observedAt": "2026-06-01T12:00:00Z"}
            assert told == await store.look((await node.look()).uid)


async def test_profiles_that_are_no_longer_published_go(server: Server) -> None:
    async with connected(server) as (api, node):
        store = NodeStore(api, server.node)
        await store.own((await node.look()).uid)
        two = dict.fromkeys(("a", "b"), IDLE.profiles["ds"])
        for profiles, names in ((two, ["a", "b"]), ({"b": two["b"]}, ["b"]), ({}, None)):
            await store.tell(
                kube.describe(IDLE.model_copy(update={"profiles": profiles}), READY), NOW
            )
            found = (await _nodestore(server))["status"].get("profiles")
            assert names == (found and [one["name"] for one in found])


async def test_a_status_does_not_disown_its_nodestore(server: Server) -> None:
    async with connected(server) as (api, node):
        store = NodeStore(api, server.node)
        await store.own((await node.look()).uid)
        await store.tell(kube.describe(IDLE, READY), NOW)
        await store.own((await node.look()).uid)
    found = await _nodestore(server)
    assert found["metadata"]["ownerReferences"]
    assert found["status"]["ready"]


async def _nodestore(server: Server) -> Any:  # noqa: ANN401 any JSON
    return await server.ask("GET", f"/apis/nodeagent.dev/v1alpha1/nodestores/{server.node}")


async def test_events_are_about_the_node(server: Server) -> None:
    async with connected(server) as (api, node):
        uid = (await node.look()).uid
        news = Event("Warning", "PathDamaged", "it vanished " + "x" * 2000)
        await Events(api, server.node, lambda: NOW).tell(news, uid)
    of = f"involvedObject.kind=Node,involvedObject.name={server.node},involvedObject.uid={uid}"
    (found,) = (await server.ask("GET", f"{EVENTS}?fieldSelector={of}"))["items"]
    assert (found["type"], found["reason"]) == ("Warning", "PathDamaged")
    assert found["message"] == news.message[:1000]
    assert (found["firstTimestamp"], found["source"]["host"]) == (
        "2026-06-01T12:00:00Z",
        server.node,
    )


async def test_without_an_api_server_it_is_unreachable(server: Server, tmp_path: Path) -> None:
    away = tmp_path / "away.kubeconfig"
    away.write_text(server.kubeconfig.read_text().replace(server.url, "http://127.0.0.1:9"))
    async with connected(replace(server, kubeconfig=away)) as (_, node):
        with pytest.raises(NodeAgentError) as caught:
            await node.look()
    assert caught.value.reason is Reason.API_UNREACHABLE
    assert f"no answer to GET /api/v1/nodes/{server.node}: " in caught.value.message


async def test_who_has_no_rights_is_told_which_are_missing(server: Server) -> None:
    async with connected(replace(server, kubeconfig=server.stranger)) as (_, node):
        with pytest.raises(NodeAgentError) as caught:
            await node.tell(READY, NOW, NOW)
    assert caught.value.reason is Reason.API_REFUSED
    assert f"PATCH /api/v1/nodes/{server.node}/status: 403 " in caught.value.message
    assert 'cannot patch resource "nodes' in caught.value.message


async def test_a_node_that_is_not_there_is_named_and_not_made(server: Server) -> None:
    async with connected(replace(server, node="nobody")) as (api, node):
        for ask in (
            node.look(),
            node.tell(READY, NOW, NOW),
            NodeStore(api, "nobody").tell({}, NOW),
        ):
            with pytest.raises(NodeAgentError) as caught:
                await ask
            assert caught.value.reason is Reason.API_REFUSED
            assert '"nobody" not found' in caught.value.message
