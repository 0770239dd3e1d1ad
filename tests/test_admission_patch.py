"""A patch that is in doubt does not leave."""

import pytest

from nodeagent.admission import MAX_CONTAINERS, MAX_REVIEW_BYTES, mounts, patch
from nodeagent.admission.patch import UnfitError
from nodeagent.names import (
    Outcome,
)
from tests import reviews
from tests.reviews import DATA, STORE_MOUNT, Tree, container, decided, injected


@pytest.mark.parametrize(
    ("containers", "size", "outcome"),
    [
        (MAX_CONTAINERS, MAX_REVIEW_BYTES, Outcome.INJECTED),
        (MAX_CONTAINERS + 1, 0, Outcome.PATCH_UNSAFE),
        (1000, 0, Outcome.PATCH_UNSAFE),
        (1, MAX_REVIEW_BYTES + 1, Outcome.PATCH_UNSAFE),
    ],
)
def test_a_pod_that_is_very_large_stays_as_it_is(
    containers: int, size: int, outcome: Outcome
) -> None:
    made = reviews.pod(containers=[container(f"c{number}") for number in range(containers)])
    assert decided(made, size=size).outcome is outcome


def test_a_pod_whose_own_volumes_share_a_name_stays_as_it_is() -> None:
    decision = decided(reviews.pod(volumes=DATA * 2))
    assert decision.outcome is Outcome.PATCH_UNSAFE
    assert decision.patch == ()
    assert "two volumes have one name" in decision.message


@pytest.mark.parametrize("placed", [{}, {"nodeName": "node1"}])
def test_another_volume_exactly_like_ours_makes_a_second_call_doubtful(placed: Tree) -> None:
    models = mounts.place("hf").volume
    decision = decided(reviews.pod(volumes=[models], **placed))
    assert decision.outcome is Outcome.PATCH_UNSAFE
    assert "a second call would change the pod again" in decision.message


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ({"op": "remove", "path": "/spec"}, "remove is no addition"),
        ({"op": "add", "path": "/nope/0", "value": 1}, "no place for nope"),
        ({"op": "add", "path": "/spec/containers/1/env", "value": 1}, "no place for 1"),
        ({"op": "add", "path": "/spec/containers/0", "value": 1}, "no place for 0"),
        ({"op": "add", "path": "/spec/containers/-/env", "value": 1}, "no place for -"),
        ({"op": "add", "path": "/kind/x", "value": 1}, "no place for x"),
    ],
)
def test_a_patch_that_an_api_server_might_refuse_does_not_apply(operation: Tree, says: str) -> None:
    with pytest.raises(UnfitError, match=says):
        patch.apply(reviews.pod(), [operation])


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("/kind", "Job", "something that the pod says would change"),
        ("/metadata/annotations/nodeagent.dev~1profiles", "hf", "would change"),
        ("/spec/containers", [], "would change"),
        ("/spec/containers", {}, "would change"),
        ("/spec/containers/0/image", None, "would change"),
        ("/spec", [], "would change"),
        ("/spec/volumes", DATA * 2, "two volumes"),
        ("/spec/containers/0/volumeMounts", [STORE_MOUNT] * 2, "two mounts"),
        ("/spec/containers/0/env", [{"name": "A"}] * 2, "two variables"),
    ],
)
def test_a_patch_that_does_more_than_add_or_doubles_a_name_is_unfit(
    path: str, value: object, says: str
) -> None:
    before = reviews.pod()
    after = patch.apply(before, [{"op": "add", "path": path, "value": value}])
    with pytest.raises(UnfitError, match=says):
        patch.check(before, after)


def test_a_name_that_the_pod_itself_doubled_is_its_own_business() -> None:
    own = [{"name": "TWICE", "value": "1"}, {"name": "TWICE", "value": "2"}]
    after = injected(reviews.pod(containers=[container(env=own)]))
    assert after["spec"]["containers"][0]["env"][:2] == own


def test_a_pointer_escapes_what_would_end_a_part() -> None:
    assert patch.pointer("a~/b", "~1") == "/a~0~1b/~01"
    made = patch.apply({}, [patch.add("a~/b", value=1)])
    assert made == {"a~/b": 1}
