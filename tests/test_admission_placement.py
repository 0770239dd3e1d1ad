import json
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.admission import placement
from nodeagent.admission.decision import Refusal
from nodeagent.admission.fleet import Fleet, Node, Taint
from nodeagent.admission.placement import MAX_EXCLUDED, Placement, constrained, known_node, place
from nodeagent.names import Kind, Outcome
from nodeagent.policy import Policy
from tests import scheduler
from tests.scheduler import NOW, PROFILES, on_node, requiring

READY: Final = "nodeagent.dev/ready"
DS: Final = {"ds": Kind.ENV}
WANTED: Final = {READY: "true", "profile.nodeagent.dev/ds": "true"}
FINE: Final = Node(
    "node0",
    labels=WANTED,
    ready=True,
    store_ready=True,
    told=NOW,
    agent_ready=True,
    profiles={"ds": Kind.ENV, "llm": Kind.MODELS},
)
POLICY: Final = Policy()
LENIENT: Final = Policy(min_fraction=0)
EXPRESSION: Final = {"key": "zone", "operator": "Exists"}


def fleet(*nodes: Node) -> Fleet:
    named = [replace(node, name=f"node{number}") for number, node in enumerate(nodes)]
    return Fleet({node.name: node for node in named})


def placed(pod: Mapping[str, Any], those: Fleet, policy: Policy = POLICY) -> Placement:
    decided = place(pod, DS, those, policy, NOW)
    assert isinstance(decided, Placement), decided
    return decided


def refused(pod: Mapping[str, Any], those: Fleet, policy: Policy = POLICY) -> Refusal:
    decided = place(pod, DS, those, policy, NOW)
    assert isinstance(decided, Refusal), decided
    return decided


@settings(max_examples=2000)
@given(st.randoms(use_true_random=True))
def test_a_pod_can_land_where_it_could_before_if_that_is_ready_and_nowhere_else(
    random: Random,
) -> None:
    those, pod = scheduler.fleet(random), {"spec": scheduler.spec(random)}
    before = json.dumps(pod)
    decided = place(pod, PROFILES, those, LENIENT, NOW)
    if isinstance(decided, Refusal):
        assert_no_node_is_ready(pod, those, decided)
        return
    patched = scheduler.applied(pod, constrained(pod["spec"], decided))
    assert json.dumps(pod) == before
    assert constrained(patched["spec"], decided) == []
    if decided.known is not None:
        assert patched == pod
        assert scheduler.publishes(those.nodes[decided.known], PROFILES)
        return
    for node in those.nodes.values():
        able = scheduler.schedulable(pod["spec"], node) and scheduler.ready(node, PROFILES)
        assert scheduler.schedulable(patched["spec"], node) == able, node


def assert_no_node_is_ready(pod: Mapping[str, Any], those: Fleet, refusal: Refusal) -> None:
    if refusal.outcome is Outcome.NODE_NOT_READY:
        known = those.nodes.get(known_node(pod) or "")
        assert known is None or not scheduler.publishes(known, PROFILES)
        return
    assert refusal.outcome is Outcome.NOT_ENOUGH_NODES
    for node in those.nodes.values():
        able = scheduler.schedulable(pod["spec"], node) and scheduler.ready(node, PROFILES)
        assert not able, node


@settings(max_examples=250)
@given(st.randoms(use_true_random=True))
def test_a_fleet_that_changes_is_seen_as_it_is(random: Random) -> None:
    """What is remembered of one snapshot never speaks for another."""
    those = Fleet({name: scheduler.node(random, name) for name in scheduler.NAMES})
    for _ in range(5):
        pod = {"spec": scheduler.spec(random)}
        decided = place(pod, PROFILES, those, LENIENT, NOW)
        copies = Fleet({name: replace(node) for name, node in those.nodes.items()})
        assert decided == place(pod, PROFILES, copies, LENIENT, NOW)
        counted = sum(
            scheduler.schedulable(pod["spec"], node) and scheduler.ready(node, PROFILES)
            for node in those.nodes.values()
        )
        known = known_node(pod) is not None
        assert known or isinstance(decided, Placement) == (counted > 0)
        name = random.choice(scheduler.NAMES)
        other, kept = scheduler.node(random, name), those.nodes.get(name)
        part = random.choice(("told", "labels", "taints", "profiles", "all", "gone"))
        nodes = dict(those.nodes)
        if part == "gone":
            nodes.pop(name, None)
        elif part == "all" or kept is None:
            nodes[name] = other
        else:
            nodes[name] = replace(kept, **{part: getattr(other, part)})
        those = Fleet(nodes)


