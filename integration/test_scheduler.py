"""What we say of nodes and pods, and what the real scheduler does with them.

An API server and a scheduler alone: nobody taints nodes that have no kubelet, and nothing else
runs on them. Each pod is asked about as a whole, and again pinned to each node in turn: so the
scheduler tells of every node whether it fits, not only which it likes best.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

import pytest

from integration.apiserver import api_server
from integration.cluster.kubernetes import Kubernetes
from nodeagent.admission import predicates
from nodeagent.admission.fleet import Fleet, Node, Taint
from nodeagent.admission.placement import Placement, constrained, place
from nodeagent.policy import Policy
from tests import scheduler
from tests.scheduler import NOW, PROFILES

SEED: Final = 8
PODS: Final = 64
HOSTNAME: Final = "kubernetes.io/hostname"
SAID: Final = {("PodScheduled", ""), ("PodScheduled", "Unschedulable")}
CORDONED: Final = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")


@pytest.fixture(scope="module")
def admin(cluster_host: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    directory = tmp_path_factory.mktemp("scheduling")
    with api_server(directory, "crd.yaml") as (_, admin):
        config = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            "clientConnection": {"kubeconfig": str(admin.kubeconfig), "qps": 1000, "burst": 1000},
        }
        (directory / "scheduler.json").write_text(json.dumps(config))
        program = str(admin.programs / "kube-scheduler")
        argv = (program, f"--config={directory / 'scheduler.json'}", "--secure-port=0")
        with (
            (directory / "kube-scheduler.log").open("wb") as log,
            subprocess.Popen(("setpriv", "--pdeathsig", "KILL", *argv), stderr=log) as process,
        ):
            try:
                yield admin
            finally:
                process.kill()


def cordoned_fleet(random: Random) -> Fleet:
    """Make a fleet in which each node has a label of its own, and the first one is cordoned."""
    nodes = [scheduler.node(random, name) for name in scheduler.NAMES]
    nodes = [replace(one, labels={**one.labels, HOSTNAME: one.name}) for one in nodes]
    nodes[0] = replace(nodes[0], taints=(CORDONED,))
    return Fleet({one.name: one for one in nodes})


def register(admin: Kubernetes, fleet: Fleet) -> None:
    """Make the Nodes; a new one has a taint until somebody takes it off."""
    create(admin, [node(one) for one in fleet.nodes.values()])
    status = {"allocatable": {"cpu": "64", "memory": "64Gi", "pods": "2000"}}
    for one in fleet.nodes.values():
        cordoned = one.taints == (CORDONED,)
        taints = () if cordoned else one.taints
        written = [{"key": it.key, "value": it.value, "effect": it.effect} for it in taints]
        spec = {"unschedulable": cordoned, "taints": written}
        merge = ("patch", "node", one.name, "--type=merge", "-p")
        admin.kubectl(*merge, json.dumps({"status": status}), "--subresource=status")
        admin.kubectl(*merge, json.dumps({"spec": spec}))


def node(one: Node) -> dict[str, Any]:
    metadata = {"name": one.name, "labels": dict(one.labels)}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata}


def pod(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    whole = {"containers": [{"name": "c", "image": "none"}], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole}


def pinned(spec: Mapping[str, Any], node: str) -> dict[str, Any]:
    return {**spec, "nodeSelector": {**spec.get("nodeSelector", {}), HOSTNAME: node}}


def create(admin: Kubernetes, objects: Sequence[Mapping[str, Any]]) -> None:
    whole = {"apiVersion": "v1", "kind": "List", "items": objects}
    admin.kubectl("create", "-f", "-", stdin=json.dumps(whole))


def decisions(admin: Kubernetes, count: int) -> dict[str, str]:
    """Wait until the scheduler has looked at every pod; gives the node of each, or nothing."""
    found: dict[str, str] = {}

    def decided() -> bool:
        for one in json.loads(admin.kubectl("get", "pods", "-o", "json").stdout)["items"]:
            for told in one["status"].get("conditions", ()):
                if (told["type"], told.get("reason", "")) in SAID:
                    found[one["metadata"]["name"]] = one["spec"].get("nodeName", "")
        return len(found) == count

    admin.until("looked at: all pods", decided)
    return found


@dataclass(frozen=True)
class Case:
    """What a pod asks for, and the nodes that we say it gets."""

    spec: Mapping[str, Any]
    nodes: frozenset[str]


def cases(random: Random, fleet: Fleet) -> dict[str, Case]:
    """Make pods as users write them, and what admission makes of those that it takes."""
    made: dict[str, Case] = {}
    for number in range(PODS):
        spec = scheduler.spec(random)
        usable = predicates.usable(spec, fleet)
        made[f"as-is-{number}"] = Case(spec, frozenset(one.name for one in usable))
        decided = place({"spec": spec}, PROFILES, fleet, Policy(min_fraction=0), NOW)
        if isinstance(decided, Placement) and decided.known is None:
            patched = scheduler.applied({"spec": spec}, constrained(spec, decided))["spec"]
            ready = frozenset(one.name for one in usable if scheduler.ready(one, PROFILES))
            made[f"patched-{number}"] = Case(patched, ready)
    return made


def test_the_scheduler_takes_the_nodes_that_we_say(admin: Kubernetes) -> None:
    random = Random(SEED)
    fleet = cordoned_fleet(random)
    register(admin, fleet)
    asked = cases(random, fleet)
    pods = [pod(name, case.spec) for name, case in asked.items()]
    pods += [
        pod(f"{name}-{node}", pinned(case.spec, node))
        for name, case in asked.items()
        for node in fleet.nodes
    ]
    create(admin, pods)
    found = decisions(admin, len(pods))
    for name, case in asked.items():
        taken = {node for node in fleet.nodes if found[f"{name}-{node}"]}
        assert taken == case.nodes, (name, case)
        assert found[name] in (case.nodes or {""}), (name, case)
    sizes = [len(case.nodes) for case in asked.values()]
    assert {0, len(fleet.nodes)} < set(sizes), "the pods do not differ enough to tell anything"
    assert len(asked) > PODS + PODS // 3, "too few pods were placed to tell anything"
