"""Pods by the dozen, all different and always the same: drawn with a fixed seed."""

import random
from collections.abc import Iterator
from typing import Any, Final

Tree = dict[str, Any]
SEED: Final = 8
LABELS: Final = {
    "topology.kubernetes.io/zone": ("a", "b"),
    "pool": ("batch",),
    "kubernetes.io/arch": ("amd64",),
    "kubernetes.io/os": ("linux",),
}
VOLUMES: Final[tuple[Tree, ...]] = (
    {"emptyDir": {}},
    {"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    {"configMap": {"name": "settings", "optional": True}},
    {"secret": {"secretName": "secret", "optional": True}},
    {"persistentVolumeClaim": {"claimName": "data"}},
    {"hostPath": {"path": "/var/lib/data", "type": "DirectoryOrCreate"}},
    {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
)
PATHS: Final = (
    *("/data", "/opt/app", "/opt/nodeagent/other", "/nix/var", "/nixos", "/var/run/x", "/mnt/ü"),
    *("/work/a b", "/tmp", "/opt/nodeagentx", "/a/../b", "/home/user/.cache"),
)
VARIABLES: Final = ("A", "MODE", "HF_HOME", "PATH", "LD_LIBRARY_PATH", "x.y-z", "_", "HOME")
NOTES: Final = ("a", "b.c", "d_e")
PROFILES: Final = ("ds", "hf", "ds,hf", "hf , ds", " ds ", "ds,ds")


class Draw(random.Random):
    """Chance, with what a pod needs of it."""

    def maybe(self, chance: float = 0.5) -> bool:
        return self.random() < chance

    def some(self, choices: tuple[Any, ...], most: int) -> list[Any]:
        return self.sample(choices, self.randint(0, min(most, len(choices))))


def pods(count: int) -> Iterator[Tree]:
    """Give some, the first of a series that never changes."""
    for number in range(count):
        draw = Draw(SEED * 1000 + number)
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": _metadata(draw, number),
            "spec": _spec(draw),
        }


def _metadata(draw: Draw, number: int) -> Tree:
    name = f"generated-{number}"
    metadata: Tree = {"generateName": f"{name}-"} if draw.maybe(0.3) else {"name": name}
    annotations = {f"example.dev/{key}": "x" * draw.randint(0, 50) for key in draw.some(NOTES, 2)}
    if draw.maybe():
        annotations["nodeagent.dev/profiles"] = draw.choice(PROFILES)
    if draw.maybe(0.3):
        annotations["nodeagent.dev/exclude-containers"] = "c0"
    if annotations or draw.maybe(0.3):
        metadata["annotations"] = annotations
    return metadata


def _spec(draw: Draw) -> Tree:
    volumes = [{"name": f"v{n}", **one} for n, one in enumerate(draw.some(VOLUMES, 5))]
    names = [one["name"] for one in volumes]
    spec: Tree = {
        # c0 may be excluded, so there is another.
        "containers": [_container(draw, f"c{n}", names) for n in range(draw.randint(2, 5))],
    }
    if volumes or draw.maybe(0.3):
        spec["volumes"] = volumes
    if draw.maybe(0.4):
        spec["initContainers"] = [
            _container(draw, f"i{n}", names)
            | ({"restartPolicy": "Always"} if draw.maybe(0.4) else {})
            for n in range(draw.randint(0, 3))
        ]
    if draw.maybe(0.3):
        spec["nodeSelector"] = {
            key: draw.choice(LABELS[key]) for key in draw.some(tuple(LABELS), 1)
        }
    if draw.maybe(0.4):
        spec["affinity"] = _affinity(draw)
    if draw.maybe(0.3):
        spec["tolerations"] = [{"operator": "Exists"}, {"key": "a", "value": "b"}][
            : draw.randint(0, 2)
        ]
    optional: Tree = {
        "hostNetwork": True,
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsUser": 1000, "fsGroup": 1000},
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": 0,
    }
    return spec | {key: value for key, value in optional.items() if draw.maybe(0.2)}


def _container(draw: Draw, name: str, volumes: list[str]) -> Tree:
    made: Tree = {"name": name, "image": "base"}
    if volumes and draw.maybe(0.7):
        made["volumeMounts"] = [
            {"name": draw.choice(volumes), "mountPath": path} for path in draw.some(PATHS, 4)
        ]
    if draw.maybe(0.6):
        made["env"] = [
            {"name": key, "value": "v" * draw.randint(0, 9)} for key in draw.some(VARIABLES, 4)
        ]
    if draw.maybe(0.3):
        made["resources"] = {"requests": {"cpu": "10m"}, "limits": {"memory": "64Mi"}}
    if draw.maybe(0.2):
        made["securityContext"] = {"readOnlyRootFilesystem": True, "runAsNonRoot": True}
    return made


def _affinity(draw: Draw) -> Tree:
    """Draw what all nodes fulfil: how few are ready is somebody else's test."""
    terms: list[Tree] = []
    for _ in range(draw.randint(1, 3)):
        term: Tree = {}
        if draw.maybe(0.8):
            key = draw.choice(tuple(LABELS))
            term["matchExpressions"] = [
                {"key": key, "operator": "In", "values": list(LABELS[key])},
                {"key": key, "operator": "NotIn", "values": ["other"]},
            ][: draw.randint(1, 2)]
        if draw.maybe(0.4):
            term["matchFields"] = [
                {"key": "metadata.name", "operator": "NotIn", "values": ["nowhere"]}
            ]
        terms.append(term)
    if not any(terms):
        terms.append({"matchExpressions": [{"key": "pool", "operator": "Exists"}]})
    preferred = [{"weight": 5, "preference": terms[-1]}] if terms[-1] and draw.maybe(0.3) else []
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
            "preferredDuringSchedulingIgnoredDuringExecution": preferred,
        }
    }