@pytest.mark.parametrize(
    ("policy", "enough"),
    [
        (Policy(min_eligible=3, min_fraction=0.3), True),
        (Policy(min_eligible=4, min_fraction=0.3), False),
        (Policy(min_eligible=1, min_fraction=0.31), False),
        (Policy(min_eligible=1, min_fraction=0), True),
        (Policy(), False),
    ],
)
def test_enough_nodes_are_the_larger_of_a_number_and_a_fraction(
    policy: Policy, enough: bool
) -> None:
    those = fleet(*[FINE] * 3, *[replace(FINE, ready=False)] * 7)
    assert isinstance(place({}, DS, those, policy, NOW), Placement) is enough


def test_seven_percent_of_a_hundred_nodes_are_seven() -> None:
    """As binary fractions they are a trifle more."""
    those = fleet(*[FINE] * 7, *[Node("unlabelled")] * 93)
    assert placed({}, those, Policy(min_fraction=0.07)).excluded == ()


def test_a_node_that_takes_the_place_of_another_is_known_by_its_own_name() -> None:
    silent = replace(FINE, name="old", ready=False)
    assert placed({}, Fleet({"node0": FINE, "old": silent})).excluded == ("old",)
    renamed = replace(silent, name="new")
    assert placed({}, Fleet({"node0": FINE, "new": renamed})).excluded == ("new",)


def test_too_few_nodes_are_told_in_numbers() -> None:
    those = fleet(*[FINE] * 2, *[replace(FINE, agent_ready=False)] * 8)
    refusal = refused({}, those)
    assert refusal.outcome is Outcome.NOT_ENOUGH_NODES
    assert refusal.message == (
        "2 of 10 usable nodes are ready for ds; 5 are needed; see `kubectl get nodestores`"
    )
    assert refused({}, fleet(FINE), Policy(min_eligible=2)).message.startswith(
        "1 of 1 usable nodes is ready for ds; 2 are needed"
    )


def test_only_nodes_that_the_pod_may_use_are_counted() -> None:
    away = replace(FINE, ready=False, taints=(Taint("gpu", "", "NoSchedule"),))
    those = fleet(FINE, away, away, away)
    assert placed({"spec": {}}, those) == Placement(WANTED)
    tolerant = {"spec": {"tolerations": [{"operator": "Exists"}]}}
    assert refused(tolerant, those).outcome is Outcome.NOT_ENOUGH_NODES


def test_nodes_that_are_not_ready_now_are_excluded_by_name() -> None:
    those = fleet(FINE, replace(FINE, told=NOW - 901), FINE, replace(FINE, store_ready=False))
    decided = placed({"spec": {}}, those)
    assert decided == Placement(WANTED, ("node1", "node3"))
    whole = [{"op": "add", "path": "/spec/nodeSelector", "value": WANTED}]
    excluded = {"matchFields": [on_node("node1", "NotIn"), on_node("node3", "NotIn")]}
    assert constrained({}, decided) == [
        *whole,
        {"op": "add", "path": "/spec/affinity", "value": requiring(excluded)["affinity"]},
    ]


