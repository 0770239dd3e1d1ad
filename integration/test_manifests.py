"""The manifests as kubectl renders them: strictly valid, and holding what they promise.

Base, overlays and components are rendered by the test cluster's own kubectl and validated
without a cluster, against each Kubernetes that is supported.
"""

import copy
import json
import os
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import kubernetes_validate as kubernetes  # type: ignore[import-untyped] # carries no types
import pytest
import yaml

from integration.cluster import binaries
from integration.cluster.commands import ClusterError

ROOT: Final = Path(__file__).parents[1]
DAEMONSET: Final = ROOT / "daemonset"
BASE: Final = DAEMONSET / "base"
OLDEST: Final = (1, 32)
Tree = dict[str, Any]
Target = tuple[Path, ...]

OVERLAYS: Final = sorted((DAEMONSET / "overlays").iterdir())
COMPONENTS: Final = sorted((DAEMONSET / "components").iterdir())
VERSIONS: Final = sorted(
    version
    for version in set(kubernetes.utils.all_versions())
    if tuple(map(int, version.split(".")[:2])) >= OLDEST
)
# What is rendered: a directory, or components that are put on the base.
TARGETS: Final[list[Target]] = [
    *((one,) for one in (BASE, *OVERLAYS, *COMPONENTS)),
    tuple(COMPONENTS),
]


@dataclass(frozen=True)
class Renderer:
    """Renders each target once."""

    kubectl: Path
    scratch: Path
    done: dict[Target, list[Tree]] = field(default_factory=dict)

    def render(self, *target: Path) -> list[Tree]:
        """Give the objects of a target, the caller's to change."""
        if target not in self.done:
            directory = target[0]
            if directory in COMPONENTS:
                directory = compose(target, self.scratch)
            self.done[target] = self._kustomize(directory)
        return copy.deepcopy(self.done[target])

    def _kustomize(self, directory: Path) -> list[Tree]:
        argv = [str(self.kubectl), "kustomize", str(directory)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == "", "kustomize warns of what it will cease to understand"
        return list(yaml.safe_load_all(done.stdout))


def compose(components: Target, scratch: Path) -> Path:
    """Write an overlay of the base with components, as a user would."""
    directory = scratch / "-".join(one.name for one in components)
    directory.mkdir()
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(BASE, directory)],
        "components": [os.path.relpath(one, directory) for one in components],
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return directory


@pytest.fixture(scope="session")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    try:
        programs = binaries.binaries()
    except ClusterError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no kubectl to render with: {error}")
    return Renderer(programs / "kubectl", tmp_path_factory.mktemp("overlays"))


@pytest.fixture(params=TARGETS, ids=lambda target: "+".join(one.name for one in target))
def objects(request: pytest.FixtureRequest, renderer: Renderer) -> list[Tree]:
    """Give the objects of each target in turn."""
    return renderer.render(*request.param)


@pytest.fixture
def base(renderer: Renderer) -> list[Tree]:
    return renderer.render(BASE)


def find(objects: list[Tree], kind: str) -> list[Tree]:
    return [one for one in objects if one["kind"] == kind]


def pod_of(objects: list[Tree]) -> Tree:
    """Give the pod that the one DaemonSet makes."""
    [daemonset] = find(objects, "DaemonSet")
    pod: Tree = daemonset["spec"]["template"]["spec"]
    return pod


def agent_of(objects: list[Tree]) -> Tree:
    [agent] = pod_of(objects)["containers"]
    result: Tree = agent
    return result


def faults(objects: list[Tree]) -> list[str]:
    """Give what an API server of some supported version would refuse or drop."""
    told = (fault(json.dumps(one), version) for version in VERSIONS for one in objects)
    return [one for one in told if one]


@cache
def fault(text: str, version: str) -> str:
    """Validate one object; most are the same in every target."""
    document = json.loads(text)
    try:
        kubernetes.validate(document, version, strict=True)
    except kubernetes.ValidationError as error:
        return f"{version}: {document['kind']} {document['metadata']['name']}: {error.message}"
    return ""


def test_all_that_is_rendered_is_strictly_valid(objects: list[Tree]) -> None:
    assert faults(objects) == []


def test_a_misspelt_field_is_told(base: list[Tree]) -> None:
    agent_of(base)["imagePullPolice"] = "IfNotPresent"
    told = faults(base)
    assert len(told) == len(VERSIONS)
    assert "imagePullPolice" in told[0]


def test_a_missing_field_and_a_wrong_type_are_told(base: list[Tree]) -> None:
    del agent_of(base)["name"]
    find(base, "PriorityClass")[0]["value"] = "high"
    assert len(faults(base)) == 2 * len(VERSIONS)


def test_the_example_pod_is_strictly_valid() -> None:
    pod = yaml.safe_load((ROOT / "examples/pod.yaml").read_text())
    assert faults([pod]) == []


def test_what_a_cluster_decides_for_itself_is_no_part_of_the_base(base: list[Tree]) -> None:
    assert {one["kind"] for one in base} == {
        "Namespace",
        "CustomResourceDefinition",
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "PriorityClass",
        "DaemonSet",
    }


def test_nothing_holds_pins_or_secrets(objects: list[Tree]) -> None:
    assert "nodeagent-pins" not in {one["metadata"]["name"] for one in objects}
    assert find(objects, "Secret") == []


def test_an_object_lies_in_the_projects_namespace_or_in_none(objects: list[Tree]) -> None:
    namespaces = {one["metadata"]["name"]: one["metadata"].get("namespace") for one in objects}
    assert namespaces.pop("nodeagent-events") == "default"
    assert set(namespaces.values()) == {"nodeagent-system", None}


