"""What exactly an injected pod gets, at once or when a container comes later."""

import pytest

from nodeagent.admission import MAX_CONTAINERS, decide
from nodeagent.names import (
    ANNOTATION_EXCLUDE,
    ANNOTATION_INJECTED,
    ANNOTATION_PROFILES,
    ANNOTATION_SKIPPED,
    LABEL_INJECT,
    Outcome,
)
from tests import reviews
from tests.reviews import (
    DATA,
    DS,
    DS_MOUNT,
    NOW,
    SELECTED,
    STORE,
    STORE_MOUNT,
    Tree,
    container,
    decided,
    injected,
    node,
    patched,
    policed,
)


def test_the_smallest_pod_gets_this_and_nothing_else() -> None:
    made = reviews.pod()
    assert injected(made) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "task",
            "labels": {LABEL_INJECT: "true"},
            "annotations": {ANNOTATION_PROFILES: "ds", ANNOTATION_INJECTED: "ds"},
        },
        "spec": {
            "nodeSelector": SELECTED,
            "volumes": [STORE, DS],
            "containers": [
                {
                    "name": "main",
                    "image": "localhost/base:1",
                    "volumeMounts": [STORE_MOUNT, DS_MOUNT],
                    "env": [{"name": "MODE", "value": "ds"}, {"name": "A", "value": "1"}],
                }
            ],
        },
    }


def test_what_a_pod_has_stays_in_front() -> None:
    mount = {"name": "data", "mountPath": "/data"}
    variable = {"name": "HOME", "value": "/data"}
    own = container(volumeMounts=[mount], env=[variable])
    spec = injected(reviews.pod(volumes=DATA, containers=[own]))["spec"]
    assert spec["volumes"] == [*DATA, STORE, DS]
    assert spec["containers"][0]["volumeMounts"] == [mount, STORE_MOUNT, DS_MOUNT]
    assert spec["containers"][0]["env"][0] == variable


def test_every_kind_of_container_is_mounted_but_those_left_out() -> None:
    made = reviews.pod(
        {ANNOTATION_PROFILES: "ds", ANNOTATION_EXCLUDE: "left"},
        initContainers=[container("first"), container("sidecar", restartPolicy="Always")],
        containers=[container("main"), container("left")],
    )
    spec = injected(made)["spec"]
    for one in (*spec["initContainers"], spec["containers"][0]):
        assert one["volumeMounts"] == [STORE_MOUNT, DS_MOUNT]
    assert spec["containers"][1] == container("left")


@pytest.mark.parametrize(
    ("profiles", "own", "expected"),
    [
        ("ds", [], {"MODE": "ds", "A": "1"}),
        ("hf", [], {"HF_HOME": "/opt/nodeagent/hf", "MODE": "hf"}),
        ("ds,hf", [], {"MODE": "ds", "A": "1", "HF_HOME": "/opt/nodeagent/hf"}),
        ("hf,ds", [], {"HF_HOME": "/opt/nodeagent/hf", "MODE": "hf", "A": "1"}),
        ("ds,hf", ["MODE", "HF_HOME"], {"A": "1"}),
    ],
)
def test_variables_are_set_where_the_container_does_not_and_the_first_profile_wins(
    profiles: str, own: list[str], expected: dict[str, str]
) -> None:
    variables = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": "x"}}} for name in own]
    made = reviews.pod({ANNOTATION_PROFILES: profiles}, containers=[container(env=variables)])
    after = injected(made)["spec"]["containers"][0]["env"]
    assert after[: len(own)] == variables
    assert {one["name"]: one["value"] for one in after[len(own) :]} == expected


def test_policy_may_say_otherwise_than_the_kind() -> None:
    environment = {"HF_HOME": "/opt/nodeagent/hf/cache"}
    policy = policed(
        profiles={"hf": {"kind": "models", "namespaces": ["*"], "environment": environment}}
    )
    spec = injected(reviews.pod({ANNOTATION_PROFILES: "hf"}), policy)["spec"]
    assert spec["containers"][0]["env"] == [{"name": "HF_HOME", "value": "/opt/nodeagent/hf/cache"}]


