"""Who opts in, which profiles a pod gets, and which of its containers are left out."""

from typing import Final

import pytest

from nodeagent.admission import decide, request
from nodeagent.admission.review import Entry
from nodeagent.names import (
    ANNOTATION_EXCLUDE,
    ANNOTATION_INJECTED,
    ANNOTATION_PROFILES,
    LABEL_INJECT,
    Outcome,
)
from tests import reviews
from tests.reviews import NAMESPACE, NOW, Tree, container, decided, patched, policed

ENVIRONMENTS: Final[Tree] = {f"p{number}": {"namespaces": ["*"]} for number in range(9)}


@pytest.mark.parametrize(
    ("entry", "labels", "expected"),
    [
        (Entry.POD, {LABEL_INJECT: "true"}, Outcome.INJECTED),
        (Entry.POD, {LABEL_INJECT: "false"}, Outcome.OPTED_OUT),
        (Entry.POD, {LABEL_INJECT: "True"}, Outcome.NOT_OPTED_IN),
        (Entry.POD, {}, Outcome.NOT_OPTED_IN),
        (Entry.NAMESPACE, {}, Outcome.INJECTED),
        (Entry.NAMESPACE, {LABEL_INJECT: "true"}, Outcome.INJECTED),
        (Entry.NAMESPACE, {LABEL_INJECT: "maybe"}, Outcome.INJECTED),
        (Entry.NAMESPACE, {LABEL_INJECT: "false"}, Outcome.OPTED_OUT),
    ],
)
def test_a_pod_is_in_by_its_label_or_its_namespace_and_out_by_its_own(
    entry: Entry, labels: dict[str, str], expected: Outcome
) -> None:
    assert decided(reviews.pod(labels=labels), entry=entry).outcome is expected


def test_both_entries_decide_alike_and_the_second_changes_nothing() -> None:
    made = reviews.pod()
    first, other = (decided(made, entry=entry) for entry in Entry)
    assert first == other
    result = patched(made, first.patch)
    for entry in Entry:
        again = decided(result, entry=entry)
        assert (again.outcome, again.patch) == (Outcome.ALREADY_INJECTED, ())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ds", "ds"),
        (" ds ,\thf", "ds,hf"),
        ("hf,ds,hf", "hf,ds"),
        ("", "hf"),
        (" \n", "hf"),
        (None, "hf"),
    ],
)
def test_a_pod_gets_the_profiles_that_it_names_or_the_default(
    words: str | None, expected: str
) -> None:
    made = reviews.pod({} if words is None else {ANNOTATION_PROFILES: words})
    result = patched(made, decided(made, policed(defaults={NAMESPACE: ["hf", "hf"]})).patch)
    assert result["metadata"]["annotations"][ANNOTATION_INJECTED] == expected


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("ds,,hf", "has an empty item"),
        ("ds,", "has an empty item"),
        (",", "has an empty item"),
        ("ds,../etc", "names ../etc, which no profile can be called"),
        ("store", "names store"),
        ("uv", "names uv"),
        ("x" * 41, "which no profile can be called"),
        ("Ds", "names Ds"),
        ("ds\n;hf", "names ds ;hf"),
        (",".join(ENVIRONMENTS), "names 9 profiles; 8 are the most"),
        ("ds," * 6000 + "ds", "has 18002 letters; 16384 are looked at"),
    ],
)
def test_what_cannot_be_meant_is_a_bad_annotation(words: str, says: str) -> None:
    decision = decided(reviews.pod({ANNOTATION_PROFILES: words}))
    assert decision.outcome is Outcome.BAD_ANNOTATION
    assert says in decision.message
    assert decision.warning == f"nodeagent: BadAnnotation: {decision.message}"[:240]


