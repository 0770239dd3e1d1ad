"""What is a review, what is none, and how little of it is believed to have its type."""

import json

import pytest

from nodeagent.admission import review
from nodeagent.admission.review import Entry, Malformed, Review, shown
from tests import reviews
from tests.reviews import document, sent

MALFORMED = {
    "nothing": (b"", "no JSON"),
    "no JSON": (b"{", "no JSON"),
    "no UTF-8": (b'{"a":"\xff"}', "no JSON"),
    "no number of JSON": (b'{"a":NaN}', "NaN is no number"),
    "too deep": (b"[" * 100_000, "no JSON"),
    "a number of too many digits": (b"1" * 10_000, "no JSON"),
    "a list": (b"[]", "no JSON object"),
    "another kind": ({**document({}), "kind": "Pod"}, "kind is Pod, not AdmissionReview"),
    "an older version": (
        {**document({}), "apiVersion": "admission.k8s.io/v1beta1"},
        "apiVersion is admission.k8s.io/v1beta1, not admission.k8s.io/v1",
    ),
    "no version": ({"kind": "AdmissionReview"}, "apiVersion is None"),
    "no request": ({**document({}), "request": None}, "request is missing"),
    "no uid": (document(reviews.pod(), uid=None), "request.uid is missing"),
    "an empty uid": (document(reviews.pod(), uid=""), "request.uid is missing"),
    "no pod": (document(None), "request.object is no pod"),
    "a pod that is a list": (document([]), "request.object is no pod"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_review_is_refused_in_a_sentence(case: str) -> None:
    body, says = MALFORMED[case]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    read = review.parse(data, Entry.POD)
    assert isinstance(read, Malformed)
    assert says in read.message
    assert len(read.message) < 200


def test_a_review_says_who_makes_what_where() -> None:
    made = reviews.pod()
    data = json.dumps(document(made, dryRun=True)).encode()
    read = review.parse(data, Entry.NAMESPACE)
    assert read == Review(
        uid="705ab4f5-6393-11e8-b7cc-42010a800002",
        entry=Entry.NAMESPACE,
        namespace="team-a",
        name="task",
        user="system:serviceaccount:kube-system:job-controller",
        dry_run=True,
        pod=made,
        size=len(data),
    )
    assert read.creates_pod


@pytest.mark.parametrize(
    ("name", "metadata", "expected"),
    [
        ("told", {"name": "a"}, "told"),
        (None, {"name": "a", "generateName": "b-"}, "a"),
        (None, {"generateName": "b-"}, "b-"),
        (None, None, ""),
    ],
)
def test_a_pod_is_called_by_as_much_of_its_name_as_is_known(
    name: str | None, metadata: object, expected: str
) -> None:
    assert sent({"metadata": metadata, "spec": {}}, name=name).name == expected


@pytest.mark.parametrize(
    "changed",
    [
        {"operation": "UPDATE"},
        {"operation": "DELETE", "object": None},
        {"subResource": "ephemeralcontainers"},
        {"resource": {"group": "", "version": "v1", "resource": "nodes"}},
        {"resource": {"group": "apps", "version": "v1", "resource": "pods"}},
        {"resource": {"group": "", "version": "v2", "resource": "pods"}},
        {"resource": None},
    ],
)
def test_nothing_but_the_creation_of_a_pod_is_one(changed: reviews.Tree) -> None:
    made = changed.pop("object", reviews.pod())
    assert not sent(made, **changed).creates_pod


def test_unknown_fields_of_a_pod_survive() -> None:
    made = {**reviews.pod(), "unheardOf": [{"a": None}]}
    assert sent(made).pod == made


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("plain", "plain"),
        ("two\nlines\r\x00", "two lines  "),
        ("\u202egnp\ud800", " gnp "),
        ("x" * 81, "x" * 80 + "…"),
    ],
)
def test_words_of_others_are_shown_in_one_short_line(words: str, expected: str) -> None:
    assert shown(words) == expected
