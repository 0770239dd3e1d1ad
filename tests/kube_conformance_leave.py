"""The conformance suite's part on leaving a cluster without a trace; see tests.kube_conformance."""

from datetime import timedelta
from typing import Any, Final

from nodeagent.kube import NodeStore
from nodeagent.names import CONDITION, FIELD_MANAGER
from nodeagent.readiness import Condition
from tests.handmade import NOW
from tests.kube_server import Server, connected, kubelets

READY: Final = Condition(ready=True, reason="Published", message="release 7 is published")
SUSPECT: Final = Condition(ready=True, reason="RepeatedDamage", message="3 paths went bad")
OURS: Final = frozenset({"nodeagent.dev/ready", "profile.nodeagent.dev/ds"})


async def test_all_labels_of_ours_go_whoever_set_them_and_no_other(server: Server) -> None:
    async with connected(server) as (_, node):
        await node.label(OURS)
        changed = {"nodeagent.dev/ready": "maybe", "profile.nodeagent.dev/by-hand": "1"}
        kept = {"zone": "b", "nodeagent.dev/channel": "canary"}
        await server.change(metadata={"labels": changed | kept})
        gone = sorted({*OURS, *changed})
        assert await node.unlabel() == gone
        assert await node.unlabel() == []
    labels = (await server.read())["metadata"]["labels"]
    assert labels.keys() & set(gone) == set()
    assert labels.items() >= kept.items()


async def test_our_condition_goes_and_those_of_others_stay(server: Server) -> None:
    before = (await server.read())["status"]["conditions"]
    async with connected(server) as (_, node):
        for disk in (None, SUSPECT):
            await node.tell(READY, NOW, NOW, disk)
            assert await node.untell()
            assert not await node.untell()
    assert (await server.read())["status"]["conditions"] == before


async def test_a_condition_that_somebody_overwrote_goes_whole(server: Server) -> None:
    async with connected(server) as (_, node):
        await node.tell(READY, NOW, NOW)
        forged = kubelets(CONDITION) | {"status": "Unknown"}
        await server.change("/status", status={"conditions": [forged, kubelets("Ready")]})
        await node.tell(READY, NOW - timedelta(hours=1), NOW)
        assert await node.untell()
        assert (await node.look()).condition is None
    conditions = (await server.read())["status"]["conditions"]
    assert conditions == [kubelets("Ready")]


async def test_a_nodestore_goes_also_that_of_an_earlier_node(server: Server) -> None:
    async with connected(server) as (api, node):
        store, uid = NodeStore(api, server.node), (await node.look()).uid
        assert not await store.remove()
        await store.own(uid)
        assert await store.remove()
        assert await store.look(uid) is None
        await store.own("3f1c8c4e-0000-4000-8000-000000000000")
        assert await store.remove()
        assert not await store.remove()


async def test_nobody_is_named_any_more_as_the_owner_of_a_field(server: Server) -> None:
    async with connected(server) as (_, node):
        await node.label(OURS)
        await node.tell(READY, NOW, NOW)
        await node.unlabel()
        await node.untell()
    fields: list[dict[str, Any]] = (await server.read())["metadata"].get("managedFields", [])
    assert [one for one in fields if one["manager"] == FIELD_MANAGER] == []
