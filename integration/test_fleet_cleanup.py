"""Uninstalling as docs/operations.md says: refused while pods live from it, then without a trace.

What is left unsaid by commands is looked for: on the Node, among the API's objects, on the disk.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import urllib3

from integration.fleet import NAMESPACE, REPOSITORY, Fleet, ours
from integration.fleet_users import LABELS, Users, life
from nodeagent import names
from nodeagent.names import Metric, Reason

NODE: Final = "node1"  # the one with a pod
TAINTED: Final = "node2"
SECONDS: Final = 180.0
LONG: Final = pytest.mark.timeout(2 * SECONDS, func_only=True)
CLEANUPS: Final = ("-n", NAMESPACE, "-l", "app.kubernetes.io/component=cleanup")
MARK: Final = "/nix/var/nodeagent"
LOOK: Final = (
    "find /nix /run /var/lib ( -path /var/lib/containerd -o -path /run/containerd"
    " -o -path /var/lib/kubelet ) -prune -o -name *nodeagent* -print"
)
Tree = dict[str, Any]


@pytest.fixture(scope="module")
def leaving(fleet: Fleet) -> Iterator[Fleet]:
    """Give a fleet that tests may take away; whoever comes after them finds none or a whole one."""
    yield fleet
    fleet.kubectl("delete", "-k", manifests("cleanup"), "--ignore-not-found")
    if not fleet.is_installed():
        fleet.remove()


def manifests(which: str) -> str:
    return str(REPOSITORY / "daemonset" / which)


def end_agents(fleet: Fleet) -> None:
    fleet.kubectl("delete", "daemonset", "nodeagent", "-n", NAMESPACE)


def until_clean(fleet: Fleet) -> None:
    fleet.cluster.until_rolled_out(
        "daemonset/nodeagent-cleanup", namespace=NAMESPACE, seconds=SECONDS
    )


def reinstall(fleet: Fleet) -> None:
    fleet.install()
    fleet.bring(fleet.first)


def refusals(fleet: Fleet) -> dict[str, str]:
    """Give by node what a cleanup that failed last said, as `kubectl describe pod` shows it."""
    told = {}
    for pod in fleet.get("pods", *CLEANUPS)["items"]:
        for status in pod["status"].get("initContainerStatuses", ()):
            for state in (status.get("state", {}), status.get("lastState", {})):
                ended = state.get("terminated", {})
                if ended.get("exitCode", 0) != 0:
                    told[pod["spec"]["nodeName"]] = str(ended.get("message", ""))
    return told


def is_clean(fleet: Fleet, node: str) -> bool:
    """Tell whether a node's cleanup is done."""
    pods = fleet.get("pods", *CLEANUPS)["items"]
    conditions = [
        (one["type"], one["status"])
        for pod in pods
        if pod["spec"].get("nodeName") == node
        for one in pod["status"].get("conditions", ())
    ]
    return ("Ready", "True") in conditions


def in_cluster(fleet: Fleet, node: str) -> list[str]:
    """List where a Node still speaks of nodeagent."""
    seen = fleet.get("node", node, "--show-managed-fields")
    metadata, told = seen["metadata"], seen["status"]["conditions"]
    texts = {
        "labels": metadata["labels"],
        "annotations": metadata["annotations"],
        "fields": [one["manager"] for one in metadata["managedFields"]],
        "conditions": [one["type"] for one in told],
        "taints": seen["spec"].get("taints", ()),
    }
    return [where for where, what in texts.items() if "nodeagent" in json.dumps(what)]


def on_disk(fleet: Fleet, node: str) -> set[str]:
    """List the files of a node that are named after nodeagent, outermost only."""
    found = fleet.cluster.sh(node, LOOK.split()).stdout.split()
    return {one for one in found if not any(str(up) in found for up in Path(one).parents)}


