"""nodeagent installed on the test cluster: manifests, a cache beside it, pins as a ConfigMap.

The installation is what a user does: `kubectl apply -k daemonset/base`, keys and settings as
ConfigMaps of their own, then pins. What a test breaks it breaks on a node or in the API.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from integration.closures import Closure
from integration.fleet_cache import CacheServer
from integration.fleet_look import AGENTS, NAMESPACE, Look, condition, ours
from integration.image import NAME
from integration.site import FLEET, SYSTEM, Site
from nodeagent import __version__, names, store
from tests.loops import finish

__all__ = ["AGENTS", "IMAGE", "NAMESPACE", "REPOSITORY", "Fleet", "condition", "ours"]

REPOSITORY: Final = Path(__file__).parents[1]
IMAGE: Final = f"localhost/nodeagent:{__version__}"  # the base's
HURRY_SECONDS: Final = 3.0


@dataclass
class Fleet(Look):
    """The agents of a cluster, and all that they live from; `first` is the release to leave."""

    site: Site
    settings: Mapping[str, str] = field(default_factory=dict)
    first: bytes = b""

    def __post_init__(self) -> None:
        self.cache = CacheServer(self.site.cache, self.cluster.lan.gateway)

    def install(self, overlay: str = "base") -> None:
        """Do what docs/operations.md says, and wait until every agent runs."""
        self.name_image()
        self.apply(overlay)
        self.configure()
        self.until_rolled_out()

    def is_installed(self) -> bool:
        return self.cluster.answers("daemonset/nodeagent", "-n", NAMESPACE)

    def name_image(self, *nodes: str) -> None:
        """Give the loaded image the name that the base has for it."""
        for node in nodes or self.nodes:
            self.cluster.sh(node, ["ctr", "-n", "k8s.io", "images", "tag", "--force", NAME, IMAGE])

    def unname_image(self, node: str) -> None:
        """Take that name away: a node without a registry cannot start an agent."""
        self.cluster.sh(node, ["ctr", "-n", "k8s.io", "images", "rm", IMAGE])

    def apply(self, overlay: str | Path = "base") -> str:
        """Apply the manifests; gives what kubectl said."""
        return self.kubectl("apply", "-k", str(REPOSITORY / "daemonset" / overlay))

    def configure(self) -> None:
        """Give the agents keys, the fleet's name, and the cache's address."""
        keys = [
            f"--from-file={kind}.pub={self.site.root}/keys/{kind}-1.pub"
            for kind in ("release", "cache")
        ]
        self.configmap("nodeagent-keys", *keys)
        settings = {
            "NODEAGENT_FLEET": FLEET,
            "NODEAGENT_CACHES": f"main={self.cache.url}",
            "NODEAGENT_RETRY_SECONDS": "0.5",
            "NODEAGENT_RETRY_MAX_SECONDS": "2",
            "NODEAGENT_CONNECT_SECONDS": "2",
            **self.settings,
        }
        self.configmap(
            "nodeagent-settings",
            *(f"--from-literal={name}={value}" for name, value in settings.items()),
        )

    def remove(self) -> None:
        """Take the installation and all its traces away, if there is one."""
        delete = ("delete", "--ignore-not-found", "--wait", "-k")
        self.cluster.kubectl(*delete, str(REPOSITORY / "daemonset/base"), check=False)
        for node in self.nodes:
            self.forget(node)
            self.wipe(node)

    def forget(self, node: str) -> None:
        """Take what an agent has written off a Node."""
        keys = [key for key in self.labels(node) if names.GROUP in key]
        without = json.dumps({"metadata": {"labels": dict.fromkeys(keys)}})
        self.kubectl("patch", "node", node, "--type=merge", "-p", without)
        gone = json.dumps(
            {"status": {"conditions": [{"type": names.CONDITION, "$patch": "delete"}]}}
        )
        self.kubectl("patch", "node", node, "--subresource=status", "-p", gone)

    def wipe(self, node: str) -> None:
        """Make a node one that never had an agent."""
        left = "/nix/* /var/lib/nodeagent /run/nodeagent/*"
        self.cluster.sh(node, ["sh", "-c", f"chmod -R u+w {left} 2>/dev/null; rm -rf {left}"])

    def wipe_disk(self, node: str) -> None:
        """Do the same to a node that is off."""
        disk = self.cluster.machine(node).disk
        for left in (*(disk / "nix").glob("*"), disk / "var/lib/nodeagent"):
            store.remove(left)

    def replace_node(self, node: str) -> None:
        """Put a new machine of the same name in a node's place; its agent starts from nothing."""
        self.cluster.stop(node)
        self.kubectl("delete", "node", node)
        self.wipe_disk(node)
        self.cluster.start(node)
        self.until("there: a new node", lambda: self.cluster.answers("node", node))

    def release(self, closure: Closure, profile: str = "ds") -> bytes:
        return finish(self.site.release(closure, profile))

    def promote(self, manifest: bytes, percent: int = 100) -> None:
        """Point the stable channel at a release, and give the agents the pins."""
        self.site.promote(manifest, percent)
        self.pin()

    def pin(self) -> None:
        """Hand the site's pins over as they are."""
        self.configmap("nodeagent-pins", f"--from-file=pins.json={self.site.pins}")

    def unpin(self) -> None:
        """Empty the pins."""
        self.kubectl("delete", "configmap", "nodeagent-pins", "-n", NAMESPACE, "--ignore-not-found")

    def deliver(self) -> None:
        """Make the kubelets bring the pins as they are now; returns when each agent has them."""
        found = self.kubectl(
            *("get", "configmap", "nodeagent-pins", "-n", NAMESPACE, "-o", "json"),
            "--ignore-not-found",
        )
        text = json.loads(found)["data"]["pins.json"] if found else ""
        hurried = 0.0

        def delivered() -> bool:
            nonlocal hurried
            if time.monotonic() - hurried > HURRY_SECONDS:
                self.hurry()
                hurried = time.monotonic()
            return all(self._delivered(node) == text for node in self.nodes)

        self.until("brought: the pins", delivered)

    def _delivered(self, node: str) -> str:
        """Read the pins in an agent's pod, as its kubelet has laid them there; empty without."""
        uid = self.agent_pod(node)["metadata"]["uid"]
        volume = f"/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~configmap/pins"
        return self.cluster.sh(node, ["cat", f"{volume}/pins.json"], check=False).stdout

    def bring(self, manifest: bytes) -> None:
        """Roll a release out to all nodes, and wait until they have it."""
        self.promote(manifest)
        self.deliver()
        self.until_ready(manifest)

    def hurry(self) -> None:
        """Make the kubelets look at ConfigMaps now: an annotation of a pod makes them sync it."""
        self.kubectl("annotate", "pods", *AGENTS, "--overwrite", f"test/now={time.time()}")

    def until_rolled_out(self) -> None:
        self.cluster.until_rolled_out("daemonset/nodeagent", namespace=NAMESPACE, seconds=180)

    def renew(self, node: str) -> None:
        """Delete an agent's pod; returns when its successor runs. It has told no event yet."""
        old = self.agent(node)
        self.kubectl("delete", "pod", old, "-n", NAMESPACE, "--wait=false")
        self.until(f"renewed: the agent of {node}", lambda: self._is_renewed(node, old))

    def _is_renewed(self, node: str, old: str) -> bool:
        pods = [pod for pod in self.agents() if pod["spec"].get("nodeName") == node]
        states = pods[0]["status"].get("containerStatuses", ()) if len(pods) == 1 else ()
        return any(one["ready"] for one in states) and pods[0]["metadata"]["name"] != old

    def signal(self, name: str, *nodes: str) -> Mapping[str, str]:
        """Send agents' processes a signal; gives what `until_anew` waits for.

        Not before they answer: until it has a handler, a container's first process has no ear.
        """
        agents = nodes or self.nodes
        self.until("answering: the agents", lambda: all(map(self.answers, agents)))
        before = {node: self.agent_container(node)["containerID"] for node in agents}
        for node, container in before.items():
            task = container.removeprefix("containerd://")
            self.cluster.sh(node, ["ctr", "-n", "k8s.io", "tasks", "kill", "--signal", name, task])
        return before

    def until_anew(self, before: Mapping[str, str]) -> None:
        """Wait until agents that got a signal were started anew."""

        def anew() -> bool:
            now = {node: self.agent_container(node) for node in before}
            return all(one["containerID"] != before[node] for node, one in now.items()) and all(
                map(self.answers, before)
            )

        self.until("started anew: the agents", anew)

    def path(self, part: str) -> str:
        """Give the store path of the first release whose name has this part."""
        [path] = [
            path for path in json.loads(self.first)["systems"][SYSTEM]["paths"] if part in path
        ]
        return str(path)

    def served(self) -> contextlib.AbstractContextManager[None]:
        """Serve the site's cache to the nodes."""
        return self.cache.served()

    def configmap(self, name: str, *sources: str) -> None:
        made = self.kubectl(
            *("create", "configmap", name, "-n", NAMESPACE, *sources),
            *("--dry-run=client", "-o", "yaml"),
        )
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=made)
