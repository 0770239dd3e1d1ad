"""Every refusal by its name, and of two that a pod earns always the earlier one of the design."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import pytest

from nodeagent.admission import MAX_CONTAINERS, OWN_NAMESPACE, WARNED, decide
from nodeagent.admission.decision import Decision
from nodeagent.admission.fleet import Fleet
from nodeagent.admission.review import Entry
from nodeagent.names import (
    ANNOTATION_EXCLUDE,
    ANNOTATION_INJECTED,
    ANNOTATION_OWN_STORE,
    ANNOTATION_PROFILES,
    ANNOTATION_SKIPPED,
    LABEL_INJECT,
    LABEL_READY,
    SILENT,
    Kind,
    Outcome,
)
from nodeagent.policy import Policy, ProfilePolicy
from tests import reviews
from tests.reviews import ENFORCE, NAMESPACE, NOW, Tree, container, node, patched, policed


@dataclass
class Case:
    """What a decision looks at; faults are made in it. As it is, it is injected."""

    pod: Tree = field(default_factory=reviews.pod)
    request: Tree = field(default_factory=dict)
    fleet: Fleet = field(default_factory=reviews.fleet)
    policy: Policy = field(default_factory=policed)

    @property
    def spec(self) -> Tree:
        spec: Tree = self.pod["spec"]
        return spec

    @property
    def annotations(self) -> Tree:
        annotations: Tree = self.pod["metadata"]["annotations"]
        return annotations

    def relabel(self, **labels: str) -> None:
        """Give the pod's namespace other labels."""
        namespaces = {**self.fleet.namespaces, NAMESPACE: labels}
        self.fleet = replace(self.fleet, namespaces=namespaces)

    def decide(self) -> Decision:
        return decide(reviews.review(self.pod, **self.request), self.fleet, self.policy, NOW)


def update(case: Case) -> None:
    case.request["operation"] = "UPDATE"


def opt_out(case: Case) -> None:
    case.pod["metadata"]["labels"][LABEL_INJECT] = "false"


def mirror(case: Case) -> None:
    case.annotations["kubernetes.io/config.mirror"] = "9f3b"


def windows(case: Case) -> None:
    case.spec["os"] = {"name": "windows"}


def scheduler(case: Case) -> None:
    case.spec["schedulerName"] = "volcano"


def exclude_namespace(case: Case) -> None:
    case.request["namespace"] = "kube-system"


def inject(case: Case) -> None:
    made = reviews.pod()
    decision = decide(reviews.review(made), reviews.fleet(), policed(), NOW)
    assert decision.outcome is Outcome.INJECTED
    spec = patched(made, decision.patch)["spec"]
    case.spec.update({key: spec[key] for key in ("containers", "volumes", "nodeSelector")})


def age(case: Case) -> None:
    case.fleet = replace(case.fleet, heard={**case.fleet.heard, "nodestores": NOW - 91})


def forget_namespace(case: Case) -> None:
    case.fleet = replace(case.fleet, namespaces={})


def disallow(case: Case) -> None:
    profiles = {name: ProfilePolicy(namespaces=("other",)) for name in case.policy.profiles}
    case.policy = case.policy.model_copy(update={"profiles": profiles})


def bad_annotation(case: Case) -> None:
    case.annotations[ANNOTATION_EXCLUDE] = "ghost"


def no_profile(case: Case) -> None:
    del case.annotations[ANNOTATION_PROFILES]


def unknown_profile(case: Case) -> None:
    case.annotations[ANNOTATION_PROFILES] = "ds,nope"


def restrict(case: Case) -> None:
    if NAMESPACE in case.fleet.namespaces:
        case.relabel(**{ENFORCE: "baseline"})


def own_store(case: Case) -> None:
    case.annotations[ANNOTATION_OWN_STORE] = "true"


def conflict(case: Case) -> None:
    mount = {"name": "data", "mountPath": "/nix"}
    case.spec["containers"].append(container("other", volumeMounts=[mount]))


