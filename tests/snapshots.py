"""What the tests of the fleet snapshot share: objects, and a snapshot that runs."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

from nodeagent import kube
from nodeagent.fleet import Snapshot
from nodeagent.kube.watch import Times
from nodeagent.names import CONDITION, NODE_STORE_VERSION
from tests.kube_server import MERGE, Server

NODES: Final = "/api/v1/nodes"
NAMESPACES: Final = "/api/v1/namespaces"
STORES: Final = f"/apis/{NODE_STORE_VERSION}/nodestores"
QUICK: Final = Times(silence=60, fresh=0, retry=0.02, retry_max=0.1)  # each resumption lists
RESUMING: Final = Times(silence=60, fresh=60, retry=0.02, retry_max=0.1)
AT: Final = "2026-06-01T12:00:00Z"
TOLD: Final = 1780315200.0  # the same in unix seconds
AGENT: Final = {"app.kubernetes.io/name": "nodeagent", "app.kubernetes.io/component": "agent"}
NO_NODE: Final = (
    "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. "
    "preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
)
REFUSAL: Final = (
    'Error creating: pods "web-7f6c-x2x4q" is forbidden: violates PodSecurity "baseline:latest": '
    'hostPath volumes (volume "nodeagent-store")'
)
WAIT_SECONDS: Final = 60.0


def fresh(start: str) -> str:
    """Make a name that nobody has."""
    return f"{start}-{uuid.uuid4().hex[:8]}"


def condition(kind: str, status: str = "True") -> dict[str, str]:
    at = {"lastHeartbeatTime": AT, "lastTransitionTime": AT}
    return {"type": kind, "status": status, "reason": "Fine", "message": "it is", **at}


def node(name: str, **spec: Any) -> dict[str, Any]:  # noqa: ANN401 any JSON
    labels = {"zone": "b", "nodeagent.dev/ready": "true"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    }


def healthy(ours: str = "True") -> dict[str, Any]:
    return {"status": {"conditions": [condition("Ready"), condition(CONDITION, ours)]}}


def store(name: str, owner_uid: str) -> dict[str, Any]:
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": owner_uid}
    return {
        "apiVersion": NODE_STORE_VERSION,
        "kind": "NodeStore",
        "metadata": {"name": name, "ownerReferences": [owner]},
    }


def publishing(*profiles: tuple[str, str, bool]) -> dict[str, Any]:
    told = [
        {"name": name, "kind": kind, "root": f"/nix/store/{'a' * 32}-{name}", "gate": gate}
        for name, kind, gate in profiles
    ]
    basics = {"ready": True, "phase": "Idle", "observedAt": AT}
    return {"status": {**basics, "profiles": told}}


def agent(name: str, node_name: str, labels: Mapping[str, str] = AGENT) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": dict(labels)},
        "spec": {"nodeName": node_name, "containers": [{"name": "a", "image": "a"}]},
    }


def pod_ready(status: str = "True") -> dict[str, Any]:
    return {"status": {"conditions": [{"type": "Ready", "status": status}]}}


def injected(name: str) -> dict[str, Any]:
    """Make a pod that admission has changed, as far as the snapshot looks at that."""
    labels = {"nodeagent.dev/ready": "true"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": {"nodeagent.dev/injected": "ds"}},
        "spec": {"nodeSelector": labels, "containers": [{"name": "a", "image": "a"}]},
    }


def unschedulable(seconds: float, message: str = NO_NODE) -> dict[str, Any]:
    """Make what the scheduler tells of a pod, for so many seconds now."""
    told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    return {
        "status": {
            "phase": "Pending",
            "conditions": [{**told, "lastTransitionTime": ago(seconds), "message": message}],
        }
    }


def failed_create(name: str, namespace: str, message: str, seconds: float = 0) -> dict[str, Any]:
    """Make what a controller tells when it could not create a pod."""
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "namespace": namespace}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name},
        "involvedObject": owner,
        "type": "Warning",
        "reason": "FailedCreate",
        "message": message,
        "firstTimestamp": ago(seconds),
        "lastTimestamp": ago(seconds),
        "source": {"component": "replicaset-controller"},
    }


def ago(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds))


def policy(text: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "nodeagent-policy"},
        "data": {"policy.json": text},
    }


async def make_node(server: Server, name: str) -> str:
    """Register a node that is Ready and says that its store is; give its uid."""
    made = await server.ask("POST", NODES, node(name))
    await server.ask("PATCH", f"{NODES}/{name}/status", healthy(), MERGE)
    uid: str = made["metadata"]["uid"]
    return uid


async def until(test: Callable[[], object], what: str = "") -> None:
    """Wait for a state of the snapshot; watched, not timed."""
    end = time.monotonic() + WAIT_SECONDS
    while not test():
        assert time.monotonic() < end, f"it did not come: {what}"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(snapshot: Snapshot) -> AsyncIterator[Snapshot]:
    """Run a snapshot; give it when it is whole."""
    task = asyncio.create_task(snapshot.run())
    try:
        await until(lambda: snapshot.whole or task.done(), "a whole snapshot")
        yield snapshot
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def watched(
    server: Server, namespace: str, times: Times = RESUMING
) -> AsyncIterator[Snapshot]:
    """Run a snapshot of what an API server has, agents and policy in this namespace."""
    async with (
        kube.connected(server.kubeconfig) as api,
        running(Snapshot(api, namespace, times=times)) as snapshot,
    ):
        yield snapshot