def pours(fleet: Fleet, node: str) -> float:
    """Say how many paths the agent of a node has brought."""
    text = urllib3.request("GET", f"{fleet.address(node)}/metrics", timeout=10).data.decode()
    line = next(one for one in text.splitlines() if one.startswith(f"{Metric.PATHS_POURED} "))
    return float(line.split()[1])


def others(node: Tree) -> tuple[Tree, list[str]]:
    """Give what a Node has of others: labels, and the types of its conditions."""
    labels = {key: one for key, one in node["metadata"]["labels"].items() if key not in ours(node)}
    types = [one["type"] for one in node["status"]["conditions"]]
    return labels, [one for one in types if one != names.CONDITION]


@LONG
def test_pods_hold_it_up_and_after_them_no_trace_is_left_but_the_store_for_the_next_agent(
    leaving: Fleet, users: Users
) -> None:
    fleet, before = leaving, {node: others(leaving.node(node)) for node in leaving.nodes}
    users.pod("user", NODE)
    users.until_running("user")
    end_agents(fleet)
    fleet.kubectl("taint", "node", TAINTED, f"{names.TAINT}=:NoSchedule")
    fleet.kubectl("apply", "-k", manifests("cleanup"))
    fleet.until("refused: the cleanup", lambda: NODE in refusals(fleet), SECONDS)
    assert refusals(fleet).keys() == {NODE}
    assert f"{Reason.IN_USE}: 1 pod uses what nodeagent made" in refusals(fleet)[NODE]
    assert "fleet-users/user" in refusals(fleet)[NODE]
    for node in set(fleet.nodes) - {NODE}:
        fleet.until(f"clean: {node}", lambda node=node: is_clean(fleet, node), SECONDS)  # type: ignore[misc]
    assert fleet.is_ready(NODE, fleet.first)
    assert ours(fleet.node(NODE)) == LABELS.keys()
    assert fleet.gate(NODE)
    assert "hello 1" in users.hello("user")

    users.delete("user")
    until_clean(fleet)
    assert fleet.get("nodestores")["items"] == []
    for node in fleet.nodes:
        assert in_cluster(fleet, node) == []
        assert others(fleet.node(node)) == before[node]
        assert on_disk(fleet, node) == {MARK}
        assert fleet.cluster.sh(node, ["ls", MARK]).stdout.split() == ["owner"]
    fleet.kubectl("delete", "-k", manifests("cleanup"))
    fleet.kubectl("delete", "--ignore-not-found", "-k", manifests("base"))  # one is gone already
    assert not fleet.cluster.answers("namespace", NAMESPACE)

    reinstall(fleet)
    assert [pours(fleet, node) for node in fleet.nodes] == [0.0] * len(fleet.nodes)


@LONG
def test_with_force_a_pod_lives_on_and_with_store_all_of_it_goes(
    leaving: Fleet, users: Users
) -> None:
    fleet = leaving
    users.pod("user", NODE)
    users.until_running("user")
    before = life(users.get("user"))
    end_agents(fleet)
    fleet.kubectl("apply", "-k", manifests("cleanup/force"))
    until_clean(fleet)
    assert in_cluster(fleet, NODE) == []
    assert on_disk(fleet, NODE) == {MARK, names.RUN_DIR}
    assert not fleet.gate(NODE)
    assert "hello 1" in users.hello("user")
    assert life(users.get("user")) == before

    users.delete("user")
    fleet.kubectl("delete", "-k", manifests("cleanup/force"))
    fleet.kubectl("apply", "-k", manifests("cleanup/store"))
    until_clean(fleet)
    for node in fleet.nodes:
        assert in_cluster(fleet, node) == []
        assert on_disk(fleet, node) == set()
        assert fleet.cluster.sh(node, ["ls", "-A", "/nix"]).stdout == ""
    fleet.kubectl("delete", "-k", manifests("cleanup/store"))
    reinstall(fleet)
    assert pours(fleet, NODE) > 0
