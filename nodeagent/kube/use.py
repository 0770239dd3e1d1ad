"""Which pods of a node live from what nodeagent made there: a decision about their objects.

A pod does if it asks for a node with one of our labels, required or preferred, or mounts a
directory of ours, whatever its mount is called. Our own agents mount them, too, and do not count:
they are what the DaemonSets in our own namespace make, and nobody else has anything there.
"""

import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from nodeagent.names import LABEL_PROFILE_PREFIX, LABEL_READY

NAMESPACE: Final = "nodeagent-system"
_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_LABELS: Final = (LABEL_READY, LABEL_PROFILE_PREFIX)

Pod = Mapping[str, Any]


def own_namespace(file: Path = _ACCOUNT) -> str:
    """Name the namespace that this runs in; outside a pod, the one that the manifests have."""
    try:
        return file.read_text().strip()
    except OSError:
        return NAMESPACE


def users(pods: Iterable[Pod], directories: Sequence[str], namespace: str) -> list[str]:
    """Name the pods (`namespace/name`) that live from these directories of the host, or labels."""
    return sorted(_name(pod) for pod in pods if _is_user(pod, directories, namespace))


def containers(
    pods: Iterable[Pod], directories: Sequence[str], namespace: str
) -> list[tuple[str, datetime | None]]:
    """List the containers of such pods (`namespace/pod/container`), each with its start.

    None for one that has not started, as far as the API server has heard; those that ended are
    left out.
    """
    return [
        (f"{_name(pod)}/{name}", started)
        for pod in pods
        if _is_user(pod, directories, namespace)
        for name, started in _containers(pod)
    ]


def _containers(pod: Pod) -> Iterator[tuple[str, datetime | None]]:
    for kind in ("initContainer", "container", "ephemeralContainer"):
        told = {one["name"]: one for one in pod.get("status", {}).get(f"{kind}Statuses", ())}
        for container in pod["spec"].get(f"{kind}s", ()):
            state = told.get(container["name"], {}).get("state", {})
            if "running" in state:
                yield container["name"], datetime.fromisoformat(state["running"]["startedAt"])
            elif "terminated" not in state:
                yield container["name"], None


def _name(pod: Pod) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def _is_user(pod: Pod, directories: Sequence[str], namespace: str) -> bool:
    return _uses(pod["spec"], directories) and not _is_ours(pod["metadata"], namespace)


def _uses(spec: Mapping[str, Any], directories: Sequence[str]) -> bool:
    wanted = json.dumps([spec.get(key) for key in ("nodeSelector", "affinity")])
    if any(label in wanted for label in _LABELS):
        return True
    mounted = [one["hostPath"]["path"] for one in spec.get("volumes", ()) if "hostPath" in one]
    return any(_lies_in(path, directory) for path in mounted for directory in directories)


def _lies_in(path: str, directory: str) -> bool:
    path = posixpath.normpath(path)
    if path.startswith("/var/run/"):  # a link to /run on every Linux
        path = path.removeprefix("/var")
    return path == directory or path.startswith(f"{directory}/")


def _is_ours(metadata: Mapping[str, Any], namespace: str) -> bool:
    owners = {owner["kind"] for owner in metadata.get("ownerReferences", ())}
    return metadata["namespace"] == namespace and "DaemonSet" in owners
