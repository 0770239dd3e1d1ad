"""What a fleet shows: Nodes, NodeStores, events, agents' pods, gates; and waiting for it."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from integration.cluster import Cluster
from integration.cluster.commands import ClusterError
from integration.fleet_watch import Watch
from nodeagent import names, release
from nodeagent.names import Reason

NAMESPACE: Final = "nodeagent-system"
AGENTS: Final = ("-n", NAMESPACE, "-l", "app.kubernetes.io/component=agent")
Tree = dict[str, Any]


@dataclass
class Look:
    """Looks at the agents of a cluster; does nothing to them."""

    cluster: Cluster

    @property
    def nodes(self) -> list[str]:
        return [node.name for node in self.cluster.nodes()]

    def node(self, name: str) -> Tree:
        return self.get("node", name)

    def labels(self, node: str) -> dict[str, str]:
        return dict(self.node(node)["metadata"]["labels"])

    def condition(self, node: str) -> dict[str, str]:
        """Give our condition, empty if there is none."""
        return condition(self.node(node))

    def store(self, node: str) -> Tree:
        """Give the NodeStore's status, empty if there is none."""
        found = self.kubectl("get", "nodestore", node, "-o", "json", "--ignore-not-found")
        return dict(json.loads(found).get("status", {})) if found else {}

    def is_ready(self, node: str, manifest: bytes | None = None) -> bool:
        """Tell whether a node says everywhere that it publishes a release, or any."""
        seen, told = self.node(node), self.store(node)
        published = told.get("published", {}).get("release")
        return (
            condition(seen).get("status") == "True"
            and bool(told.get("ready"))
            and names.LABEL_READY in ours(seen)
            and (manifest is None or published == release.digest_of(manifest))
        )

    def until_ready(self, manifest: bytes | None = None, *nodes: str) -> None:
        for node in nodes or self.nodes:
            self.until(f"ready: {node}", lambda node=node: self.is_ready(node, manifest))  # type: ignore[misc]

    def until_unready(self, node: str, reason: Reason) -> dict[str, str]:
        """Wait until the condition is False for a reason; give it."""
        self.until(
            f"unready for {reason}: {node}",
            lambda: self.condition(node).items() >= {"status": "False", "reason": reason}.items(),
        )
        return self.condition(node)

    def until_problem(self, node: str, reason: Reason) -> str:
        """Wait until the NodeStore tells a problem; give its message."""
        self.until(
            f"in trouble with {reason}: {node}",
            lambda: self.store(node).get("problem", {}).get("reason") == reason,
        )
        return str(self.store(node)["problem"]["message"])

    def until(self, what: str, test: Callable[[], bool], seconds: float = 180.0) -> None:
        self.cluster.until(what, test, seconds=seconds)

    def agents(self) -> list[Tree]:
        """List the agents' pods."""
        return list(self.get("pods", *AGENTS)["items"])

    def agent(self, node: str) -> str:
        """Name the agent's pod of a node."""
        return str(self.agent_pod(node)["metadata"]["name"])

    def agent_pod(self, node: str) -> Tree:
        """Give the agent's pod of a node, the one that stays; a ClusterError without."""
        for pod in self.agents():
            if pod["spec"].get("nodeName") == node and "deletionTimestamp" not in pod["metadata"]:
                return pod
        raise ClusterError(f"no agent on {node}")

    def agent_container(self, node: str) -> Tree:
        """Give the status of the agent's container."""
        [container] = self.agent_pod(node)["status"]["containerStatuses"]
        return dict(container)

    def answers(self, node: str) -> bool:
        """Tell whether the agent of a node answers its kubelet's probes."""
        statuses = self.agent_pod(node)["status"].get("containerStatuses", ())
        return any(one["ready"] for one in statuses)

    def address(self, node: str) -> str:
        """Say where a node's agent answers."""
        return f"http://{self.agent_pod(node)['status']['podIP']}:{names.DEFAULT_PORT}"

    def exec(self, node: str, *argv: str) -> str:
        """Run a command in a node's agent."""
        return self.kubectl("exec", "-n", NAMESPACE, self.agent(node), "--", *argv)

    def gate(self, node: str, profile: str = "ds") -> bool:
        """Tell whether pods on a node can mount a profile."""
        place = f"{names.RUN_DIR}/profiles/{profile}"
        return self.cluster.sh(node, ["test", "-d", f"{place}/"], check=False).returncode == 0

    def gates_changed(self, node: str) -> float:
        """Give the unix time of the last change of a node's gates."""
        place = f"{names.RUN_DIR}/profiles"
        return float(self.cluster.sh(node, ["stat", "--format=%.Y", place]).stdout)

    def events(self, node: str, reason: str | None = None) -> list[str]:
        """List what agents' events about a node, or those with a reason, say."""
        about = f"involvedObject.name={node},involvedObject.kind=Node"
        found = self.get("events", "-n", "default", "--field-selector", about)["items"]
        mine = [one for one in found if one["source"].get("component") == names.FIELD_MANAGER]
        return [one["message"] for one in mine if reason in {None, one["reason"]}]

    def get(self, *what: str) -> Tree:
        return dict(json.loads(self.kubectl("get", *what, "-o", "json")))

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl(*args, stdin=stdin).stdout

    def watching(self, path: str = "/api/v1/nodes") -> contextlib.AbstractContextManager[Watch]:
        """See every version of the nodes, or other objects, from now on."""
        return Watch(self.cluster, path).running()


def condition(node: Tree) -> dict[str, str]:
    """Give our condition of a Node, empty if there is none."""
    conditions = node["status"].get("conditions", ())
    return next((one for one in conditions if one["type"] == names.CONDITION), {})


def ours(node: Tree) -> set[str]:
    """List the labels of ours that a Node has."""
    return {
        key
        for key in node["metadata"]["labels"]
        if key == names.LABEL_READY or key.startswith(names.LABEL_PROFILE_PREFIX)
    }