def test_eight_profiles_are_not_too_many() -> None:
    names = list(ENVIRONMENTS)[:8]
    nodes = [
        reviews.node(
            f"node{number}",
            labels={"nodeagent.dev/ready": "true"}
            | {f"profile.nodeagent.dev/{name}": "true" for name in names},
            profiles=dict.fromkeys(names, "env"),
        )
        for number in (1, 2)
    ]
    made = reviews.pod({ANNOTATION_PROFILES: ",".join(names)})
    decision = decided(made, policed(profiles=ENVIRONMENTS), fleet=reviews.fleet(*nodes))
    assert decision.outcome is Outcome.INJECTED, decision.message


@pytest.mark.parametrize(
    ("words", "outcome", "says"),
    [
        ("private", Outcome.NAMESPACE_NOT_ALLOWED, "does not give private to the namespace team-a"),
        ("private,,ds", Outcome.NAMESPACE_NOT_ALLOWED, "does not give private"),
        ("nope,ds,never", Outcome.UNKNOWN_PROFILE, "knows no profile nope, never"),
        ("private,nope", Outcome.NAMESPACE_NOT_ALLOWED, "does not give private"),
    ],
)
def test_policy_says_who_may_have_what(words: str, outcome: Outcome, says: str) -> None:
    decision = decided(reviews.pod({ANNOTATION_PROFILES: words}))
    assert decision.outcome is outcome
    assert says in decision.message


def test_a_pod_label_opts_in_only_where_policy_admits_the_namespace() -> None:
    fleet = reviews.fleet(namespaces={"other": {}})
    decision = decided(reviews.pod(), namespace="other", fleet=fleet)
    assert decision.outcome is Outcome.NAMESPACE_NOT_ALLOWED
    assert "gives no profile to the namespace other" in decision.message


def test_without_a_policy_nothing_is_injected() -> None:
    decision = decide(reviews.review(reviews.pod()), reviews.fleet(), None, NOW)
    assert decision.outcome is Outcome.NAMESPACE_NOT_ALLOWED
    assert "there is no policy" in decision.message


def test_without_a_policy_other_schedulers_are_still_left_alone() -> None:
    asked = reviews.review(reviews.pod(schedulerName="volcano"))
    assert decide(asked, reviews.fleet(), None, NOW).outcome is Outcome.SCHEDULER


@pytest.mark.parametrize("name", ["volcano", "default-scheduler", ""])
def test_schedulers_are_those_that_policy_lists(name: str) -> None:
    policy = policed(schedulers=["default-scheduler", "volcano"])
    assert decided(reviews.pod(schedulerName=name), policy).outcome is Outcome.INJECTED


@pytest.mark.parametrize(
    "spec", [{"os": {"name": "windows"}}, {"nodeSelector": {"kubernetes.io/os": "windows"}}]
)
def test_a_pod_for_windows_is_left_alone_however_it_says_so(spec: Tree) -> None:
    assert decided(reviews.pod(**spec)).outcome is Outcome.WINDOWS


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("", {"main", "side", "prepare"}),
        ("side", {"main", "prepare"}),
        (" side , prepare, side ", {"main"}),
    ],
)
def test_containers_are_left_out_by_name(words: str, left: set[str]) -> None:
    made = reviews.pod(
        {ANNOTATION_EXCLUDE: words},
        containers=[container("main"), container("side")],
        initContainers=[container("prepare")],
    )
    assert {one.name for one in request.into(reviews.review(made))} == left


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        ("main", Outcome.OPTED_OUT),
        ("main,ghost", Outcome.OPTED_OUT),
        ("ghost", Outcome.BAD_ANNOTATION),
        ("ghost,wraith", Outcome.BAD_ANNOTATION),
        (",", Outcome.BAD_ANNOTATION),
    ],
)
def test_to_leave_out_all_is_to_opt_out_and_to_leave_out_nobody_is_a_mistake(
    words: str, outcome: Outcome
) -> None:
    made = reviews.pod({ANNOTATION_PROFILES: "ds", ANNOTATION_EXCLUDE: words})
    assert decided(made).outcome is outcome
