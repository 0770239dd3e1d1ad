"""Pods that live from a node's store: they require its labels and mount its gates."""

import json
from dataclasses import dataclass
from typing import Any, Final

from integration.fleet import Fleet, ours
from integration.fleet_watch import Watch
from nodeagent import names

NAMESPACE: Final = "fleet-users"
LABELS: Final = {names.LABEL_READY: "true", f"{names.LABEL_PROFILE_PREFIX}ds": "true"}
HELLO: Final = f"{names.POD_PROFILES_DIR}/ds/bin/hello"
Tree = dict[str, Any]


@dataclass(frozen=True)
class Users:
    """The pods of one namespace."""

    fleet: Fleet

    @property
    def path(self) -> str:
        """Where the API has them."""
        return f"/api/v1/namespaces/{NAMESPACE}/pods"

    def make(self) -> None:
        """Make the namespace, empty."""
        self.remove()
        self.fleet.kubectl("create", "namespace", NAMESPACE)
        account = ("serviceaccount", "default", "-n", NAMESPACE)
        self.fleet.until("there: an account", lambda: self.fleet.cluster.answers(*account))

    def remove(self) -> None:
        self.fleet.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")

    def clear(self) -> None:
        self.fleet.kubectl("delete", "deployments,pods", "--all", "-n", NAMESPACE, "--now")

    def pod(self, name: str, node: str, **changes: object) -> None:
        """Make a pod that runs for ever on a node; `changes` are fields of its spec."""
        self._apply("v1", "Pod", name, {**spec(node), **changes})

    def deployment(self, name: str, node: str) -> None:
        """Make a Deployment of one such pod."""
        labels = {"app": name}
        self._apply(
            *("apps/v1", "Deployment", name),
            {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec(node)},
            },
        )

    def delete(self, name: str) -> None:
        self.fleet.kubectl("delete", "pod", name, "-n", NAMESPACE, "--now")

    def kill(self, name: str) -> None:
        """End a pod's only container, as a crash does; its kubelet starts it anew."""
        pod = self.get(name)
        [container] = pod["status"]["containerStatuses"]
        task = container["containerID"].removeprefix("containerd://")
        kill = ["ctr", "-n", "k8s.io", "tasks", "kill", "--signal", "KILL", task]
        self.fleet.cluster.sh(pod["spec"]["nodeName"], kill)

    def get(self, name: str) -> Tree:
        return self.fleet.get("pod", name, "-n", NAMESPACE)

    def list(self) -> list[Tree]:
        return list(self.fleet.get("pods", "-n", NAMESPACE)["items"])

    def phase(self, name: str) -> str:
        return str(self.get(name)["status"]["phase"])

    def until_running(self, name: str) -> None:
        self.fleet.until(f"running: {name}", lambda: runs(self.get(name)))

    def until_all_run(self) -> None:
        self.fleet.until("running: all", lambda: all(map(runs, self.list())))

    def events(self, name: str) -> str:
        """Give what events about a pod say."""
        about = f"involvedObject.name={name}"
        return self.fleet.kubectl("get", "events", "-n", NAMESPACE, "--field-selector", about)

    def hello(self, name: str) -> str:
        """Run the program of the profile that the pod mounts."""
        return self.fleet.kubectl("exec", "-n", NAMESPACE, name, "--", HELLO)

    def apply(self, made: Tree) -> None:
        """Make an object in the namespace."""
        self.fleet.kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=json.dumps(made))

    def _apply(self, version: str, kind: str, name: str, spec: Tree) -> None:
        self.apply({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec})


def spec(node: str) -> Tree:
    """Describe a pod that wants a node's store as examples/pod.yaml does."""
    gates = {
        "store": (f"{names.RUN_DIR}/store", names.STORE_DIR),
        "ds": (f"{names.RUN_DIR}/profiles/ds", f"{names.POD_PROFILES_DIR}/ds"),
    }
    return {
        "nodeSelector": {**LABELS, "kubernetes.io/hostname": node},
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": "user",
                "image": "localhost/base:1",
                "command": ["sh", "-c", f"{HELLO} && exec sleep infinity"],
                "volumeMounts": [
                    {"name": name, "mountPath": at, "readOnly": True}
                    for name, (_, at) in gates.items()
                ],
            }
        ],
        "volumes": [
            {"name": name, "hostPath": {"path": path, "type": "Directory"}}
            for name, (path, _) in gates.items()
        ],
    }


def runs(pod: Tree) -> bool:
    """Tell whether a pod's only container runs."""
    containers = pod["status"].get("containerStatuses", ())
    return bool(containers) and "running" in containers[0]["state"]


def life(pod: Tree) -> tuple[str, str, str]:
    """Tell a pod, and its container, from those that would take their places."""
    [container] = pod["status"]["containerStatuses"]
    return pod["metadata"]["uid"], pod["status"]["phase"], container["containerID"]


def unlabelled(seen: Watch) -> list[tuple[str, str]]:
    """List the versions of Nodes in which a label was missing."""
    return [
        (one.name, one.object["metadata"]["resourceVersion"])
        for one in seen.versions
        if ours(one.object) != LABELS.keys()
    ]
