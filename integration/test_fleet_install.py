"""Installing: from nothing to ready nodes, once more over it, and as the overlays say."""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from integration.fleet import NAMESPACE, REPOSITORY, Fleet, condition, ours
from integration.fleet_users import LABELS, Users
from integration.site import SYSTEM
from nodeagent import names, readiness, release
from nodeagent.names import Reason

EXAMPLE = REPOSITORY / "daemonset/overlays/example"
IDLE_SECONDS = 60.0
# Server-side applies, as only the agents make them while nobody runs kubectl.
APPLIED = re.compile(r"apiserver_request_total\{.*resource=\"(nodes|nodestores)\".*verb=\"APPLY\"")
NEW = "node3"  # the node that is made anew
OTHER_TAINT = {"key": "test/other", "value": "stays", "effect": "NoSchedule"}


def test_apply_and_two_configmaps_and_pins_make_ready_nodes_of_bare_ones(bare_fleet: Fleet) -> None:
    fleet = bare_fleet
    fleet.remove()
    fleet.name_image()
    fleet.apply()
    fleet.until("waiting for keys: the agents", lambda: lacks(fleet, "nodeagent-keys"))
    assert not any(runs(pod) for pod in fleet.agents())
    fleet.configure()
    fleet.until_rolled_out()
    for node in fleet.nodes:
        fleet.until_unready(node, Reason.PINS_MISSING)
        assert ours(fleet.node(node)) == set()
    fleet.bring(fleet.first)
    for node in fleet.nodes:
        check_ready(fleet, node)


def lacks(fleet: Fleet, configmap: str) -> bool:
    """Tell whether each agent's pod waits for a ConfigMap."""
    found = fleet.get("events", "-n", NAMESPACE, "--field-selector", "reason=FailedMount")
    text = f'configmap "{configmap}" not found'
    waiting = {e["involvedObject"]["name"] for e in found["items"] if text in e["message"]}
    pods = {pod["metadata"]["name"] for pod in fleet.agents()}
    return len(pods) == len(fleet.nodes) and pods <= waiting


def runs(pod: Mapping[str, Any]) -> bool:
    return "running" in json.dumps(pod["status"].get("containerStatuses"))


def check_ready(fleet: Fleet, node: str) -> None:
    """Check what a node says of itself, everywhere."""
    assert ours(fleet.node(node)) == LABELS.keys()
    assert fleet.condition(node)["reason"] == readiness.PUBLISHED
    assert is_owned(fleet, node)
    store, digest = fleet.store(node), release.digest_of(fleet.first)
    assert (store["ready"], store["phase"], store["system"]) == (True, "Idle", SYSTEM)
    assert store["published"] == store["wanted"]
    assert (store["published"]["release"], store["published"]["channel"]) == (digest, "stable")
    [profile] = store["profiles"]
    assert (profile["name"], profile["kind"], profile["gate"]) == ("ds", "env", True)
    fleet.until(
        "told: the publication", lambda: digest in str(fleet.events(node, readiness.PUBLISHED))
    )


def is_owned(fleet: Fleet, node: str) -> bool:
    """Tell whether a NodeStore goes when its Node goes."""
    uid = fleet.node(node)["metadata"]["uid"]
    owners = fleet.get("nodestore", node)["metadata"]["ownerReferences"]
    return [(one["kind"], one["uid"]) for one in owners] == [("Node", uid)]


def test_applying_again_changes_nothing(fleet: Fleet) -> None:
    before = traces(fleet)
    said = fleet.apply().splitlines()
    assert [line for line in said if not line.endswith(" unchanged")] == []
    assert traces(fleet) == before


def traces(fleet: Fleet) -> dict[str, object]:
    """Give the versions of what an installation must not reset, and the agents' containers."""
    maps = fleet.get("configmaps", "-n", NAMESPACE)["items"]
    return {
        **{one["metadata"]["name"]: one["metadata"]["resourceVersion"] for one in maps},
        **{node: fleet.agent_container(node)["containerID"] for node in fleet.nodes},
    }


@pytest.mark.timeout(4 * IDLE_SECONDS, func_only=True)
def test_agents_with_nothing_to_do_write_nothing(fleet: Fleet) -> None:
    serial = fleet.store("node1")["published"]["serial"]
    fleet.until("said: the serial", lambda: all(says(fleet, node, serial) for node in fleet.nodes))
    before = written(fleet)
    time.sleep(IDLE_SECONDS)
    assert written(fleet) == before


def says(fleet: Fleet, node: str, serial: int) -> bool:
    """Tell whether a condition names this serial: one that only reads otherwise comes late."""
    return f"serial {serial} " in fleet.condition(node)["message"]


