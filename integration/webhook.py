"""The controller installed beside the agents, and a namespace whose pods it injects."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from integration.cluster.network import CONTROL_PLANE
from integration.fleet import NAMESPACE, REPOSITORY, Fleet
from nodeagent import names

USERS: Final = "webhook-users"
CONTROLLER: Final = "deployment/nodeagent-controller"
POLICY: Final[Mapping[str, Any]] = {
    "apiVersion": names.API_VERSION,
    "kind": "Policy",
    "profiles": {"ds": {"namespaces": ["*"], "environment": {"GREETED": "by-policy"}}},
    "assumePrivileged": True,
    "minFraction": 0.3,
}
TABLE: Final = "blackhole"
RULES: Final = f"""
table ip {TABLE} {{
    chain output {{
        type filter hook output priority 0;
        tcp dport {names.WEBHOOK_PORT} drop
    }}
}}
"""
HELLO: Final = f"{names.POD_PROFILES_DIR}/ds/bin/hello"
Tree = dict[str, Any]


@dataclass
class Webhook:
    """The webhook of a cluster; `policy` is what it has been told."""

    fleet: Fleet
    policy: Mapping[str, Any] = field(default_factory=lambda: POLICY)

    def install(self) -> None:
        """Do what docs/operations.md says, and wait until pods are injected."""
        self.fleet.name_image()
        self.fleet.apply("controller")
        self.tell(self.policy)
        self.fleet.cluster.until_rolled_out(CONTROLLER, namespace=NAMESPACE, seconds=180)
        self.namespace(USERS)
        self.until_injecting()

    def until_injecting(self) -> None:
        self.fleet.until("injected: a pod", lambda: is_injected(self.dry(pod())))

    def tell(self, policy: Mapping[str, Any]) -> None:
        """Give the controller a policy; it hears of it a moment later."""
        text = json.dumps(policy)
        self.fleet.configmap("nodeagent-policy", f"--from-literal=policy.json={text}")

    def namespace(self, name: str, inject: str = "true") -> None:
        """Make a namespace, empty, with or without the label."""
        self.fleet.kubectl("delete", "namespace", name, "--ignore-not-found")
        made = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {names.LABEL_INJECT: inject} if inject else {}},
        }
        self.fleet.kubectl("apply", "-f", "-", stdin=json.dumps(made))
        account = ("serviceaccount", "default", "-n", name)
        self.fleet.until("there: an account", lambda: self.fleet.cluster.answers(*account))

    def uninstall(self) -> None:
        """Do what docs/operations.md says."""
        delete = ("delete", "--ignore-not-found", "--wait")
        self.fleet.kubectl(*delete, "-k", str(REPOSITORY / "daemonset/controller"))
        self.fleet.kubectl(*delete, "configmap", "nodeagent-policy", "-n", NAMESPACE)

    def remove(self) -> None:
        """Take it away again, if it is there, and all that was made for it."""
        self.uninstall()
        self.fleet.kubectl("delete", "namespace", USERS, "--ignore-not-found")

    def dry(self, made: Tree, namespace: str = USERS) -> Tree:
        """Create a pod without effect; gives what would come of it."""
        create = ("create", "--dry-run=server", "-o", "json", "-n", namespace, "-f", "-")
        return dict(json.loads(self.fleet.kubectl(*create, stdin=json.dumps(made))))

    def create(self, made: Tree, namespace: str = USERS) -> str:
        """Create an object; gives what kubectl said, warnings included."""
        done = self.fleet.cluster.kubectl(
            *("create", "-n", namespace, "-f", "-"), stdin=json.dumps(made)
        )
        return done.stdout + done.stderr

    def clear(self) -> None:
        kinds = "deployments,statefulsets,daemonsets,cronjobs,jobs,pods"
        self.fleet.kubectl("delete", kinds, "--all", "-n", USERS, "--now")

    def pods(self, namespace: str = USERS) -> list[Tree]:
        return list(self.fleet.get("pods", "-n", namespace)["items"])

    def phase(self, name: str) -> str:
        return str(self.fleet.get("pod", name, "-n", USERS)["status"]["phase"])

    @contextlib.contextmanager
    def blackholed(self) -> Iterator[None]:
        """Let what the API server sends to the controllers vanish for a while."""
        cluster = self.fleet.cluster
        cluster.sh(CONTROL_PLANE, ["nft", "-f", "-"], stdin=RULES)
        try:
            yield
        finally:
            cluster.sh(CONTROL_PLANE, ["nft", "delete", "table", "ip", TABLE])

    def controllers(self) -> list[Tree]:
        """List the controller's own pods."""
        label = "app.kubernetes.io/component=controller"
        return list(self.fleet.get("pods", "-n", NAMESPACE, "-l", label)["items"])


def pod(
    name: str = "user",
    command: Sequence[str] = (HELLO,),
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    **spec: object,
) -> Tree:
    """Describe a pod that asks for the profile `ds` and mentions no mount."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": dict(labels or {}),
            "annotations": {names.ANNOTATION_PROFILES: "ds", **(annotations or {})},
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "user", "image": "localhost/base:1", "command": list(command)}],
            **spec,
        },
    }


def template(name: str, command: Sequence[str], **spec: object) -> Tree:
    """Describe such a pod as a controller's template."""
    made = pod(name, command, labels={"app": name})
    del made["metadata"]["name"]
    return {"metadata": made["metadata"], "spec": made["spec"] | spec}


def is_injected(made: Tree) -> bool:
    """Tell whether a pod has our volumes and our annotation."""
    volumes = {one["name"] for one in made["spec"].get("volumes", ())}
    annotations = made["metadata"].get("annotations", {})
    return names.VOLUME_STORE in volumes and names.ANNOTATION_INJECTED in annotations


def skipped(made: Tree) -> str:
    """Give the reason for which a pod was left alone; empty without."""
    return str(made["metadata"].get("annotations", {}).get(names.ANNOTATION_SKIPPED, ""))
