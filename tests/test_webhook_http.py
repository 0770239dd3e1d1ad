"""What the webhook answers over HTTP, to API servers and to everybody else."""

import json
from typing import Final

import pytest

from nodeagent.admission.decision import Decision
from nodeagent.admission.fleet import Fleet
from nodeagent.admission.review import Entry, Review
from nodeagent.names import Outcome
from nodeagent.policy import Policy
from nodeagent.webhook.body import LARGEST
from tests.webhooking import (
    ADDED,
    JSON,
    PATH,
    Known,
    encoded,
    injected,
    patch,
    pod,
    raising,
    refused,
    review,
    running,
)

BIG: Final = "x" * 3_000_000


async def test_an_answer_allows_the_pod_and_names_the_review() -> None:
    async with running() as site:
        status, text = await site.post(encoded(review(uid="seven")))
    assert status == 200
    answer = json.loads(text)
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response = answer["response"]
    assert (response["uid"], response["allowed"]) == ("seven", True)
    assert response["auditAnnotations"] == {"reason": "Injected", "message": "as asked"}
    assert patch(response) == list(ADDED)
    assert "warnings" not in response


async def test_a_refusal_allows_the_pod_without_a_patch_and_warns() -> None:
    async with running(refused) as site:
        response = await site.review()
    assert response["allowed"] is True
    assert not {"patch", "patchType"} & response.keys()
    assert response["auditAnnotations"]["reason"] == "Conflict"
    assert response["warnings"] == ["rename the volume"]


async def test_a_warning_is_no_longer_than_an_api_server_shows() -> None:
    async with running(lambda *_: Decision(Outcome.CONFLICT, warning="ä" * 1000)) as site:
        (warning,) = (await site.review())["warnings"]
    assert warning == "ä" * 256


async def test_each_entry_is_told_apart() -> None:
    seen = []

    def decide(asked: Review, _: Fleet, __: Policy | None, ___: float) -> Decision:
        seen.append(asked.entry)
        return injected()

    async with running(decide) as site:
        for path in ("/v1/mutate/namespace", "/v1/mutate/pod"):
            assert (await site.post(encoded(review()), path=path))[0] == 200
    assert seen == [Entry.NAMESPACE, Entry.POD]


BAD: Final[dict[str, tuple[int, bytes, dict[str, str], str]]] = {
    "nothing": (400, b"", JSON, "no JSON"),
    "no JSON": (400, b"{", JSON, "no JSON"),
    "no UTF-8": (400, b'{"kind": "\xff"}', JSON, "no JSON"),
    "a deep hole": (400, b"[" * 100_000, JSON, "no JSON"),
    "a huge number": (400, b'{"a": ' + b"9" * 100_000 + b"}", JSON, "no JSON"),
    "a list": (400, b"[]", JSON, "no JSON object"),
    "another kind": (400, encoded(review() | {"kind": "Pod"}), JSON, "kind is Pod"),
    "another version": (
        400,
        encoded(review() | {"apiVersion": "admission.k8s.io/v1beta1"}),
        JSON,
        "apiVersion is admission.k8s.io/v1beta1, not admission.k8s.io/v1",
    ),
    "no request": (400, encoded(review() | {"request": None}), JSON, "request is missing"),
    "no uid": (400, encoded(review(uid="")), JSON, "uid is missing"),
    "another type of uid": (400, encoded(review(uid=7)), JSON, "uid is missing"),
    "no pod": (400, encoded(review(object="pod")), JSON, "no pod"),
    "a form": (415, b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, "not app"),
    "YAML": (415, b"kind: Pod", {"Content-Type": "application/yaml"}, "application/json"),
    "compressed": (400, b"\x1f\x8b\x08", JSON | {"Content-Encoding": "gzip"}, "no JSON"),
    "too many values": (413, b'{"a": [' + b"[]," * 200_000 + b"1]}", JSON, "values at most"),
    "too long": (413, b" " * (LARGEST + 1), JSON, f"{LARGEST} bytes"),
}


@pytest.mark.parametrize("what", BAD)
async def test_what_is_no_review_is_told_so(what: str) -> None:
    wanted, body, headers, sentence = BAD[what]
    async with running() as site:
        status, text = await site.post(body, headers)
        assert (status, sentence in text, text.count("\n")) == (wanted, True, 1), text
        assert (await site.review())["allowed"] is True
        assert site.said == []


async def test_a_body_that_does_not_say_how_long_it_is_is_bounded_too() -> None:
    async def parts() -> object:
        for _ in range(2 * LARGEST >> 20):
            yield b" " * (1 << 20)

    async with running() as site:
        async with site.session.post(site.url(), data=parts(), headers=JSON) as answer:
            assert answer.status == 413
        assert (await site.review())["allowed"] is True


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods_are_refused(method: str) -> None:
    async with running() as site, site.session.request(method, site.url()) as answer:
        assert answer.status == 405