def test_the_namespace_admits_host_paths(objects: list[Tree]) -> None:
    [namespace] = find(objects, "Namespace")
    labels = namespace["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "privileged"


def test_the_account_may_do_exactly_this(objects: list[Tree]) -> None:
    rules = {
        (one["kind"], group, resource): ", ".join(rule["verbs"])
        for one in find(objects, "ClusterRole") + find(objects, "Role")
        for rule in one["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert rules == {
        ("ClusterRole", "", "nodes"): "get, patch",
        ("ClusterRole", "", "nodes/status"): "patch",
        ("ClusterRole", "", "pods"): "list",
        ("ClusterRole", "nodeagent.dev", "nodestores"): "get, create, patch, delete",
        ("ClusterRole", "nodeagent.dev", "nodestores/status"): "patch",
        ("Role", "", "events"): "create",
    }


def test_every_name_that_an_object_refers_to_is_there(objects: list[Tree]) -> None:
    there = {(one["kind"], one["metadata"]["name"]) for one in objects}
    pod = pod_of(objects)
    assert ("ServiceAccount", pod["serviceAccountName"]) in there
    assert ("PriorityClass", pod["priorityClassName"]) in there
    for binding in find(objects, "ClusterRoleBinding") + find(objects, "RoleBinding"):
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in there
        for subject in binding["subjects"]:
            assert (subject["kind"], subject["name"]) in there
            assert subject["namespace"] == "nodeagent-system"
    [daemonset] = find(objects, "DaemonSet")
    labels = daemonset["spec"]["template"]["metadata"]["labels"]
    assert daemonset["spec"]["selector"]["matchLabels"].items() <= labels.items()
    agent = agent_of(objects)
    assert {one["name"] for one in agent["volumeMounts"]} == {one["name"] for one in pod["volumes"]}


def test_the_agent_has_one_capability_and_cannot_gain_more(
    objects: list[Tree], request: pytest.FixtureRequest
) -> None:
    pod = pod_of(objects)
    assert agent_of(objects)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["DAC_OVERRIDE"]},
    }
    confined = {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}
    if "selinux" in request.node.callspec.id:
        confined["seLinuxOptions"] = {"type": "spc_t", "level": "s0"}
    assert pod["securityContext"] == confined
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    assert pod["enableServiceLinks"] is False


def test_the_agent_sees_of_its_host_exactly_this(objects: list[Tree]) -> None:
    agent, volumes = agent_of(objects), pod_of(objects)["volumes"]
    host = {one["name"]: one["hostPath"] for one in volumes if "hostPath" in one}
    mounts = {one["name"]: one for one in agent["volumeMounts"] if one["name"] in host}
    seen = {mounts[name]["mountPath"]: (path["path"], path["type"]) for name, path in host.items()}
    store = variables(agent)["NODEAGENT_HOST_STORE"].removesuffix("/store")
    assert seen == {
        "/host/nix": (store, "DirectoryOrCreate"),
        "/host/boot_id": ("/proc/sys/kernel/random/boot_id", "File"),
        "/var/lib/nodeagent": ("/var/lib/nodeagent", "DirectoryOrCreate"),
        "/run/nodeagent": ("/run/nodeagent", "DirectoryOrCreate"),
    }
    assert mounts["boot-id"]["readOnly"]
    assert not any("mountPropagation" in one or "subPath" in one for one in mounts.values())


def variables(agent: Tree) -> dict[str, str]:
    return {one["name"]: one["value"] for one in agent["env"] if "value" in one}


def test_the_store_lies_below_var_only_where_that_was_asked_for(
    objects: list[Tree], request: pytest.FixtureRequest
) -> None:
    below_var = "read-only-root" in request.node.callspec.id
    expected = "/var/lib/nodeagent/nix/store" if below_var else "/nix/store"
    assert variables(agent_of(objects))["NODEAGENT_HOST_STORE"] == expected


def test_the_pod_does_not_wait_for_pins_keys_or_settings(objects: list[Tree]) -> None:
    volumes = {one["name"]: one for one in pod_of(objects)["volumes"]}
    assert volumes["pins"]["configMap"] == {"name": "nodeagent-pins", "optional": True}
    assert volumes["keys"]["configMap"] == {"name": "nodeagent-keys"}
    [settings] = agent_of(objects)["envFrom"]
    assert settings == {"configMapRef": {"name": "nodeagent-settings"}}


def test_a_rollout_asks_the_process_alone_and_starts_no_second_agent(objects: list[Tree]) -> None:
    agent = agent_of(objects)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert agent[probe]["httpGet"] == {"path": "/livez", "port": "http"}
    [daemonset] = find(objects, "DaemonSet")
    assert daemonset["spec"]["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"},
    }


def test_the_example_fills_in_image_keys_and_settings(renderer: Renderer) -> None:
    objects = renderer.render(DAEMONSET / "overlays/example")
    maps = {one["metadata"]["name"]: one["data"] for one in find(objects, "ConfigMap")}
    assert maps["nodeagent-keys"].keys() == {"release.pub", "cache.pub"}
    assert maps["nodeagent-settings"]["NODEAGENT_FLEET"] == "example"
    assert agent_of(objects)["image"].startswith("registry.example/nodeagent:")
    assert variables(agent_of(objects))["NODEAGENT_STARTUP_TAINT"] == "true"