def written(fleet: Fleet) -> dict[str, object]:
    """Count what the API server was asked to write, and give what last was."""
    metrics = fleet.kubectl("get", "--raw", "/metrics").splitlines()
    stores = fleet.get("nodestores")["items"]
    return {
        "requests": [line for line in metrics if APPLIED.match(line)],
        "stores": {one["metadata"]["name"]: one["metadata"]["resourceVersion"] for one in stores},
        "nodes": {node: last_writes(fleet, node) for node in fleet.nodes},
        "events": sum(len(fleet.events(node)) for node in fleet.nodes),
    }


def last_writes(fleet: Fleet, node: str) -> list[tuple[str, str]]:
    """Say when the agent last changed labels and condition."""
    seen = fleet.get("node", node, "--show-managed-fields")
    fields = seen["metadata"]["managedFields"]
    mine = [one for one in fields if one["manager"] == names.FIELD_MANAGER]
    return sorted((one.get("subresource", ""), one["time"]) for one in mine)


@pytest.fixture(scope="module")
def overlaid(fleet: Fleet) -> Iterator[Fleet]:
    """Let tests install overlays; who comes after them installs the base anew."""
    yield fleet
    fleet.remove()


@pytest.fixture
def tainted(overlaid: Fleet) -> Iterator[None]:
    """Make the new node register with our taint, and another."""
    file = overlaid.cluster.machine(NEW).disk / "var/lib/cluster/kubelet.yaml"
    before = file.read_text()
    taints = [{"key": names.TAINT, "effect": "NoSchedule"}, OTHER_TAINT]
    file.write_text(json.dumps({**json.loads(before), "registerWithTaints": taints}))
    yield
    file.write_text(before)
    overlaid.kubectl("taint", "node", NEW, "test/other-")


def test_a_node_that_registers_with_the_taint_loses_it_once_it_is_ready(
    overlaid: Fleet, tainted: None
) -> None:
    fleet = overlaid
    fleet.apply("overlays/startup-taint")
    fleet.until_rolled_out()
    old = fleet.node(NEW)["metadata"]["uid"]
    with fleet.watching() as seen:
        fleet.replace_node(NEW)
        fleet.until_ready(fleet.first, NEW)
        fleet.until("rid of the taint: the node", lambda: taints(fleet.node(NEW)) == {"test/other"})
    assert is_owned(fleet, NEW)
    mine = [one.object for one in seen.versions if one.name == NEW]
    mine = [one for one in mine if one["metadata"]["uid"] != old]
    assert names.TAINT in taints(mine[0])
    assert not is_ready(mine[0])
    assert all(is_ready(one) for one in mine if names.TAINT not in taints(one))
    assert all("test/other" in taints(one) for one in mine)
    held = [names.TAINT in taints(one) for one in mine]
    assert held == sorted(held, reverse=True)  # once off, it never comes back


def taints(node: Mapping[str, Any]) -> set[str]:
    """List a Node's taints, but those by which Kubernetes itself tells of nodes."""
    keys = {one["key"] for one in node["spec"].get("taints", ())}
    return {key for key in keys if not key.startswith("node.kubernetes.io/")}


def is_ready(node: dict[str, Any]) -> bool:
    return condition(node).get("status") == "True"


@pytest.fixture
def example(overlaid: Fleet, tmp_path: Path) -> Iterator[Path]:
    """Give the example with an image that is there, and the passwords that it asks for."""
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(EXAMPLE, tmp_path)],
        "images": [{"name": "registry.example/nodeagent", "newName": "localhost/nodeagent"}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    secret = ("secret", "nodeagent-netrc", "-n", NAMESPACE)
    overlaid.kubectl("create", "secret", "generic", *secret[1:], "--from-literal=netrc=")
    yield tmp_path
    overlaid.kubectl("delete", *secret)


def test_the_example_runs_and_refuses_what_its_keys_did_not_sign(
    overlaid: Fleet, example: Path
) -> None:
    overlaid.apply(example)
    overlaid.until_rolled_out()
    for node in overlaid.nodes:
        overlaid.until_problem(node, Reason.SIGNATURE_INVALID)
        assert overlaid.is_ready(node, overlaid.first)


def test_with_read_only_root_the_store_lies_below_var_and_pods_find_it_at_nix_store(
    overlaid: Fleet, users: Users
) -> None:
    fleet = overlaid
    fleet.remove()
    fleet.install("overlays/read-only-root")
    fleet.bring(fleet.first)
    for node in fleet.nodes:
        assert (
            fleet.path("part1")
            in fleet.cluster.sh(
                node, ["ls", "-d", f"/var/lib/nodeagent{fleet.path('part1')}"]
            ).stdout
        )
        assert fleet.cluster.sh(node, ["ls", "/nix"]).stdout == ""
    users.pod("user", "node1")
    users.until_running("user")
    assert "hello 1 from /nix/store/" in users.hello("user")
