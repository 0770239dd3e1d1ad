"""What the controller costs in a large cluster, on a real API server that somebody gives."""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import psutil
import urllib3

from nodeagent import kube, process
from nodeagent.bench.figures import Figure, figure
from nodeagent.bench.lab import NODEAGENT, TIMEOUT_SECONDS, free_port
from nodeagent.bench.room import Room
from nodeagent.errors import NodeAgentError
from nodeagent.fleet import POLICY_KEY, POLICY_NAME
from nodeagent.kube import Api
from nodeagent.names import (
    CONDITION,
    LABEL_PROFILE_PREFIX,
    LABEL_READY,
    NAMESPACE,
    NODE_STORE_VERSION,
    Reason,
)

NODES: Final = 1000
NAMESPACES: Final = 300
PODS: Final = 10_000  # of others
PROFILES: Final = 10
IMAGES: Final = 50  # that a node names: kubelets tell no more
AT_ONCE: Final = 16
HOLDING_SECONDS: Final = 20.0
_AT: Final = "2026-06-01T12:00:00Z"
_MIB: Final = 1 << 20

Object = dict[str, Any]


async def snapshot(room: Room) -> list[Figure]:
    """Fill an API server that is there for this, and hold a snapshot of what it has."""
    if room.kubeconfig is None:
        raise NodeAgentError(
            Reason.SETTING_INVALID,
            "no API server to fill: give --kubeconfig of one that has NodeStores, the namespace "
            f"{NAMESPACE} and no controllers",
        )
    counts = {"nodes": NODES, "namespaces": NAMESPACES, "pods": PODS}
    scaled = {kind: max(1, int(count * room.scale)) for kind, count in counts.items()}
    async with kube.connected(room.kubeconfig) as api:
        await _fill(api, **scaled)
    holding = min(HOLDING_SECONDS, room.idle_seconds)
    program = [sys.executable, "-m", "nodeagent.bench.holder"]
    argv = [*program, str(room.kubeconfig.absolute()), str(holding)]
    told, controllers = [], []
    with _as_installed() as env:
        for _ in range(room.runs):
            done = await process.run(argv, timeout=TIMEOUT_SECONDS, env=env)
            told.append(json.loads(done.stdout))
            assert told[-1]["ready"] == scaled["nodes"], told  # noqa: S101 a figure of a wrong answer is none
            controllers.append(await _controller(room.kubeconfig, holding, env))
    what = "1,000 Nodes and NodeStores, 300 namespaces, 10,000 other pods"
    return [
        figure(f"RSS of an idle controller: {what}", controllers, "MiB", 90),
        figure("RSS of a process that has the snapshot alone", _each(told, "rss"), "MiB"),
        figure("the same before it knows anything", _each(told, "before"), "MiB"),
        figure("its peak, with everything listed every few seconds", _each(told, "peak"), "MiB"),
        figure("from nothing to a whole snapshot", _each(told, "whole"), "s", 10),
    ]


@contextlib.contextmanager
def _as_installed() -> Iterator[Mapping[str, str]]:
    """Hide what the Kubernetes client imports only where it finds it: images do not have it."""
    with tempfile.TemporaryDirectory() as hiding:
        (Path(hiding) / "kubernetes_validate.py").write_text("raise ImportError\n")
        paths = [hiding, *filter(None, [os.environ.get("PYTHONPATH")])]
        yield {"PYTHONPATH": os.pathsep.join(paths)}


async def _controller(kubeconfig: Path, seconds: float, env: Mapping[str, str]) -> float:
    """Give the RSS of a controller that has listed everything and then rested, in MiB."""
    port = free_port()
    ports = ("--port", str(port), "--webhook-port", str(free_port()), "--drain-seconds", "0")
    argv = [*NODEAGENT, "controller", "--kubeconfig", str(kubeconfig.absolute())]
    async with process.started(
        [*argv, "--host", "127.0.0.1", *ports], env=env, stderr=None
    ) as child:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not await asyncio.to_thread(_has_listed, port):  # noqa: ASYNC110 another process's news
                await asyncio.sleep(0.1)
        await asyncio.sleep(seconds)
        rss: int = psutil.Process(child.pid).memory_info().rss
        return rss / _MIB


def _has_listed(port: int) -> bool:
    """Ask whether nothing is missing, or nothing but a certificate."""
    try:
        answer = urllib3.request("GET", f"http://127.0.0.1:{port}/readyz", retries=False)
    except urllib3.exceptions.HTTPError:
        return False
    return b"snapshot:" not in answer.data


