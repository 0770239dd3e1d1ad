"""nodeagent installed on the test cluster: manifests, a cache beside it, pins as a ConfigMap.

The installation is what a user does: `kubectl apply -k daemonset/base`, keys and settings as
ConfigMaps of their own, then pins. What a test breaks it breaks on a node or in the API.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from integration.closures import Closure
from integration.cluster import Cluster
from integration.image import NAME
from integration.site import FLEET, Site
from nodeagent import __version__, names, release

REPOSITORY: Final = Path(__file__).parents[1]
NAMESPACE: Final = "nodeagent-system"
IMAGE: Final = f"docker.io/library/nodeagent:{__version__}"  # as the base's name is read
CACHE_PORT: Final = 18080
PODS_WAIT: Final = 60.0


@dataclass
class Fleet:
    """The agents of a cluster, and all that they live from."""

    cluster: Cluster
    site: Site
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def nodes(self) -> list[str]:
        return [node.name for node in self.cluster.nodes()]

    def install(self, overlay: str = "base") -> None:
        """Do what docs/operations.md says, and wait until every agent runs."""
        for node in self.nodes:
            self.cluster.sh(node, ["ctr", "-n", "k8s.io", "images", "tag", "--force", NAME, IMAGE])
        self.apply(overlay)
        self.configure()
        self.until_rolled_out()

    def apply(self, overlay: str = "base") -> str:
        """Apply the manifests; gives what kubectl said."""
        return self.kubectl("apply", "-k", str(REPOSITORY / "daemonset" / overlay))

    def configure(self) -> None:
        """Give the agents keys, the fleet's name, and the cache's address."""
        keys = [
            f"--from-file={kind}.pub={self.site.root}/keys/{kind}-1.pub"
            for kind in ("release", "cache")
        ]
        self._configmap("nodeagent-keys", *keys)
        settings = {
            "NODEAGENT_FLEET": FLEET,
            "NODEAGENT_CACHES": f"main={self.cache_url}",
            "NODEAGENT_RETRY_SECONDS": "0.5",
            "NODEAGENT_RETRY_MAX_SECONDS": "2",
            "NODEAGENT_CONNECT_SECONDS": "2",
            **self.settings,
        }
        self._configmap(
            "nodeagent-settings",
            *(f"--from-literal={name}={value}" for name, value in settings.items()),
        )

    def remove(self) -> None:
        """Take the installation and all its traces on API and nodes away."""
        for overlay in ("overlays/read-only-root", "base"):
            self.cluster.kubectl(
                *("delete", "-k", str(REPOSITORY / "daemonset" / overlay)),
                *("--ignore-not-found", "--wait"),
                check=False,
            )
        for node in self.nodes:
            keys = [key for key in self.labels(node) if "nodeagent.dev/" in key]
            self.kubectl("label", "node", node, *(f"{key}-" for key in keys))
            self.wipe(node)

    def wipe(self, node: str) -> None:
        """Make a node one that never had an agent."""
        script = (
            "chmod -R u+w /nix/* /var/lib/nodeagent 2>/dev/null; "
            "rm -rf /nix/* /var/lib/nodeagent /run/nodeagent/*"
        )
        self.cluster.sh(node, ["sh", "-c", script])

    def release(self, closure: Closure, profile: str = "ds") -> bytes:
        return asyncio.run(self.site.release(closure, profile))

    def promote(self, manifest: bytes, percent: int = 100) -> None:
        """Point the stable channel at a release, and give the agents the pins."""
        self.site.promote(manifest, percent)
        self.pin()

    def pin(self) -> None:
        """Hand the site's pins over as they are."""
        self._configmap("nodeagent-pins", f"--from-file=pins.json={self.site.pins}")

    def unpin(self) -> None:
        """Empty the pins."""
        self.kubectl("delete", "configmap", "nodeagent-pins", "-n", NAMESPACE, "--ignore-not-found")

    def hurry(self) -> None:
        """Make the kubelets look at ConfigMaps now: an annotation of a pod makes them sync it."""
        self.kubectl(
            *("annotate", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=nodeagent"),
            *("--overwrite", f"test/now={time.time()}"),
        )

    def node(self, name: str) -> dict[str, Any]:
        return self.get("node", name)

    def labels(self, node: str) -> dict[str, str]:
        return dict(self.node(node)["metadata"]["labels"])

    def ours(self, node: str) -> set[str]:
        """List the labels of ours that a node has."""
        return {
            key
            for key in self.labels(node)
            if key.endswith("nodeagent.dev/ready") or key.startswith(names.LABEL_PROFILE_PREFIX)
        }

    def condition(self, node: str) -> dict[str, str]:
        """Give our condition, empty if there is none."""
        conditions = self.node(node)["status"]["conditions"]
        return next((one for one in conditions if one["type"] == names.CONDITION), {})

    def store(self, node: str) -> dict[str, Any]:
        """Give the NodeStore's status, empty if there is none."""
        found = self.kubectl("get", "nodestore", node, "-o", "json", "--ignore-not-found")
        return dict(json.loads(found).get("status", {})) if found else {}

    def is_ready(self, node: str, manifest: bytes | None = None) -> bool:
        """Tell whether a node says everywhere that it publishes a release, or any."""
        published = self.store(node).get("published", {}).get("release")
        return (
            self.condition(node).get("status") == "True"
            and names.LABEL_READY in self.labels(node)
            and (manifest is None or published == release.digest_of(manifest))
        )

    def until_ready(self, manifest: bytes | None = None, *nodes: str) -> None:
        for node in nodes or self.nodes:
            self.until(f"ready: {node}", lambda node=node: self.is_ready(node, manifest))  # type: ignore[misc]

    def until_rolled_out(self) -> None:
        self.cluster.until_rolled_out("daemonset/nodeagent", namespace=NAMESPACE, seconds=180)

    def until(self, what: str, test: Callable[[], bool], seconds: float = 120.0) -> None:
        self.cluster.until(what, test, seconds=seconds)

    def agent(self, node: str) -> str:
        """Name the agent's pod of a node."""
        pods = self.get(
            *("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=agent"),
            *("--field-selector", f"spec.nodeName={node}"),
        )
        return str(pods["items"][0]["metadata"]["name"])

    def logs(self, node: str) -> str:
        return self.kubectl("logs", "-n", NAMESPACE, self.agent(node), "--tail=-1")

    def events(self, node: str, reason: str) -> list[dict[str, Any]]:
        """List the events about a node with this reason."""
        found = self.get(
            *("events", "-n", "default", "--field-selector"),
            f"involvedObject.name={node},involvedObject.kind=Node,reason={reason}",
        )
        return list(found["items"])

    def get(self, *what: str) -> dict[str, Any]:
        return dict(json.loads(self.kubectl("get", *what, "-o", "json")))

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl(*args, stdin=stdin).stdout

    @property
    def cache_url(self) -> str:
        return f"http://{self.cluster.lan.gateway}:{CACHE_PORT}"

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Serve the site's cache to the nodes."""
        self.site.cache.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "nodeagent", "serve", str(self.site.cache)]
        argv += ["--host", self.cluster.lan.gateway, "--port", str(CACHE_PORT)]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                yield
            finally:
                server.terminate()

    def _configmap(self, name: str, *sources: str) -> None:
        made = self.kubectl(
            *("create", "configmap", name, "-n", NAMESPACE, *sources),
            *("--dry-run=client", "-o", "yaml"),
        )
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=made)