def user_namespace(case: Case) -> None:
    case.spec["hostUsers"] = False
    profiles = {
        name: profile.model_copy(update={"kind": Kind.UV_CACHE})
        for name, profile in case.policy.profiles.items()
    }
    case.policy = case.policy.model_copy(update={"profiles": profiles})
    nodes = {
        name: replace(one, profiles=dict.fromkeys(one.profiles, Kind.UV_CACHE))
        for name, one in case.fleet.nodes.items()
    }
    case.fleet = replace(case.fleet, nodes=nodes)


def known_node(case: Case) -> None:
    case.spec["nodeName"] = "gone"


def few_nodes(case: Case) -> None:
    case.policy = case.policy.model_copy(update={"min_eligible": 100})


def many_excluded(case: Case) -> None:
    lost = {f"lost{number}": node(f"lost{number}", ready=False) for number in range(17)}
    more = {f"more{number}": node(f"more{number}") for number in range(30)}
    case.fleet = replace(case.fleet, nodes={**case.fleet.nodes, **lost, **more})


def break_circuit(case: Case) -> None:
    case.fleet = replace(case.fleet, broken=frozenset({NAMESPACE}))


def too_large(case: Case) -> None:
    case.spec["containers"] += [container(f"c{number}") for number in range(MAX_CONTAINERS)]


def fail(case: Case) -> None:
    case.fleet = replace(case.fleet, broken=None)  # type: ignore[arg-type] # a bug, made on purpose


FAULTS: Final[Mapping[Outcome, Callable[[Case], None]]] = {
    Outcome.NOT_OPTED_IN: update,
    Outcome.OPTED_OUT: opt_out,
    Outcome.MIRROR_POD: mirror,
    Outcome.WINDOWS: windows,
    Outcome.SCHEDULER: scheduler,
    Outcome.NAMESPACE_EXCLUDED: exclude_namespace,
    Outcome.ALREADY_INJECTED: inject,
    Outcome.STALE_SNAPSHOT: age,
    Outcome.NAMESPACE_UNKNOWN: forget_namespace,
    Outcome.NAMESPACE_NOT_ALLOWED: disallow,
    Outcome.BAD_ANNOTATION: bad_annotation,
    Outcome.NO_PROFILE: no_profile,
    Outcome.UNKNOWN_PROFILE: unknown_profile,
    Outcome.POD_SECURITY: restrict,
    Outcome.OWN_STORE: own_store,
    Outcome.CONFLICT: conflict,
    Outcome.USER_NAMESPACE: user_namespace,
    Outcome.NODE_NOT_READY: known_node,
    Outcome.NOT_ENOUGH_NODES: few_nodes,
    Outcome.TOO_MANY_EXCLUDED: many_excluded,
    Outcome.BREAKER_OPEN: break_circuit,
    Outcome.PATCH_UNSAFE: too_large,
    Outcome.INTERNAL_ERROR: fail,
}
IMPOSSIBLE: Final = {  # A pod either names profiles or does not; and what fails tells no more.
    (Outcome.NO_PROFILE, Outcome.UNKNOWN_PROFILE),
    *itertools.product((Outcome.BREAKER_OPEN, Outcome.PATCH_UNSAFE), (Outcome.INTERNAL_ERROR,)),
}
PAIRS: Final = [pair for pair in itertools.combinations(FAULTS, 2) if pair not in IMPOSSIBLE]


def test_a_pod_without_a_fault_is_injected() -> None:
    decision = Case().decide()
    assert decision.outcome is Outcome.INJECTED, decision.message
    assert decision.warning == ""


def test_the_table_names_every_outcome_in_its_order() -> None:
    assert [*FAULTS, Outcome.INJECTED] == list(Outcome)


