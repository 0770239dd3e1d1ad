"""What the fleet snapshot promises, against any API server: tests that other modules collect.

Each of those gives a fixture `server`, whose `kubeconfig` may read what the controller reads, and
`ours`, a namespace that nothing is in.
"""

import contextlib
import itertools
from collections.abc import AsyncGenerator
from typing import Any

from nodeagent import kube
from nodeagent.admission.breaker import ONE_SECONDS
from nodeagent.admission.fleet import Taint
from nodeagent.fleet import Snapshot
from nodeagent.kube import Api, watch
from nodeagent.kube.watch import METADATA, Changed, Collection, Failed, Listed
from nodeagent.names import Kind
from tests.kube_server import MERGE, Server
from tests.snapshots import (
    NAMESPACES,
    NODES,
    REFUSAL,
    RESUMING,
    STORES,
    TOLD,
    agent,
    failed_create,
    fresh,
    healthy,
    injected,
    make_node,
    node,
    pod_ready,
    policy,
    publishing,
    store,
    unschedulable,
    until,
    watched,
)

POLICY = '{"profiles":{"ds":{"namespaces":["jobs"]}},"minEligible":3}'
NOW = "?gracePeriodSeconds=0"


async def test_a_node_is_followed_from_its_registration_to_its_end(
    server: Server, ours: str
) -> None:
    before, later = fresh("node"), fresh("node")
    await server.ask("POST", NODES, node(before))
    async with watched(server, ours) as snapshot:
        assert not snapshot.fleet().nodes[before].ready
        taints = [{"key": "gpu", "value": "a100", "effect": "NoSchedule"}]
        await server.ask("POST", NODES, node(later, taints=taints))
        await server.ask("PATCH", f"{NODES}/{later}/status", healthy(), MERGE)
        await until(lambda: later in (nodes := snapshot.fleet().nodes) and nodes[later].ready)
        known = snapshot.fleet().nodes[later]
        assert known.labels["zone"] == "b"
        assert Taint("gpu", "a100", "NoSchedule") in known.taints
        assert (known.ready, known.store_ready, known.told) == (True, True, TOLD)
        assert (known.agent_ready, known.profiles) == (False, {})
        change = {"metadata": {"labels": {"zone": "c"}}, "spec": {"unschedulable": True}}
        await server.ask("PATCH", f"{NODES}/{later}", change, MERGE)
        await until(lambda: snapshot.fleet().nodes[later].labels["zone"] == "c")
        cordon = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
        assert cordon in snapshot.fleet().nodes[later].taints
        await server.ask("PATCH", f"{NODES}/{later}/status", healthy("False"), MERGE)
        await until(lambda: not snapshot.fleet().nodes[later].store_ready)
        await server.ask("DELETE", f"{NODES}/{later}")
        await until(lambda: later not in snapshot.fleet().nodes)
        assert before in snapshot.fleet().nodes


async def test_a_nodestore_publishes_for_the_node_that_owns_it_and_no_other(
    server: Server, ours: str
) -> None:
    name = fresh("node")
    async with watched(server, ours) as snapshot:
        first = await make_node(server, name)
        await server.ask("POST", STORES, store(name, first))
        told = publishing(("ds", "env", True), ("hf", "models", True), ("old", "env", False))
        await server.ask("PATCH", f"{STORES}/{name}/status", told, MERGE)
        await until(lambda: (at := snapshot.fleet().nodes.get(name)) and at.profiles)
        assert snapshot.fleet().nodes[name].profiles == {"ds": Kind.ENV, "hf": Kind.MODELS}
        await server.ask("DELETE", f"{NODES}/{name}")
        second = await make_node(server, name)
        await until(lambda: (at := snapshot.fleet().nodes.get(name)) and not at.profiles)
        owners = {"metadata": store(name, second)["metadata"]}
        await server.ask("PATCH", f"{STORES}/{name}", owners, MERGE)
        await until(lambda: snapshot.fleet().nodes[name].profiles)
        await server.ask("DELETE", f"{STORES}/{name}")
        await until(lambda: not snapshot.fleet().nodes[name].profiles)


