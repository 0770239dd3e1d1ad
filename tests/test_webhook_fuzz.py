"""Whatever arrives, the webhook answers that it is no review, or allows the pod."""

import asyncio
import copy
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import hypothesis
from hypothesis import given
from hypothesis import strategies as st

from nodeagent import admission
from nodeagent.admission.fleet import Fleet, Node
from nodeagent.fleet import RESOURCES
from nodeagent.names import LABEL_INJECT, LABEL_PROFILE_PREFIX, LABEL_READY, Kind
from nodeagent.policy import Policy, ProfilePolicy
from tests.webhooking import Site, encoded, pod, review, running

LABELS: Final = {LABEL_INJECT: "true"}
ASKING: Final = pod() | {"metadata": pod()["metadata"] | {"labels": LABELS}}
SEEDS: Final = [
    review(object=ASKING),
    review(object=ASKING | {"spec": {"nodeName": "a", "containers": [{"name": "b"}] * 3}}),
    review(object=ASKING, namespace="kube-system", dryRun=True),
]
NASTY: Final[st.SearchStrategy[Any]] = st.sampled_from(
    [None, True, -1, 1e300, "", "a\ud800\x00", [], [None], {}, {"a": {}}, "x" * 70_000]
)
PIECES: Final = (
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\x00", b"\xff", b"\xed\xa0\x80"),
    *(b"null", b"true", b"-1e999", b"NaN", b'"\\ud800"', b'{"name": {}}', b"[[]]", b"0" * 5000),
)
EDITS: Final = st.tuples(
    st.integers(0, 700), st.sampled_from([0, 0, 1, 2, 20]), st.sampled_from(PIECES) | st.binary()
)
NODE: Final = Node(
    name="a",
    labels={LABEL_READY: "true", f"{LABEL_PROFILE_PREFIX}ds": "true"},
    ready=True,
    store_ready=True,
    told=time.time(),
    agent_ready=True,
    profiles={"ds": Kind.ENV},
)


class Ready:
    """A fleet of one node that is ready, seen this moment, and a policy for everybody."""

    policy = Policy(profiles={"ds": ProfilePolicy(namespaces=("*",))}, assume_privileged=True)

    def fleet(self) -> Fleet:
        heard = dict.fromkeys(RESOURCES, time.time())
        return Fleet({"a": replace(NODE, told=time.time())}, {"team": LABELS}, heard)

    async def find_namespace(self, name: str) -> bool:
        return False


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Make a review in which a few values, and perhaps a few bytes, are otherwise."""
    document = copy.deepcopy(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 2))):
        owner, key = draw(st.sampled_from(list(places(document["request"]))))
        owner[key] = copy.deepcopy(draw(NASTY))
    body = encoded(document)
    for at, cut, piece in draw(st.one_of(st.just([]), st.lists(EDITS, max_size=3))):
        body = body[:at] + piece + body[at + cut :]
    return body


def places(tree: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 any JSON
    """Give where each value of a document lies."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from places(tree[key])


@contextmanager
def site() -> Iterator[tuple[asyncio.Runner, Site]]:
    """Run one webhook for many examples."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        context = running(admission.decide, Ready())
        yield runner, runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


def test_a_thousand_spoilt_reviews_break_nothing() -> None:
    seen: Counter[str] = Counter()
    with site() as (runner, it):

        @hypothesis.settings(max_examples=1000, deadline=None)
        @given(bodies(), st.sampled_from(["namespace", "pod"]))
        def spoilt(body: bytes, entry: str) -> None:
            status, text = runner.run(it.post(body, path=f"/v1/mutate/{entry}"))
            assert status in {200, 400}, text
            if status == 200:
                response = json.loads(text)["response"]
                seen[response["auditAnnotations"]["reason"]] += 1
                assert response["allowed"] is True
                assert response["uid"] == json.loads(body)["request"]["uid"]

        spoilt()
        assert not [one for one in it.said if "exc_info" in one]
    assert seen["Injected"] > 20, seen  # else nothing much was tried
    assert not seen["InternalError"], seen
