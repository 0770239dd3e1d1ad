"""What of a pod stands against our mounts, and which volumes are ours."""

from typing import Final

import pytest

from nodeagent.admission import decide, mounts
from nodeagent.names import (
    ANNOTATION_EXCLUDE,
    ANNOTATION_PROFILES,
    LABEL_READY,
    Kind,
    Outcome,
)
from tests import reviews
from tests.reviews import (
    DATA,
    DS,
    ENFORCE,
    NAMESPACE,
    NOW,
    SELECTED,
    STORE,
    Tree,
    container,
    decided,
    injected,
    policed,
)


@pytest.mark.parametrize(
    ("volumes", "placed", "outcome"),
    [
        ([STORE, DS], {"nodeSelector": SELECTED}, Outcome.ALREADY_INJECTED),
        ([DS, *DATA, STORE], {"nodeSelector": SELECTED}, Outcome.ALREADY_INJECTED),
        ([STORE, DS], {"nodeName": "node1"}, Outcome.ALREADY_INJECTED),
        ([STORE, DS], {}, Outcome.CONFLICT),
        ([STORE, DS], {"nodeSelector": {LABEL_READY: "true"}}, Outcome.CONFLICT),
        ([STORE, DS], {"nodeSelector": {**SELECTED, LABEL_READY: "false"}}, Outcome.CONFLICT),
        ([STORE], {"nodeSelector": SELECTED}, Outcome.CONFLICT),
        ([DS], {"nodeSelector": SELECTED}, Outcome.CONFLICT),
        ([STORE, {**DS, "hostPath": {"path": "/"}}], {"nodeSelector": SELECTED}, Outcome.CONFLICT),
        ([{**STORE, "emptyDir": {}}, DS], {"nodeSelector": SELECTED}, Outcome.CONFLICT),
    ],
)
def test_only_exactly_our_volumes_with_their_placement_are_ours(
    volumes: list[Tree], placed: Tree, outcome: Outcome
) -> None:
    assert decided(reviews.pod(volumes=volumes, **placed)).outcome is outcome


def test_more_volumes_of_ours_than_a_pod_can_have_are_not_ours() -> None:
    names = [f"p{number}" for number in range(9)]
    volumes = [place.volume for place in mounts.places(names)]
    assert mounts.found({"volumes": volumes}) == ()
    assert len(mounts.found({"volumes": volumes[:-1]})) == 9


BLOCKED: Final = [
    *("/", "//", "/nix", "nix", "/nix/", "/nix/store", "/nix//store/../store/x"),
    *("/opt", "/opt/nodeagent", "/opt/nodeagent/ds", "/opt/nodeagent/ds/bin"),
    *("opt/nodeagent/./ds", "/data/../opt/nodeagent/ds"),
]
FREE: Final = [
    *("/data", "/nixes", "/nix/var", "/nix/stores", "/opt/app", "/opt/nodeagent/hf"),
    *("/opt/nodeagent/ds-uv", "/opt/nodeagents", "/nix/store/../var", ""),
]


@pytest.mark.parametrize("path", BLOCKED)
def test_what_is_at_above_or_below_our_paths_conflicts(path: str) -> None:
    for own in mounting(path):
        decision = decided(reviews.pod(volumes=DATA, containers=[own]))
        assert decision.outcome is Outcome.CONFLICT
        assert f"the container main has {path}, at, above or below" in decision.message


@pytest.mark.parametrize("path", FREE)
def test_siblings_of_our_paths_do_not(path: str) -> None:
    for own in mounting(path):
        assert decided(reviews.pod(volumes=DATA, containers=[own])).outcome is Outcome.INJECTED


def mounting(path: str) -> tuple[Tree, Tree]:
    """Give a container with a mount, and one with a device."""
    mount, device = {"name": "data", "mountPath": path}, {"name": "data", "devicePath": path}
    return container(volumeMounts=[mount]), container(volumeDevices=[device])


def test_a_container_that_is_left_out_may_have_what_it_likes() -> None:
    other = container("other", volumeMounts=[{"name": "data", "mountPath": "/nix"}])
    made = reviews.pod(
        {ANNOTATION_PROFILES: "ds", ANNOTATION_EXCLUDE: "other"},
        volumes=DATA,
        containers=[container(), other],
    )
    assert injected(made)["spec"]["containers"][1] == other


@pytest.mark.parametrize("excluded", ["", "other"])
def test_nobody_mounts_our_volumes_by_their_names_in_his_own_way(excluded: str) -> None:
    mount = {"name": "nodeagent-store", "mountPath": "/mnt"}
    made = reviews.pod(
        {ANNOTATION_PROFILES: "ds", ANNOTATION_EXCLUDE: excluded},
        containers=[container(), container("other", volumeMounts=[mount])],
    )
    decision = decided(made)
    assert decision.outcome is Outcome.CONFLICT
    assert "other mounts nodeagent-store" in decision.message


@pytest.mark.parametrize(
    ("labels", "assumed", "admitted"),
    [
        ({ENFORCE: "privileged"}, False, True),
        ({ENFORCE: "baseline"}, True, False),
        ({ENFORCE: "restricted"}, True, False),
        ({ENFORCE: "Privileged"}, True, False),
        ({}, True, True),
        ({}, False, False),
        ({"pod-security.kubernetes.io/warn": "restricted"}, True, True),
    ],
)
def test_host_paths_are_admitted_by_label_or_where_policy_assumes_so(
    labels: dict[str, str], assumed: bool, admitted: bool
) -> None:
    fleet = reviews.fleet(namespaces={NAMESPACE: labels})
    policy = policed(assumePrivileged=assumed)
    outcome = decide(reviews.review(reviews.pod()), fleet, policy, NOW).outcome
    assert outcome is (Outcome.INJECTED if admitted else Outcome.POD_SECURITY)


@pytest.mark.parametrize(
    ("image", "excluded", "outcome"),
    [
        ("docker.io/nixos/nix:2.30", "", Outcome.OWN_STORE),
        ("nixos/nix@sha256:00", "", Outcome.OWN_STORE),
        ("NixOS/nix", "", Outcome.INJECTED),
        ("nixos/nix", "other", Outcome.INJECTED),
    ],
)
def test_images_that_bring_a_store_are_left_alone(
    image: str, excluded: str, outcome: Outcome
) -> None:
    made = reviews.pod(
        {ANNOTATION_PROFILES: "ds", ANNOTATION_EXCLUDE: excluded},
        containers=[container(), container("other", image=image)],
    )
    assert decided(made).outcome is outcome


@pytest.mark.parametrize("users", [True, None])
def test_a_user_namespace_matters_only_to_what_cannot_be_mapped(users: bool | None) -> None:
    kinds = {"ds": Kind.ENV, "cache": Kind.UV_CACHE}
    refusal = mounts.user_namespace({"hostUsers": False}, kinds)
    assert refusal is not None
    assert refusal.message == "cache cannot be mounted with hostUsers: false"
    assert mounts.user_namespace({"hostUsers": users}, kinds) is None
    assert mounts.user_namespace({"hostUsers": False}, {"ds": Kind.ENV}) is None