def _each(told: Iterable[Mapping[str, float]], key: str) -> list[float]:
    return [one[key] for one in told]


async def _fill(api: Api, nodes: int, namespaces: int, pods: int) -> None:
    """Make the objects: few at once, as an API server likes it."""
    spaces = [f"bench-{number}" for number in range(namespaces)]
    await _all(api.create("/api/v1/namespaces", _namespace(name)) for name in spaces)
    await _all(_make_node(api, number) for number in range(nodes))
    await _all(
        api.create(f"/api/v1/namespaces/{spaces[number % namespaces]}/pods", _pod(number, nodes))
        for number in range(pods)
    )
    told = {"profiles": {_profile(number): {"namespaces": ["*"]} for number in range(PROFILES)}}
    document = {"metadata": {"name": POLICY_NAME}, "data": {POLICY_KEY: json.dumps(told)}}
    await api.create(f"/api/v1/namespaces/{NAMESPACE}/configmaps", document)


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do everything, AT_ONCE at a time."""
    left = iter(work)

    async def some() -> None:
        for one in left:
            await one

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(some())


async def _make_node(api: Api, number: int) -> None:
    """Make a Node, its NodeStore and its agent's pod."""
    node = _node(number)
    name = node["metadata"]["name"]
    await api.create("/api/v1/nodes", node)
    uid = (await api.get(f"/api/v1/nodes/{name}"))["metadata"]["uid"]
    await kube.NodeStore(api, name).own(uid)
    store = {"apiVersion": NODE_STORE_VERSION, "kind": "NodeStore", "metadata": {"name": name}}
    path = f"/apis/{NODE_STORE_VERSION}/nodestores/{name}/status"
    await api.apply(path, {**store, "status": _published()})
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
    agent = _pod(number, NODES, name=f"nodeagent-{number:05}", node=name)
    await api.create(pods, agent)
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    told = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": agent["metadata"]["name"]}}
    await api.apply(f"{pods}/{agent['metadata']['name']}/status", {**told, "status": ready})


def _node(number: int) -> Object:
    """Make a Node of some 30 kB: most of it names of images."""
    name = f"ip-10-{number // 250}-{number % 250}-17.eu-central-1.compute.internal"
    labels = {f"example.com/label-{at}": f"value-{at}-{number % 7}" for at in range(15)}
    labels |= {f"{LABEL_PROFILE_PREFIX}{_profile(at)}": "true" for at in range(PROFILES)}
    labels |= {LABEL_READY: "true", "kubernetes.io/hostname": name}
    kinds = (CONDITION, "MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    times = {"lastHeartbeatTime": _AT, "lastTransitionTime": _AT}
    images = [
        {
            "names": [
                f"registry.example.com/team-{at}/service-{number % 13}@sha256:{at:064x}",
                f"registry.example.com/team-{at}/service-{number % 13}:v1.{at}.{number}",
            ],
            "sizeBytes": 100_000_000 + at,
        }
        for at in range(IMAGES)
    ]
    return {
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": {f"example.com/annotation-{at}": "x" * 500 for at in range(20)},
        },
        "spec": {"taints": [{"key": "pool", "value": "batch", "effect": "NoSchedule"}]},
        "status": {
            "conditions": [{"type": kind, "status": "True", **times} for kind in kinds],
            "images": images,
        },
    }


def _published() -> Object:
    root = f"/nix/store/{'a' * 32}-profile"
    profiles = [
        {"name": _profile(number), "kind": "env", "root": root, "gate": True}
        for number in range(PROFILES)
    ]
    return {"ready": True, "phase": "Idle", "observedAt": _AT, "profiles": profiles}


def _pod(number: int, nodes: int, name: str = "", node: str = "") -> Object:
    agent = {"app.kubernetes.io/name": "nodeagent", "app.kubernetes.io/component": "agent"}
    return {
        "metadata": {"name": name or f"task-{number}", "labels": agent if name else {"app": "x"}},
        "spec": {
            "nodeName": node or _node(number % nodes)["metadata"]["name"],
            "containers": [{"name": "task", "image": "registry.example.com/task:1"}],
        },
    }


def _namespace(name: str) -> Object:
    return {"metadata": {"name": name, "labels": {"nodeagent.dev/inject": "true"}}}


def _profile(number: int) -> str:
    return f"profile-{number}"