async def test_an_agent_counts_while_it_is_ready_and_stays(server: Server, ours: str) -> None:
    name, pods = fresh("node"), f"{NAMESPACES}/{ours}/pods"

    def is_ready(snapshot: Snapshot) -> bool:
        return snapshot.fleet().nodes[name].agent_ready

    await server.ask("POST", pods, agent("foreign", name, {"app.kubernetes.io/name": "nodeagent"}))
    await server.ask("PATCH", f"{pods}/foreign/status", pod_ready(), MERGE)
    await server.ask("POST", pods, agent("first", name))
    await make_node(server, name)
    async with watched(server, ours) as snapshot:
        assert snapshot.objects["pods"] == 1
        assert not is_ready(snapshot)
        await server.ask("PATCH", f"{pods}/first/status", pod_ready(), MERGE)
        await until(lambda: is_ready(snapshot))
        await server.ask("DELETE", f"{pods}/first?gracePeriodSeconds=30")
        await until(lambda: not is_ready(snapshot), "the first to leave")
        await server.ask("POST", pods, agent("second", name))
        await server.ask("PATCH", f"{pods}/second/status", pod_ready(), MERGE)
        await until(lambda: is_ready(snapshot))
        await server.ask("DELETE", f"{pods}/first{NOW}")
        await until(lambda: snapshot.objects["pods"] == 1)
        assert is_ready(snapshot)
        await server.ask("PATCH", f"{pods}/second/status", pod_ready("False"), MERGE)
        await until(lambda: not is_ready(snapshot))


async def test_a_namespace_is_known_by_its_labels_alone(server: Server, ours: str) -> None:
    name = fresh("jobs")

    def labels(snapshot: Snapshot) -> Any:  # noqa: ANN401 labels or None
        return snapshot.fleet().namespaces.get(name)

    async with watched(server, ours) as snapshot:
        assert ours in snapshot.fleet().namespaces
        body = {"apiVersion": "v1", "kind": "Namespace"}
        await server.ask("POST", NAMESPACES, {**body, "metadata": {"name": name}})
        await until(lambda: labels(snapshot) is not None)
        change = {"metadata": {"labels": {"nodeagent.dev/inject": "true"}}}
        await server.ask("PATCH", f"{NAMESPACES}/{name}", change, MERGE)
        await until(lambda: labels(snapshot).get("nodeagent.dev/inject") == "true")
        await server.ask("DELETE", f"{NAMESPACES}/{name}")
        final = {**body, "metadata": {"name": name}, "spec": {"finalizers": []}}
        await server.ask("PUT", f"{NAMESPACES}/{name}/finalize", final)
        await until(lambda: labels(snapshot) is None)


async def test_a_namespace_that_is_not_known_yet_is_found(server: Server, ours: str) -> None:
    async with kube.connected(server.kubeconfig) as api:
        snapshot = Snapshot(api, ours)
        assert await snapshot.find_namespace(ours)
        assert ours in snapshot.fleet().namespaces
        assert not await snapshot.find_namespace(fresh("nobody"))
        asked = api.answers
        assert await snapshot.find_namespace(ours)
        assert not await snapshot.find_namespace("../nodes")
        assert api.answers == asked


async def test_a_policy_is_followed_and_an_invalid_one_changes_nothing(
    server: Server, ours: str
) -> None:
    maps = f"{NAMESPACES}/{ours}/configmaps"
    async with watched(server, ours) as snapshot:
        assert snapshot.policy is None
        other = policy("{}")
        other["metadata"] = {"name": "other"}
        await server.ask("POST", maps, other)
        await server.ask("POST", maps, policy(POLICY))
        await until(lambda: snapshot.policy)
        assert snapshot.objects["policy"] == 1
        assert snapshot.policy is not None
        assert snapshot.policy.min_eligible == 3
        path = f"{maps}/nodeagent-policy"
        await server.ask("PATCH", path, {"data": {"policy.json": '{"minEligible":0}'}}, MERGE)
        await until(lambda: snapshot.policy_problem)
        assert snapshot.policy.min_eligible == 3
        message = f"{snapshot.policy_problem}"
        assert message.startswith(f"ConfigMap {ours}/nodeagent-policy: policy.json: ")
        assert "minEligible" in message
        await server.ask("PATCH", path, {"data": {"policy.json": '{"minEligible":2}'}}, MERGE)
        await until(lambda: snapshot.policy and snapshot.policy.min_eligible == 2)
        assert snapshot.policy_problem is None
        await server.ask("DELETE", path)
        await until(lambda: snapshot.policy is None)