def test_no_more_nodes_are_excluded_than_a_pod_can_bear() -> None:
    silent = [replace(FINE, told=None)] * MAX_EXCLUDED
    assert len(placed({}, fleet(FINE, *silent), LENIENT).excluded) == MAX_EXCLUDED
    refusal = refused({}, fleet(FINE, silent[0], *silent), LENIENT)
    assert refusal.outcome is Outcome.TOO_MANY_EXCLUDED
    assert "17 of 18 usable nodes" in refusal.message


def test_what_a_node_says_ages_while_it_stays_silent() -> None:
    those = fleet(FINE, replace(FINE, told=NOW - 600))
    for later, excluded in ((300, ()), (301, ("node1",)), (0, ())):
        decided = place({}, DS, those, POLICY, NOW + later)
        assert decided == Placement(WANTED, excluded)


def test_another_value_of_our_label_is_a_conflict() -> None:
    asked = {"nodeSelector": {"profile.nodeagent.dev/ds": "no\nway"}}
    refusal = refused({"spec": asked}, fleet(FINE))
    assert refusal.outcome is Outcome.CONFLICT
    assert "profile.nodeagent.dev/ds='no\\nway'" in refusal.message
    assert "\n" not in refusal.message
    odd = refused({"spec": {"nodeSelector": {READY: ["true"]}}}, fleet(FINE))
    assert odd.outcome is Outcome.CONFLICT
    for harmless in ({READY: "true"}, {"profile.nodeagent.dev/other": "no"}):
        same = replace(FINE, labels={**WANTED, **harmless})
        assert placed({"spec": {"nodeSelector": harmless}}, fleet(same)) == Placement(WANTED)


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (replace(FINE, ready=False), "its kubelet is not Ready"),
        (replace(FINE, store_ready=False), "its condition nodeagent.dev/StoreReady is not True"),
        (replace(FINE, told=None), "its condition nodeagent.dev/StoreReady is not True"),
        (
            replace(FINE, told=NOW - 1000),
            "its condition nodeagent.dev/StoreReady was told 1000 s ago",
        ),
        (replace(FINE, agent_ready=False), "its agent's pod is not Ready"),
        (replace(FINE, profiles={}), "it does not publish ds as env"),
        (replace(FINE, profiles={"ds": Kind.MODELS}), "it does not publish ds as env"),
    ],
)
def test_a_pod_whose_node_is_known_needs_that_node_ready(node: Node, why: str) -> None:
    those = fleet(node, *[FINE] * 9)
    for spec in ({"nodeName": "node0"}, requiring({"matchFields": [on_node("node0")]})):
        refusal = refused({"spec": spec}, those)
        assert refusal.outcome is Outcome.NODE_NOT_READY
        assert f"its node 'node0' is not ready for ds: {why};" in refusal.message


def test_a_pod_on_a_node_that_nobody_knows_is_refused_in_one_line() -> None:
    refusal = refused({"spec": {"nodeName": "x\n" * 500}}, fleet(FINE))
    assert refusal.outcome is Outcome.NODE_NOT_READY
    assert "no such node is known" in refusal.message
    assert "\n" not in refusal.message
    assert len(refusal.message) < 400


def test_a_pod_whose_node_is_known_gets_no_constraint_and_needs_no_minimum() -> None:
    """Nobody will look at its node's labels, so neither does admission."""
    those = fleet(replace(FINE, labels={}), *[replace(FINE, ready=False)] * 40)
    for spec in ({"nodeName": "node0"}, requiring({"matchFields": [on_node("node0")]})):
        decided = placed({"spec": spec}, those, Policy(min_eligible=9))
        assert decided == Placement({}, (), "node0")
        assert constrained(spec, decided) == []


def test_a_pod_that_asks_for_more_than_anybody_writes_is_left_alone() -> None:
    spec = requiring(*[{"matchExpressions": [EXPRESSION]}] * placement.MAX_RULES)
    refusal = refused({"spec": spec}, fleet(FINE))
    assert refusal.outcome is Outcome.NOT_ENOUGH_NODES
    assert "512 selectors, terms and tolerations" in refusal.message
