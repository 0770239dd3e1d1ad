from random import Random
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.admission import nodes, predicates
from nodeagent.admission.fleet import Fleet, Node, Taint
from nodeagent.admission.nodes import Nodes
from tests import scheduler
from tests.scheduler import requiring

LABELS: Final = {"zone": "a", "gpus": "4", "long": "0" * 60 + "7", "empty": ""}
NODE: Final = Node("node1", labels=LABELS)
CORDONED: Final = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")


def label(key: str, operator: str, *values: object) -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


def expecting(key: str, operator: str, *values: object) -> dict[str, Any]:
    return requiring({"matchExpressions": [label(key, operator, *values)]})


def named(operator: str, *values: object, key: str = "metadata.name") -> dict[str, Any]:
    return requiring({"matchFields": [label(key, operator, *values)]})


@settings(max_examples=1000)
@given(st.randoms(use_true_random=True))
def test_a_pod_fits_where_the_reference_says(random: Random) -> None:
    fleet = scheduler.fleet(random)
    for _ in range(5):
        spec = scheduler.spec(random)
        expected = [node for node in fleet.nodes.values() if scheduler.schedulable(spec, node)]
        assert predicates.usable(spec, fleet) == expected, (spec, fleet)
        assert [one for one in fleet.nodes.values() if predicates.fits(spec, one)] == expected


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        ({}, True),
        ({"nodeSelector": {}, "affinity": {"nodeAffinity": {}}, "tolerations": []}, True),
        ({"nodeSelector": {"zone": "a", "gpus": "4"}}, True),
        ({"nodeSelector": {"zone": "a", "gpus": "5"}}, False),
        ({"nodeSelector": {"absent": ""}}, False),
        ({"nodeSelector": {"empty": ""}}, True),
        ({"nodeName": "another"}, True),
        (expecting("zone", "In", "b", "a"), True),
        (expecting("zone", "In", "b"), False),
        (expecting("zone", "In"), False),
        (expecting("zone", "NotIn", "b"), True),
        (expecting("absent", "NotIn", "b"), True),
        (expecting("zone", "NotIn"), False),
        (expecting("zone", "Exists"), True),
        (expecting("zone", "Exists", "a"), False),
        (expecting("absent", "DoesNotExist"), True),
        (expecting("absent", "DoesNotExist", "a"), False),
        (expecting("zone", "DoesNotExist"), False),
        (expecting("gpus", "Gt", "3"), True),
        (expecting("gpus", "Gt", "4"), False),
        (expecting("gpus", "Lt", "5"), True),
        (expecting("gpus", "Lt", "4"), False),
        (expecting("long", "Lt", "8"), True),
        (expecting("zone", "Gt", "3"), False),
        (expecting("absent", "Lt", "3"), False),
        (expecting("gpus", "Gt", "3", "3"), False),
        (expecting("gpus", "Gt", "three"), False),
        (expecting("gpus", "Lt", "9223372036854775808"), False),
        (expecting("zone", "In", "a", "no label value"), False),  # as the scheduler reads it
        (expecting("zone", "Like", "a"), False),
        (named("In", "node1"), True),
        (named("In", "node2"), False),
        (named("NotIn", "node2"), True),
        (named("NotIn", "node1"), False),
        (named("In", "node1", "node2"), False),
        (named("Exists"), False),
        (named("Exists", "node1"), False),
        (named("In", "node1", key="metadata.uid"), False),
        (requiring(), False),
        (requiring({}), False),
        (requiring({}, {"matchExpressions": [label("zone", "Exists")]}), True),
        (requiring({"matchExpressions": [], "matchFields": []}), False),
        (
            requiring(
                {
                    "matchExpressions": [label("zone", "Exists")],
                    "matchFields": [label("metadata.name", "NotIn", "node1")],
                }
            ),
            False,
        ),
    ],
)
def test_selectors_and_terms_are_read_as_the_scheduler_reads_them(
    spec: dict[str, Any],
    fits: bool,
) -> None:
    assert predicates.fits(spec, NODE) is fits


