"""How fast a pod is decided about in a large fleet, and the memory that this takes.

Run as `python -m nodeagent.bench.admission PODS` it decides once about all kinds of pods: a process
of its own tells its RSS.
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from random import Random
from typing import Any, Final

from nodeagent import admission, process
from nodeagent.admission.decision import Decision
from nodeagent.admission.fleet import Fleet, Node, Taint
from nodeagent.admission.request import WATCHED
from nodeagent.admission.review import Entry, Review
from nodeagent.bench.figures import Figure, figure
from nodeagent.bench.lab import TIMEOUT_SECONDS
from nodeagent.bench.room import Room
from nodeagent.names import (
    ANNOTATION_PROFILES,
    LABEL_INJECT,
    LABEL_PROFILE_PREFIX,
    LABEL_READY,
    Kind,
    Outcome,
)
from nodeagent.policy import Policy, ProfilePolicy

NODES: Final = 1000
PODS: Final = 10_000
NOW: Final = 1_800_000_000.0
NAMESPACE: Final = "team"
PROFILES: Final = tuple(f"profile-{number}" for number in range(10))
POLICY: Final = Policy(
    profiles={
        name: ProfilePolicy(namespaces=(NAMESPACE,), environment={f"NEEDS_{number}": "1"})
        for number, name in enumerate(PROFILES)
    }
)
REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"


async def admit(room: Room) -> list[Figure]:
    """Decide about 10,000 pods of several kinds, with 1,000 nodes and 10 profiles."""
    pods = max(100, int(PODS * room.scale))
    argv = [sys.executable, "-m", "nodeagent.bench.admission", str(pods)]
    told = [
        json.loads((await process.run(argv, timeout=TIMEOUT_SECONDS)).stdout)
        for _ in range(room.runs)
    ]
    runs = {name: [one[name] for one in told] for name in told[0]}
    return [
        figure("decision, p50", runs["p50"], "ms"),
        figure("decision, p99", runs["p99"], "ms", 1),
        figure("decision, a node changed before each, p50", runs["changed p50"], "ms"),
        figure("decision, a node changed before each, p99", runs["changed p99"], "ms", 1),
        figure("decision, 20 containers, p50", runs["large p50"], "ms"),
        figure("peak RSS of the process that decides", runs["rss"], "MiB"),
    ]


def _node(number: int) -> Node:
    """Make one of a large fleet: of 100 one is not ready now, and five have no profiles yet."""
    name = f"node-{number:04d}"
    labels = {f"example.com/label-{key}": f"value-{number % (key + 2)}" for key in range(15)}
    labels |= {"kubernetes.io/hostname": name, "zone": "abc"[number % 3], "gpus": str(number % 9)}
    if number % 20:
        labels |= {f"{LABEL_PROFILE_PREFIX}{profile}": "true" for profile in PROFILES}
        labels |= {LABEL_READY: "true"}
    return Node(
        name=name,
        labels=labels,
        taints=(Taint("gpu", "yes", "NoSchedule"),) if number % 10 == 1 else (),
        ready=True,
        store_ready=number % 100 != 33,
        told=NOW - number % 300,
        agent_ready=True,
        profiles=dict.fromkeys(PROFILES if number % 20 else (), Kind.ENV),
    )


def _containers(count: int) -> list[dict[str, Any]]:
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 a pod's own
    return [
        {"name": f"c{at}", "image": "registry.example.com/task:1", "volumeMounts": mounts}
        for at in range(count)
    ]


def _requiring(*terms: dict[str, Any]) -> dict[str, Any]:
    return {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}}


def _label(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


SPECS: Final[dict[str, dict[str, Any]]] = {
    "a task": {},
    "a workflow's step": {"initContainers": _containers(1), "containers": _containers(2)},
    "one in a zone": {"nodeSelector": {"zone": "b", "example.com/label-3": "value-1"}},
    "one with an affinity": {
        "affinity": _requiring(
            {"matchExpressions": [_label("zone", "In", "a", "b"), _label("gpus", "Gt", "3")]},
            {"matchExpressions": [_label("example.com/label-5", "NotIn", "value-0", "value-1")]},
            {"matchFields": [_label("metadata.name", "NotIn", "node-0007")]},
        ),
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
    },
    "one with sidecars": {"initContainers": _containers(3), "containers": _containers(2)},
    "a DaemonSet's": {
        "affinity": _requiring({"matchFields": [_label("metadata.name", "In", "node-0002")]}),
        "tolerations": [{"operator": "Exists"}],
    },
}

LARGE: Final[dict[str, dict[str, Any]]] = {"20 containers": {"containers": _containers(20)}}


def reviews(count: int, specs: Mapping[str, dict[str, Any]]) -> Iterator[Review]:
    """Make pods of these kinds in turn, with one to eight of the profiles."""
    random = Random(1)  # noqa: S311 a figure is the same each time
    for number in range(count):
        profiles = random.sample(PROFILES, 1 + number % 8)
        spec = list(specs.values())[number % len(specs)]
        metadata = {
            "generateName": "task-",
            "labels": {LABEL_INJECT: "true"},
            "annotations": {ANNOTATION_PROFILES: ",".join(profiles)},
        }
        volumes = [{"name": "tmp", "emptyDir": {}}]
        whole = {"containers": _containers(1), "volumes": volumes, **spec}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole}
        yield Review(uid=str(number), entry=Entry.POD, namespace=NAMESPACE, pod=pod)


def fleets(*, changing: bool) -> Iterator[Fleet]:
    """Give the fleet again and again; one that is changing has a node that was told anew."""
    nodes = {one.name: one for one in map(_node, range(NODES))}
    namespaces = {NAMESPACE: {"pod-security.kubernetes.io/enforce": "privileged"}}
    fleet = Fleet(nodes, namespaces, dict.fromkeys(WATCHED, NOW))
    order = list(nodes)
    for turn in range(sys.maxsize):
        if changing:
            name = order[turn % NODES]
            told = {name: replace(fleet.nodes[name], told=NOW)}
            fleet = replace(fleet, nodes={**fleet.nodes, **told})
        yield fleet


def _timed(reviews: Iterator[Review], *, changing: bool) -> list[float]:
    """Decide about each; give the percentiles of the milliseconds that it takes."""
    taken = []
    for review, fleet in zip(reviews, fleets(changing=changing), strict=False):
        began = time.perf_counter()
        decision = admission.decide(review, fleet, POLICY, NOW)
        taken.append((time.perf_counter() - began) * 1000)
        _check(decision)
    return statistics.quantiles(taken, n=100)


def _check(decision: Decision) -> None:
    assert decision.outcome is Outcome.INJECTED, decision  # noqa: S101 a figure of a wrong answer is none


def main() -> None:
    """Decide about the pods and print the figures."""
    count = int(sys.argv[1])
    still = _timed(reviews(count, SPECS), changing=False)
    changed = _timed(reviews(count, SPECS), changing=True)
    large = _timed(reviews(count // 10, LARGE), changing=False)
    told = {"p50": still[49], "p99": still[98], "changed p50": changed[49]}
    told |= {"changed p99": changed[98], "large p50": large[49]}
    told["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(told))


if __name__ == "__main__":
    main()
