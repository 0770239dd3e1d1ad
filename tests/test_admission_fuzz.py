"""Whatever a pod says, a decision breaks nothing: it only adds, all or nothing, once.

Each example is decided under ten circumstances; together they are more than 10,000 reviews.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeagent.admission import MESSAGE_LETTERS, WARNING_LETTERS, decide, review
from nodeagent.admission.decision import Decision
from nodeagent.admission.fleet import Fleet
from nodeagent.admission.review import Entry, Malformed, Review, containers, rows, table, text
from nodeagent.names import ANNOTATION_EXCLUDE, SILENT, Outcome
from nodeagent.policy import Policy
from tests import reviews
from tests.review_strategies import JUNK, PODS, SANE_PODS
from tests.reviews import NAMESPACE, NOW, added, fleet, node, patched, policed, sent, without_ours

READY: Final = fleet()
SOME: Final = fleet(*(node(f"node{n}", ready=n > 1) for n in range(1, 5)))
EMPTY: Final = Fleet(heard=READY.heard, namespaces=READY.namespaces)
POLICY: Final = policed(defaults={NAMESPACE: ["hf"]}, minFraction=0.1)
CIRCUMSTANCES: Final[list[tuple[Mapping[str, Any], Fleet, Policy | None]]] = [
    ({}, READY, POLICY),
    ({}, SOME, POLICY),
    ({}, SOME, policed()),
    ({}, EMPTY, POLICY),
    ({"entry": Entry.NAMESPACE}, READY, POLICY),
    ({"entry": Entry.NAMESPACE}, SOME, policed()),
    ({"entry": Entry.NAMESPACE}, replace(READY, broken=frozenset({NAMESPACE})), POLICY),
    ({"entry": Entry.NAMESPACE}, Fleet(), POLICY),
    ({"namespace": "team-b"}, READY, POLICY),
    ({}, READY, None),
]
MANY: Final = settings(
    max_examples=260, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def hold(asked: Review, fleet: Fleet, policy: Policy | None) -> Decision:
    """Check all that must hold of any decision."""
    before = copy.deepcopy(asked.pod)
    decision = decide(asked, fleet, policy, NOW)
    assert decision.outcome is not Outcome.INTERNAL_ERROR, decision.message
    assert decide(asked, fleet, policy, NOW) == decision
    assert json.dumps(asked.pod) == json.dumps(before), "the review itself was changed"
    assert decision.message.isprintable()
    assert 0 < len(decision.message) <= MESSAGE_LETTERS
    assert len(decision.warning) <= WARNING_LETTERS
    after = patched(before, decision.patch)
    assert added(without_ours(before), without_ours(after))
    if decision.outcome in SILENT:
        assert not decision.patch
    elif decision.outcome not in {Outcome.INJECTED, Outcome.ALREADY_INJECTED}:
        assert json.dumps(after.get("spec")) == json.dumps(before.get("spec"))
    again = decide(replace(asked, pod=after), fleet, policy, NOW)
    assert not again.patch
    expected = decision.outcome
    assert again.outcome is (
        Outcome.ALREADY_INJECTED if expected is Outcome.INJECTED else expected
    ), again
    if decision.outcome is Outcome.INJECTED:
        mounted(after)
    return decision


def mounted(pod: Mapping[str, Any]) -> None:
    """Every container that is not left out has all our volumes mounted, each once."""
    volumes = [table(one) for one in pod["spec"]["volumes"]]
    ours = {
        text(one.get("name"))
        for one in volumes
        if text(table(one.get("hostPath")).get("path")).startswith("/run/nodeagent/")
    }
    words = text(reviews.review(pod).annotations.get(ANNOTATION_EXCLUDE))
    left_out = {name.strip() for name in words.split(",")} - {""}
    assert len(ours) > 1
    for container in containers(pod["spec"]):
        mounts = rows(container.raw.get("volumeMounts"))
        mine = sorted(name for one in mounts if (name := text(table(one).get("name"))) in ours)
        assert mine == ([] if container.name in left_out else sorted(ours))


def under_all(pod: object, *, wire: bool = False) -> list[Outcome]:
    outcomes = []
    for request, known, policy in CIRCUMSTANCES:
        given = dict(request)
        entry = given.pop("entry", Entry.POD)
        asked = sent(pod, entry, **given) if wire else reviews.review(pod, **request)  # type: ignore[arg-type]
        outcomes.append(hold(asked, known, policy).outcome)
    return outcomes


@MANY
@given(PODS)
def test_a_pod_of_which_little_has_its_type_breaks_nothing(pod: Mapping[str, Any]) -> None:
    under_all(pod)


@MANY
@given(PODS)
def test_neither_does_one_that_came_over_the_wire(pod: Mapping[str, Any]) -> None:
    under_all(pod, wire=True)


@MANY
@given(SANE_PODS)
def test_a_sane_pod_is_injected_completely_once_and_only_added_to(pod: Mapping[str, Any]) -> None:
    under_all(pod)


@MANY
@given(SANE_PODS, st.data())
def test_a_sane_pod_with_something_anywhere_breaks_nothing(
    pod: Mapping[str, Any], data: st.DataObject
) -> None:
    broken: Any = copy.deepcopy(pod)
    inner = broken
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(inner[key], dict | list) or not inner[key] or data.draw(st.booleans()):
            break
        inner = inner[key]
    inner[key] = data.draw(JUNK)
    if isinstance(broken, dict):
        under_all(broken)


@settings(max_examples=1000, deadline=None)
@given(JUNK, st.sampled_from([None, "uid", "object", "resource", "operation", "userInfo"]))
def test_a_review_with_something_anywhere_is_read_or_refused_in_a_sentence(
    junk: object, key: str | None
) -> None:
    body = junk if key is None else reviews.document(reviews.pod(), **{key: junk})
    read = review.parse(json.dumps(body).encode(), Entry.POD)
    if isinstance(read, Malformed):
        assert read.message.isprintable()
        assert read.message
    else:
        hold(read, READY, POLICY)