async def test_other_paths_are_not_there() -> None:
    async with running() as site:
        for path in ("/", "/v1/mutate", f"{PATH}/", "/v1/mutate/node", "/metrics"):
            assert (await site.post(encoded(review()), path=path))[0] == 404, path


@pytest.mark.parametrize(
    "strange",
    [
        {"object": pod() | {"metadata": {"annotations": {"a": BIG}}}},
        {"object": pod() | {"spec": {"containers": [{"name": f"c{n}"} for n in range(1000)]}}},
        {"object": pod() | {"metadata": {"name": "\ud800\u202e\x00", "labels": {"é\uffff": "🐍"}}}},
        {"uid": "\ud800 is half of a pair"},
        {"object": pod() | {"spec": [None, {"containers": 7}]}},
        {"namespace": "\n" * 10_000},
        {"operation": "DELETE", "object": None},
    ],
    ids=["3 MB", "1,000 containers", "unicode", "surrogate", "no spec", "namespace", "gone"],
)
async def test_a_strange_pod_is_answered_like_any_other(strange: dict[str, object]) -> None:
    async with running(refused) as site:
        response = await site.review(**strange)
        assert response["allowed"] is True
        assert response["uid"] == strange.get("uid", review()["request"]["uid"])


async def test_a_bug_leaves_the_pod_as_it_is_and_is_told_once_with_its_trace() -> None:
    async with running(raising(ZeroDivisionError("a bug"))) as site:
        for _ in range(20):
            response = await site.review()
            assert response["auditAnnotations"]["reason"] == "InternalError"
            assert "patch" not in response
        bugs = [one for one in site.said if "exc_info" in one]
        assert [str(one["exc_info"]) for one in bugs] == ["a bug"]


async def test_a_bug_in_reading_or_answering_is_an_error_that_stops_no_pod(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unanswerable = Decision(Outcome.INJECTED, patch=({"op": object()},))
    async with running(lambda *_: unanswerable) as site:
        assert (await site.post(encoded(review())))[0] == 500
        assert isinstance(site.said[0]["exc_info"], TypeError)

        def parse(_: bytes, __: Entry) -> Review:
            raise ZeroDivisionError

        monkeypatch.setattr("nodeagent.admission.review.parse", parse)
        status, text = await site.post(encoded(review()))
        assert (status, "the log has the trace" in text) == (400, True)
        assert isinstance(site.said[1]["exc_info"], ZeroDivisionError)


async def test_refusals_are_told_once_a_minute_by_namespace_and_reason() -> None:
    def decide(asked: Review, *_: object) -> Decision:
        return refused() if asked.name == "refused" else Decision(Outcome.NO_PROFILE, "none")

    async with running(decide) as site:
        for namespace in ("a", "b"):
            for name in ("refused", "other", "refused", "refused"):
                await site.review(namespace=namespace, name=name)
        told = [(one["namespace"], one["reason"]) for one in site.said]
        assert told == [
            ("a", "Conflict"),
            ("a", "NoProfile"),
            ("b", "Conflict"),
            ("b", "NoProfile"),
        ]


@pytest.mark.parametrize(
    "outcome", [Outcome.INJECTED, Outcome.ALREADY_INJECTED, Outcome.NOT_OPTED_IN, Outcome.OPTED_OUT]
)
async def test_what_is_as_it_should_be_is_not_told(outcome: Outcome) -> None:
    async with running(lambda *_: Decision(outcome)) as site:
        await site.review()
        assert site.said == []


def by_namespace(asked: Review, fleet: Fleet, *_: object) -> Decision:
    known = asked.namespace in fleet.namespaces
    return injected() if known else Decision(Outcome.NAMESPACE_UNKNOWN)


async def test_a_namespace_that_is_newer_than_the_snapshot_is_read() -> None:
    snapshot = Known(to_find={"team"})
    async with running(by_namespace, snapshot) as site:
        for _ in range(3):
            assert (await site.review())["auditAnnotations"]["reason"] == "Injected"
    assert snapshot.found == ["team"]


async def test_a_namespace_that_is_not_found_stays_unknown() -> None:
    snapshot = Known()
    async with running(by_namespace, snapshot) as site:
        response = await site.review()
    assert response["auditAnnotations"]["reason"] == "NamespaceUnknown"
    assert response["allowed"] is True
    assert snapshot.found == ["team"]


async def test_requests_and_outcomes_are_counted() -> None:
    async with running(refused) as site:
        for _ in range(3):
            await site.review()
        await site.post(b"{")
        text = site.webhook.metrics.render().decode()
    for line in (
        'nodeagent_admissions_total{outcome="Conflict"} 3.0',
        'nodeagent_admissions_total{outcome="Injected"} 0.0',
        'nodeagent_webhook_requests_total{code="200"} 3.0',
        'nodeagent_webhook_requests_total{code="400"} 1.0',
        "nodeagent_admission_duration_seconds_count 3.0",
    ):
        assert line in text