async def test_the_breaker_is_open_while_an_injected_pod_waits_for_a_node(
    server: Server, ours: str
) -> None:
    pods = f"{NAMESPACES}/{ours}/pods"
    for name in ("waits", "other"):
        await server.ask("POST", pods, injected(name))
    long = ONE_SECONDS + 60
    await server.ask("PATCH", f"{pods}/waits/status", unschedulable(long), MERGE)
    full = "0/3 nodes are available: 3 Insufficient cpu."
    await server.ask("PATCH", f"{pods}/other/status", unschedulable(long, full), MERGE)
    async with watched(server, ours) as snapshot:
        await until(lambda: ours in snapshot.fleet().broken)
        await server.ask("DELETE", f"{pods}/waits{NOW}")
        await until(lambda: ours not in snapshot.fleet().broken)
        await server.ask("PATCH", f"{pods}/other/status", unschedulable(long), MERGE)
        await until(lambda: ours in snapshot.fleet().broken)
        await server.ask("PATCH", f"{pods}/other/status", {"status": {"phase": "Running"}}, MERGE)
        await until(lambda: ours not in snapshot.fleet().broken)


async def test_the_breaker_opens_where_others_refuse_what_was_added(
    server: Server, ours: str
) -> None:
    calm = fresh("calm")
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": calm}}
    await server.ask("POST", NAMESPACES, body)
    quota = 'Error creating: pods "web-1" is forbidden: exceeded quota: pods'
    deleting = {**failed_create("a", calm, REFUSAL), "reason": "FailedDelete"}
    for event in (
        deleting,
        failed_create("b", calm, quota),
        failed_create("c", calm, REFUSAL, 3600),
    ):
        await server.ask("POST", f"{NAMESPACES}/{calm}/events", event)
    async with watched(server, ours) as snapshot:
        event = failed_create("refused", ours, REFUSAL)
        await server.ask("POST", f"{NAMESPACES}/{ours}/events", event)
        await until(lambda: ours in snapshot.fleet().broken)
        assert calm not in snapshot.fleet().broken


async def test_a_list_comes_in_pages(server: Server, ours: str) -> None:
    names = {f"cm-{number}" for number in range(7)}
    for name in names:
        body = policy("{}")
        body["metadata"] = {"name": name, "labels": {"part": "pages"}}
        await server.ask("POST", f"{NAMESPACES}/{ours}/configmaps", body)
    collection = Collection(
        f"{NAMESPACES}/{ours}/configmaps", lambda one: one, labels="part=pages", page=3
    )
    async with kube.connected(server.kubeconfig) as api:
        changes = watch.follow(api, collection, RESUMING)
        async with contextlib.aclosing(changes):
            listed = await anext(changes)
    assert isinstance(listed, Listed)
    assert listed.objects.keys() == names
    assert api.answers == 3


async def test_metadata_alone_comes_in_lists_changes_and_reads(server: Server, ours: str) -> None:
    place = f"{NAMESPACES}/{ours}/configmaps"
    await server.ask("POST", place, policy("{}"))
    collection = Collection(place, lambda one: "data" in one, metadata_only=True)
    async with kube.connected(server.kubeconfig) as api:
        changes = watch.follow(api, collection, RESUMING)
        async with contextlib.aclosing(changes):
            listed = await anext(changes)
            assert isinstance(listed, Listed)
            assert listed.objects.get("nodeagent-policy") is False
            change = {"data": {"policy.json": "{ }"}}
            await server.ask("PATCH", f"{place}/nodeagent-policy", change, MERGE)
            assert await anext(changes) == Changed("nodeagent-policy", found=False)
        path = f"{place}/nodeagent-policy"
        assert "data" not in await api.get(path, header_params={"Accept": METADATA})


class Forgetful(Api):
    """Watches from a version that is long gone, the first time."""

    watches = itertools.count()

    async def lines(self, path: str, silence: float, **query: Any) -> AsyncGenerator[bytes, None]:  # noqa: ANN401 any query
        if next(self.watches) == 0:
            query["resource_version"] = "1"
        async with contextlib.aclosing(super().lines(path, silence, **query)) as lines:
            async for line in lines:
                yield line


async def test_a_version_that_is_too_old_is_listed_anew(server: Server, ours: str) -> None:
    name = fresh("node")
    async with kube.connected(server.kubeconfig) as api:
        forgetful = Forgetful(api.client, api.renew)
        forgetful.watches = itertools.count()
        collection = Collection(STORES, lambda one: str(one["metadata"]["uid"]))
        async with contextlib.aclosing(watch.follow(forgetful, collection, RESUMING)) as changes:
            assert isinstance(await anext(changes), Listed)
            failed = await anext(changes)
            assert isinstance(failed, Failed)
            assert "the watch ended with 410 Expired: too old resource version" in f"{failed.error}"
            assert isinstance(await anext(changes), Listed)
            made = await server.ask("POST", STORES, store(name, "1"))
            assert await anext(changes) == Changed(name, made["metadata"]["uid"])