@pytest.mark.parametrize("outcome", FAULTS)
def test_a_fault_is_refused_by_its_name_and_leaves_the_spec_alone(outcome: Outcome) -> None:
    case = Case()
    FAULTS[outcome](case)
    decision = case.decide()
    assert decision.outcome is outcome, decision.message
    assert decision.message
    assert bool(decision.warning) == (outcome in WARNED)
    after = patched(case.pod, decision.patch)
    assert after["spec"] == case.spec
    unmarked = SILENT | {Outcome.ALREADY_INJECTED, Outcome.INTERNAL_ERROR}
    expected = None if outcome in unmarked else str(outcome)
    assert after["metadata"]["annotations"].get(ANNOTATION_SKIPPED) == expected


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_of_two_faults_the_earlier_one_is_told(first: Outcome, second: Outcome) -> None:
    for order in ((first, second), (second, first)):
        case = Case()
        for outcome in order:
            FAULTS[outcome](case)
        assert case.decide().outcome is first


def test_a_bug_of_ours_is_told_with_its_place() -> None:
    case = Case()
    fail(case)
    decision = case.decide()
    assert decision.patch == ()
    assert decision.message.startswith("TypeError at __init__.py:")


@pytest.mark.parametrize("namespace", ["kube-public", "kube-node-lease", OWN_NAMESPACE])
def test_nothing_is_injected_into_namespaces_of_the_system(namespace: str) -> None:
    case = Case(request={"namespace": namespace, "entry": Entry.NAMESPACE})
    assert case.decide().outcome is Outcome.NAMESPACE_EXCLUDED


def test_its_own_namespace_may_have_another_name() -> None:
    asked = reviews.review(reviews.pod())
    decision = decide(asked, reviews.fleet(), policed(), NOW, own_namespace=NAMESPACE)
    assert decision.outcome is Outcome.NAMESPACE_EXCLUDED


@pytest.mark.parametrize("resource", ["nodes", "nodestores", "pods", "namespaces", "policy"])
def test_no_part_of_the_snapshot_may_be_missing_or_old(resource: str) -> None:
    fresh = reviews.fleet()
    lacking = {key: at for key, at in fresh.heard.items() if key != resource}
    for heard in (lacking, {**lacking, resource: NOW - 90.1}):
        assert Case(fleet=replace(fresh, heard=heard)).decide().outcome is Outcome.STALE_SNAPSHOT
    just = replace(fresh, heard={**lacking, resource: NOW - 90})
    assert Case(fleet=just).decide().outcome is Outcome.INJECTED


def test_a_refusal_empties_what_a_copied_pod_says_of_an_injection() -> None:
    case = Case()
    case.annotations[ANNOTATION_INJECTED] = "ds"
    own_store(case)
    annotations = patched(case.pod, case.decide().patch)["metadata"]["annotations"]
    assert annotations[ANNOTATION_SKIPPED] == "OwnStore"
    assert annotations[ANNOTATION_INJECTED] == ""


def test_a_refusal_leaves_no_annotation_where_the_pod_would_be_refused_for_it() -> None:
    case = Case()
    own_store(case)
    used = sum(len(key) + len(value) for key, value in case.annotations.items())
    room = (256 << 10) - used - len("note")
    needed = len(ANNOTATION_SKIPPED) + len("OwnStore")
    case.annotations["note"] = "x" * (room - needed)
    assert len(case.decide().patch) == 1
    case.annotations["note"] += "x"
    assert case.decide() == replace(case.decide(), outcome=Outcome.OWN_STORE, patch=())


def test_a_warning_is_short_and_of_one_line() -> None:
    case = Case()
    case.annotations[ANNOTATION_PROFILES] = ",".join(f"{n}{'x' * 38}" for n in range(8))
    decision = case.decide()
    assert decision.outcome is Outcome.UNKNOWN_PROFILE
    assert len(decision.warning) == 240
    assert decision.warning.isprintable()


def test_a_contradicting_node_selector_is_told_before_the_user_namespace() -> None:
    case = Case()
    case.spec["nodeSelector"] = {LABEL_READY: "false"}
    user_namespace(case)
    assert case.decide().outcome is Outcome.CONFLICT