@pytest.mark.parametrize("absent", [{}, {"annotations": None}])
def test_annotations_and_lists_are_made_where_there_are_none(absent: Tree) -> None:
    made = {
        "metadata": {"labels": {LABEL_INJECT: "true"}, **absent},
        "spec": {"volumes": None, "containers": [container(env=None, volumeMounts=None)]},
    }
    after = injected(made, policed(defaults={"*": ["ds"]}))
    assert after["metadata"]["annotations"] == {ANNOTATION_INJECTED: "ds"}
    assert after["spec"]["volumes"] == [STORE, DS]


def test_an_injected_pod_does_not_say_that_it_was_skipped() -> None:
    made = reviews.pod({ANNOTATION_PROFILES: "ds", ANNOTATION_SKIPPED: "Conflict"})
    annotations = injected(made)["metadata"]["annotations"]
    assert annotations[ANNOTATION_SKIPPED] == ""
    assert annotations[ANNOTATION_INJECTED] == "ds"


def test_a_container_that_comes_later_is_mounted_and_nothing_else_is_added() -> None:
    after = injected(reviews.pod())
    after["spec"]["containers"].append(container("late"))
    decision = decided(after)
    assert decision.outcome is Outcome.ALREADY_INJECTED
    assert [one["path"] for one in decision.patch] == ["/spec/containers/1/volumeMounts"]
    again = patched(after, decision.patch)
    assert again["spec"]["containers"][1]["volumeMounts"] == [STORE_MOUNT, DS_MOUNT]
    assert decided(again).patch == ()


def test_one_that_comes_later_and_stands_in_the_way_stays_without() -> None:
    after = injected(reviews.pod(volumes=DATA))
    mount = {"name": "data", "mountPath": "/nix"}
    after["spec"]["containers"] += [container("late", volumeMounts=[mount]), container("later")]
    decision = decided(after)
    assert [one["path"] for one in decision.patch] == ["/spec/containers/2/volumeMounts"]


def test_one_that_comes_later_and_is_left_out_stays_without() -> None:
    made = reviews.pod({ANNOTATION_PROFILES: "ds", ANNOTATION_EXCLUDE: "late"})
    made["spec"]["containers"].append(container("late"))
    after = injected(made)
    assert decided(after).patch == ()


def test_of_two_mounts_the_one_that_is_lacking_is_added() -> None:
    after = injected(reviews.pod())
    after["spec"]["containers"].append(container("late", volumeMounts=[DS_MOUNT]))
    [operation] = decided(after).patch
    assert operation["value"] == STORE_MOUNT


def test_a_pod_with_many_containers_that_has_our_volumes_stays_as_it_is() -> None:
    after = injected(reviews.pod())
    after["spec"]["containers"] += [container(f"c{n}") for n in range(MAX_CONTAINERS)]
    decision = decided(after)
    assert (decision.outcome, decision.patch) == (Outcome.ALREADY_INJECTED, ())
    assert "201 containers" in decision.message


def test_a_pod_with_our_volumes_and_a_doubled_path_stays_as_it_is() -> None:
    after = injected(reviews.pod(volumes=DATA))
    mounts = [{"name": "data", "mountPath": "/data"}] * 2
    after["spec"]["containers"].append(container("late", volumeMounts=mounts))
    decision = decided(after)
    assert (decision.outcome, decision.patch) == (Outcome.ALREADY_INJECTED, ())
    assert "two mounts of a container have one name or path" in decision.message


@pytest.mark.parametrize("claimed", ["ds", ""])
def test_an_annotation_that_claims_an_injection_is_not_believed(claimed: str) -> None:
    made = reviews.pod({ANNOTATION_PROFILES: "ds", ANNOTATION_INJECTED: claimed})
    assert injected(made)["metadata"]["annotations"][ANNOTATION_INJECTED] == "ds"


def test_the_nodes_that_are_not_ready_are_excluded() -> None:
    nodes = [node("node1"), node("node2"), node("node3", agent_ready=False)]
    made = reviews.pod()
    decision = decide(reviews.review(made), reviews.fleet(*nodes), policed(), NOW)
    required = patched(made, decision.patch)["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    excluded = {"key": "metadata.name", "operator": "NotIn", "values": ["node3"]}
    assert required == {"nodeSelectorTerms": [{"matchFields": [excluded]}]}