@pytest.mark.parametrize(
    ("taint", "toleration", "fits"),
    [
        (Taint("k", "v", "NoSchedule"), None, False),
        (Taint("k", "v", "NoExecute"), None, False),
        (Taint("k", "v", "PreferNoSchedule"), None, True),
        (CORDONED, None, False),
        (CORDONED, {"key": CORDONED.key, "operator": "Exists"}, True),
        (CORDONED, {"key": CORDONED.key}, True),
        (Taint("k", "v", "NoSchedule"), {"operator": "Exists"}, True),
        (Taint("k", "v", "NoSchedule"), {"key": "k", "operator": "Exists"}, True),
        (Taint("k", "v", "NoSchedule"), {"key": "other", "operator": "Exists"}, False),
        (Taint("k", "v", "NoSchedule"), {"key": "k", "value": "v"}, True),
        (Taint("k", "v", "NoSchedule"), {"key": "k", "operator": "Equal", "value": "w"}, False),
        (Taint("k", "v", "NoSchedule"), {"key": "k"}, False),
        (Taint("k", "v", "NoExecute"), {"operator": "Exists", "effect": "NoSchedule"}, False),
        (Taint("k", "v", "NoExecute"), {"operator": "Exists", "tolerationSeconds": 1}, True),
        (Taint("k", "7", "NoSchedule"), {"key": "k", "operator": "Gt", "value": "6"}, True),
        (Taint("k", "7", "NoSchedule"), {"key": "k", "operator": "Gt", "value": "7"}, False),
        (Taint("k", "7", "NoSchedule"), {"key": "k", "operator": "Lt", "value": "-8"}, False),
        (Taint("k", "7", "NoSchedule"), {"key": "k", "operator": "Lt", "value": "8"}, True),
        (Taint("k", "7", "NoSchedule"), {"key": "k", "operator": "Lt", "value": "08"}, False),
        (Taint("k", "v", "NoSchedule"), {"key": "k", "operator": "Lt", "value": "8"}, False),
        (Taint("k", "v", "NoSchedule"), {"key": "k", "operator": "Like", "value": "v"}, False),
    ],
)
def test_taints_that_keep_pods_off_must_be_tolerated(
    taint: Taint,
    toleration: dict[str, Any] | None,
    fits: bool,
) -> None:
    spec = {} if toleration is None else {"tolerations": [toleration]}
    assert predicates.fits(spec, Node("node1", taints=(taint,))) is fits


def test_each_taint_needs_a_toleration() -> None:
    node = Node("node1", taints=(Taint("k", "v", "NoSchedule"), CORDONED))
    both = [{"key": "k", "operator": "Exists"}, {"key": CORDONED.key, "operator": "Exists"}]
    assert [predicates.fits({"tolerations": both[:count]}, node) for count in (1, 2)] == [0, 1]


@pytest.mark.parametrize(
    "spec",
    [
        {"nodeSelector": ["zone"]},
        {"nodeSelector": {"zone": ["a"]}},
        {"affinity": "zone"},
        {"affinity": {"nodeAffinity": [1]}},
        {"affinity": {"nodeAffinity": {predicates.REQUIRED[-1]: {"nodeSelectorTerms": None}}}},
        {"affinity": {"nodeAffinity": {predicates.REQUIRED[-1]: 1}}},
        requiring(None),
        requiring({"matchExpressions": "zone"}),
        requiring({"matchExpressions": [None]}),
        requiring({"matchExpressions": [{}]}),
        requiring({"matchExpressions": [{"key": ["zone"], "operator": "Exists"}]}),
        requiring({"matchExpressions": [{"key": "zone", "operator": ["Exists"]}]}),
        requiring({"matchExpressions": [{"key": "zone", "operator": "In", "values": "a"}]}),
        expecting("zone", "In", ["a"]),
        requiring({"matchFields": [None]}),
        named("In", 1),
    ],
)
def test_what_makes_no_sense_fits_nowhere(spec: dict[str, Any]) -> None:
    assert predicates.fits(spec, NODE) is False


def test_tolerations_that_make_no_sense_tolerate_nothing() -> None:
    node = Node("node1", taints=(CORDONED,))
    senseless: list[object] = [
        1,
        "Exists",
        [None],
        [{"operator": ["Exists"]}],
        {"operator": "Exists"},
    ]
    for tolerations in senseless:
        assert not predicates.fits({"tolerations": tolerations}, node)


junk: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("nodeSelector", "tolerations", "nodeSelectorTerms", "matchExpressions"),
                    *("matchFields", "key", "operator", "values", "effect", *predicates.REQUIRED),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(["nodeSelector", "affinity", "tolerations"]), junk))
def test_no_spec_makes_it_raise(spec: dict[str, Any]) -> None:
    assert predicates.fits(spec, Node("node1", taints=(CORDONED,))) in (True, False)
    assert predicates.rules(spec) >= 0


def test_what_a_pod_asks_is_counted() -> None:
    term = {"matchExpressions": [label("zone", "Exists")] * 2, "matchFields": [None]}
    spec = {"nodeSelector": {"a": "b"}, "tolerations": [{}, {}], **requiring(term, None, {})}
    assert predicates.rules(spec) == 1 + 2 + (1 + 3) + 1 + 1


def test_labels_that_pods_make_up_are_not_remembered_for_ever() -> None:
    land = Nodes([NODE])
    for number in range(3 * nodes.MAX_COLUMNS):
        assert predicates.matching(expecting(f"made-up-{number}", "Exists"), land) == 0
        assert predicates.matching({"nodeSelector": {"zone": "a"}}, land) == 1
    assert len(land._columns) <= nodes.MAX_COLUMNS  # noqa: SLF001 its memory is the point


def test_no_node_is_a_set_too() -> None:
    assert nodes.bits([]) == 0
    assert predicates.usable(expecting("zone", "NotIn", "a"), Fleet()) == []
