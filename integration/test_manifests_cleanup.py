"""The manifests that take nodeagent away, as kubectl renders them: they fit those that bring it."""

import os
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from integration.test_manifests import (
    BASE,
    DAEMONSET,
    Renderer,
    agent_of,
    faults,
    find,
    pod_of,
    renderer,
    variables,
)

__all__ = ["renderer"]  # a fixture

CLEANUP: Final = DAEMONSET / "cleanup"
COMPONENTS: Final = sorted((CLEANUP / "components").iterdir())
FLAGS: Final[dict[str, list[str]]] = {
    "": [],
    "force": ["--force"],
    "read-only-root": [],
    "store": ["--store"],
}
HOST: Final = {"/host/var/lib": "/var/lib", "/host/run": "/run"}
Tree = dict[str, Any]


@pytest.fixture(params=FLAGS)
def overlay(request: pytest.FixtureRequest) -> str:
    """Name each overlay in turn."""
    return str(request.param)


@pytest.fixture
def objects(renderer: Renderer, overlay: str) -> list[Tree]:
    return renderer.render(CLEANUP / overlay)


def cleanup_of(objects: list[Tree]) -> Tree:
    [container] = pod_of(objects)["initContainers"]
    return dict(container)


def test_all_that_is_rendered_is_strictly_valid_and_one_daemonset(objects: list[Tree]) -> None:
    assert faults(objects) == []
    assert [one["kind"] for one in objects] == ["DaemonSet"]


def test_each_overlay_gives_its_flag(objects: list[Tree], overlay: str) -> None:
    assert cleanup_of(objects)["args"] == ["cleanup", *FLAGS[overlay]]


def test_it_runs_where_and_as_whom_the_agents_do(objects: list[Tree], renderer: Renderer) -> None:
    pod, agents = pod_of(objects), pod_of(renderer.render(BASE))
    for field in (
        *("serviceAccountName", "automountServiceAccountToken", "enableServiceLinks"),
        *("nodeSelector", "tolerations", "priorityClassName", "securityContext"),
    ):
        assert pod[field] == agents[field]
    [mine], [theirs] = find(objects, "DaemonSet"), find(renderer.render(BASE), "DaemonSet")
    assert mine["metadata"]["namespace"] == theirs["metadata"]["namespace"]
    selector, labels = mine["spec"]["selector"]["matchLabels"], theirs["spec"]["selector"]
    assert selector != labels["matchLabels"]
    assert selector.items() <= mine["spec"]["template"]["metadata"]["labels"].items()


def test_its_image_is_the_agents(objects: list[Tree], renderer: Renderer) -> None:
    containers = [cleanup_of(objects), *pod_of(objects)["containers"]]
    assert {one["image"] for one in containers} == {agent_of(renderer.render(BASE))["image"]}


def test_it_has_no_capability_at_all(objects: list[Tree]) -> None:
    for container in (cleanup_of(objects), *pod_of(objects)["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_only_what_ends_at_once_mounts_the_host(objects: list[Tree], overlay: str) -> None:
    [done] = pod_of(objects)["containers"]
    assert "volumeMounts" not in done
    volumes = {one["name"]: one.get("hostPath", {}) for one in pod_of(objects)["volumes"]}
    mounts = {one["mountPath"]: one["name"] for one in cleanup_of(objects)["volumeMounts"]}
    assert sorted(mounts.values()) == sorted(volumes)
    seen = {at: volumes[name]["path"] for at, name in mounts.items() if volumes[name]}
    assert seen == HOST | ({} if overlay == "read-only-root" else {"/host/nix": "/nix"})


def test_it_looks_for_the_host_directories_of_the_agents(
    objects: list[Tree], overlay: str, renderer: Renderer
) -> None:
    brought = DAEMONSET / "overlays/read-only-root" if overlay == "read-only-root" else BASE
    agent = renderer.render(brought)
    hosts = {one["name"]: one.get("hostPath", {}).get("path") for one in pod_of(agent)["volumes"]}
    given = variables(cleanup_of(objects))
    assert given["NODEAGENT_STATE_DIR"] == f"/host{hosts['state']}"
    assert given["NODEAGENT_RUN_DIR"] == f"/host{hosts['run']}"
    assert f"{given['NODEAGENT_STORE_ROOT']}/nix" == f"/host{hosts['host-store']}"
    assert given["NODEAGENT_HOST_STORE"] == variables(agent_of(agent))["NODEAGENT_HOST_STORE"]


def test_a_refusal_is_seen_where_people_look(objects: list[Tree]) -> None:
    assert cleanup_of(objects)["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_all_components_go_together(renderer: Renderer, tmp_path: Path) -> None:
    kustomization = {
        "resources": [os.path.relpath(CLEANUP, tmp_path)],
        "components": [os.path.relpath(one, tmp_path) for one in COMPONENTS],
        "images": [{"name": "localhost/nodeagent", "newName": "registry.example/nodeagent"}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    objects = renderer.render(tmp_path)
    assert faults(objects) == []
    assert cleanup_of(objects)["args"] == ["cleanup", "--force", "--store"]
    assert pod_of(objects)["securityContext"]["seLinuxOptions"] == {"type": "spc_t", "level": "s0"}
    assert cleanup_of(objects)["image"].startswith("registry.example/nodeagent:")
