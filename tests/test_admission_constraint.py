from typing import Any, Final

import pytest

from nodeagent.admission.placement import Placement, constrained, known_node
from nodeagent.admission.predicates import REQUIRED
from tests import scheduler
from tests.scheduler import on_node, requiring

EXPRESSION: Final = {"key": "zone", "operator": "Exists"}


@pytest.mark.parametrize(
    ("spec", "known"),
    [
        ({}, None),
        (None, None),
        ("spec", None),
        ({"nodeName": ""}, None),
        ({"nodeName": 7}, None),
        ({"nodeName": "a"}, "a"),
        ({"nodeName": "b", **requiring({"matchFields": [on_node("a")]})}, "b"),
        (requiring(), None),
        (requiring({}), None),
        (requiring(None), None),
        (requiring({"matchFields": [on_node("a")]}), "a"),
        (requiring({"matchFields": [on_node("a"), on_node("b", "NotIn")]}), "a"),
        (requiring({"matchFields": [on_node("a"), on_node("b")]}), None),
        (requiring({"matchFields": [on_node("a")]}, {"matchFields": [on_node("a")]}), "a"),
        (requiring({"matchFields": [on_node("a")]}, {"matchFields": [on_node("b")]}), None),
        (requiring({"matchFields": [on_node("a")]}, {"matchExpressions": [EXPRESSION]}), None),
        (requiring({"matchFields": [on_node("a")]}, {}), None),
        (requiring({"matchFields": [on_node("a", "NotIn")]}), None),
        (requiring({"matchFields": "a"}), None),
        (requiring({"matchFields": [None]}), None),
        (requiring({"matchFields": [{**on_node("a"), "values": "a"}]}), None),
        (requiring({"matchFields": [{**on_node("a"), "values": ["a", "b"]}]}), None),
        (requiring({"matchFields": [{**on_node("a"), "values": [1]}]}), None),
        (requiring({"matchFields": [{**on_node("a"), "key": "metadata.uid"}]}), None),
    ],
)
def test_a_node_is_known_if_every_way_leads_there(spec: object, known: str | None) -> None:
    assert known_node({"spec": spec}) == known


PLACED: Final = Placement({"a/b": "true", "c~d": "true"}, ("x", "y"))


def test_what_the_pod_asks_for_itself_stays() -> None:
    spec = {
        "nodeSelector": {"zone": "a", "a/b": "true"},
        **requiring(
            {"matchExpressions": [EXPRESSION]},
            {},
            {"matchFields": [on_node("y", "NotIn"), on_node("z", "NotIn")]},
        ),
    }
    terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution"
    both = [on_node("x", "NotIn"), on_node("y", "NotIn")]
    assert constrained(spec, PLACED) == [
        {"op": "add", "path": "/spec/nodeSelector/c~0d", "value": "true"},
        {"op": "add", "path": f"{terms}/nodeSelectorTerms/0/matchFields", "value": both},
        {"op": "add", "path": f"{terms}/nodeSelectorTerms/2/matchFields/-", "value": both[0]},
    ]


@pytest.mark.parametrize(
    ("affinity", "path"),
    [
        (None, "affinity"),
        ({"podAffinity": {}}, "affinity/nodeAffinity"),
        ({"nodeAffinity": None}, "affinity/nodeAffinity"),
        ({"nodeAffinity": {"preferred": []}}, f"affinity/nodeAffinity/{REQUIRED[-1]}"),
    ],
)
def test_an_affinity_is_completed_where_it_ends(affinity: object, path: str) -> None:
    pod = {"spec": {"affinity": affinity, "nodeSelector": {"a/b": "true", "c~d": "true"}}}
    [operation] = constrained(pod["spec"], PLACED)
    assert operation["path"] == f"/spec/{path}"
    required = scheduler.applied(pod, [operation])["spec"]["affinity"]["nodeAffinity"][REQUIRED[-1]]
    excluded = [on_node("x", "NotIn"), on_node("y", "NotIn")]
    assert required == {"nodeSelectorTerms": [{"matchFields": excluded}]}


@pytest.mark.parametrize(
    "spec",
    [
        requiring(),
        requiring({}),
        requiring(None),
        requiring({"matchFields": "x"}),
        {"affinity": []},
        {"affinity": {"nodeAffinity": 1}},
        {"affinity": {"nodeAffinity": {REQUIRED[-1]: {"nodeSelectorTerms": {}}}}},
    ],
)
def test_what_matches_nothing_or_makes_no_sense_is_not_touched(spec: dict[str, Any]) -> None:
    assert constrained({"nodeSelector": "zone", **spec}, PLACED) == []


def test_each_term_gets_lists_of_its_own() -> None:
    """Whoever applies the patch may not change two terms at once."""
    spec = requiring({"matchExpressions": [EXPRESSION]}, {"matchExpressions": [EXPRESSION]})
    first, second = constrained(spec, Placement({}, ("x",)))
    assert first["value"] == second["value"]
    assert first["value"] is not second["value"]
