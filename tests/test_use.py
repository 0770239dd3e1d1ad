"""Which pods live from a node's store, as a decision about their objects."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from nodeagent.kube import use

PLACES: Final = ("/run/nodeagent", "/nix")
OURS: Final = {"namespace": "nodeagent-system", "ownerReferences": [{"kind": "DaemonSet"}]}


def pod(spec: Mapping[str, Any], **metadata: object) -> Mapping[str, Any]:
    return {"metadata": {"name": "p", "namespace": "team", **metadata}, "spec": spec}


def mounting(*paths: str) -> Mapping[str, Any]:
    volumes = [{"name": f"v{number}", "hostPath": {"path": p}} for number, p in enumerate(paths)]
    return {"volumes": [{"name": "other", "emptyDir": {}}, *volumes]}


def uses(spec: Mapping[str, Any], **metadata: object) -> bool:
    return bool(use.users([pod(spec, **metadata)], PLACES, "nodeagent-system"))


@pytest.mark.parametrize(
    "path",
    [
        "/run/nodeagent",
        "/run/nodeagent/",
        "/run/nodeagent/store",
        "/run//nodeagent/./profiles/ds",
        "/var/run/nodeagent/profiles/ds",
        "/nix",
        "/nix/store",
    ],
)
def test_a_pod_that_mounts_what_is_ours_uses_it(path: str) -> None:
    assert uses(mounting("/etc", path))


@pytest.mark.parametrize(
    "path", ["/", "/run", "/var/run", "/run/nodeagent-other", "/nixos", "/var/lib", "/home/nix"]
)
def test_a_pod_that_mounts_what_lies_around_or_beside_it_does_not(path: str) -> None:
    assert not uses(mounting(path))


def test_a_pod_that_asks_for_our_labels_uses_the_node() -> None:
    terms = [{"matchExpressions": [{"key": "profile.nodeagent.dev/ds", "operator": "Exists"}]}]
    affinity = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    assert uses({"nodeSelector": {"nodeagent.dev/ready": "true"}})
    assert uses({"affinity": {"nodeAffinity": affinity}})
    assert not uses({"nodeSelector": {"nodeagent.dev/channel": "stable", "zone": "b"}})


def test_what_a_daemonset_of_our_own_namespace_runs_is_no_user() -> None:
    assert not uses(mounting("/nix", "/run/nodeagent"), **OURS)


@pytest.mark.parametrize(
    "other",
    [
        {"namespace": "team"},
        {"ownerReferences": []},
        {"ownerReferences": [{"kind": "ReplicaSet"}]},
    ],
)
def test_anything_else_that_mounts_as_much_is_one(other: Mapping[str, Any]) -> None:
    assert uses(mounting("/nix", "/run/nodeagent"), **{**OURS, **other})


def test_users_are_named_in_order() -> None:
    pods = [pod(mounting("/nix"), name=name) for name in ("b", "a")]
    assert use.users([*pods, pod({}, name="c")], PLACES, "x") == ["team/a", "team/b"]


def test_the_own_namespace_is_the_accounts_or_that_of_the_manifests(tmp_path: Path) -> None:
    assert use.own_namespace(tmp_path / "namespace") == "nodeagent-system"
    (tmp_path / "namespace").write_text("elsewhere")
    assert use.own_namespace(tmp_path / "namespace") == "elsewhere"
