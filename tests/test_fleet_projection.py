"""What is kept of an object, however little of it is there."""

from typing import Any

import pytest

from nodeagent.admission.fleet import Node, Taint
from nodeagent.fleet import projection
from nodeagent.fleet.projection import CORDONED, Agent, Known, Store
from nodeagent.names import CONDITION, Kind
from tests import snapshots

BARE: dict[str, Any] = {"metadata": {"name": "a", "uid": "1"}}


@pytest.mark.parametrize(
    "item",
    [
        BARE,
        {**BARE, "spec": {}, "status": {}},
        {**BARE, "spec": None, "status": None},
        {
            "metadata": {"name": "a", "uid": "1", "labels": None},
            "spec": {"taints": None, "unschedulable": False},
            "status": {"conditions": None},
        },
    ],
)
def test_a_node_that_says_nothing_is_not_ready(item: dict[str, Any]) -> None:
    assert projection.node(item) == Known("1", Node("a"))


def test_of_a_node_labels_taints_and_two_conditions_are_kept() -> None:
    taints = [{"key": "gpu", "value": "a100", "effect": "NoSchedule"}, {"key": "b", "effect": "c"}]
    item = {**snapshots.node("a", taints=taints), **snapshots.healthy()}
    item["metadata"]["uid"] = "1"
    assert projection.node(item).node == Node(
        name="a",
        labels={"zone": "b", "nodeagent.dev/ready": "true"},
        taints=(Taint("gpu", "a100", "NoSchedule"), Taint("b", "", "c")),
        ready=True,
        store_ready=True,
        told=snapshots.TOLD,
    )


@pytest.mark.parametrize("status", ["False", "Unknown", "true"])
def test_only_a_condition_that_is_true_holds(status: str) -> None:
    conditions = [snapshots.condition("Ready", status), snapshots.condition(CONDITION, status)]
    node = projection.node({**BARE, "status": {"conditions": conditions}}).node
    assert (node.ready, node.store_ready, node.told) == (False, False, snapshots.TOLD)


def test_a_condition_without_a_heartbeat_was_never_told() -> None:
    told = {"type": CONDITION, "status": "True", "lastHeartbeatTime": None}
    node = projection.node({**BARE, "status": {"conditions": [told]}}).node
    assert (node.store_ready, node.told) == (True, None)


@pytest.mark.parametrize("there", [[], [{"key": CORDONED.key, "effect": CORDONED.effect}]])
def test_a_cordoned_node_has_its_taint_once(there: list[dict[str, str]]) -> None:
    item = {**BARE, "spec": {"unschedulable": True, "taints": there}}
    assert projection.node(item).node.taints == (CORDONED,)


def test_of_a_nodestore_owners_and_open_gates_are_kept() -> None:
    item = snapshots.store("a", "1") | snapshots.publishing(
        ("ds", "env", True), ("hf", "models", True), ("shut", "env", False), ("new", "wasm", True)
    )
    other = {"kind": "Pod", "uid": "2"}
    item["metadata"]["ownerReferences"].append(other)
    item["status"]["profiles"].append({"name": "odd"})
    assert projection.store(item) == Store(frozenset({"1"}), {"ds": Kind.ENV, "hf": Kind.MODELS})


@pytest.mark.parametrize("item", [BARE, {**BARE, "status": {}}, {**BARE, "status": None}])
def test_a_nodestore_without_a_status_publishes_nothing(item: dict[str, Any]) -> None:
    assert projection.store(item) == Store(frozenset(), {})


def test_an_agent_is_ready_where_its_pod_is_and_while_it_stays() -> None:
    pod = {**snapshots.agent("agent", "a"), **snapshots.pod_ready()}
    assert projection.agent(pod) == Agent("a", ready=True)
    assert projection.agent({**pod, **snapshots.pod_ready("False")}) == Agent("a", ready=False)
    leaving = {**pod["metadata"], "deletionTimestamp": snapshots.AT}
    assert projection.agent({**pod, "metadata": leaving}) == Agent("a", ready=False)
    assert projection.agent({**pod, "spec": {}}) is None
    assert projection.agent(BARE) is None


def test_a_node_has_the_profiles_of_its_own_nodestore_alone() -> None:
    known = projection.node(BARE)
    profiles = {"ds": Kind.ENV}
    mine, anothers = (Store(frozenset({uid}), profiles) for uid in ("1", "2"))
    joined = projection.join(known, mine, agent_ready=True)
    assert joined == Node("a", agent_ready=True, profiles=profiles)
    assert projection.join(known, anothers, agent_ready=False) == Node("a")
    assert projection.join(known, None, agent_ready=False) == Node("a")
    assert projection.join(None, mine, agent_ready=True) is None
