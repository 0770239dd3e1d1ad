"""What is mounted where, and what of a pod stands against it.

Volumes are hostPath of type Directory: a kubelet waits for a gate that is not open yet. Mounts are
read-only, and so is what is mounted below them. `VARIABLES` is the table of the kinds.
"""

import fnmatch
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Final

from nodeagent.admission.decision import Object, Refusal
from nodeagent.admission.review import Container, Review, rows, shown, table, text
from nodeagent.names import (
    ANNOTATION_OWN_STORE,
    POD_PROFILES_DIR,
    RUN_DIR,
    STORE_DIR,
    VOLUME_PREFIX,
    VOLUME_STORE,
    Kind,
    Outcome,
)
from nodeagent.policy import MAX_PROFILES, Policy

ENFORCE: Final = "pod-security.kubernetes.io/enforce"
VARIABLES: Final[Mapping[Kind, Sequence[str]]] = {  # that a kind sets to the path of its mount
    Kind.ENV: (),
    Kind.MODELS: ("HF_HOME",),
}
NOT_ID_MAPPED: Final = frozenset({Kind.UV_CACHE})  # An overlay cannot be.


@dataclass(frozen=True)
class Place:
    """A volume of ours, by name and host path, and the path at which containers see it."""

    name: str
    host_path: str
    path: str

    @property
    def volume(self) -> Object:
        """The pod's volume."""
        return {"name": self.name, "hostPath": {"path": self.host_path, "type": "Directory"}}

    @property
    def mount(self) -> Object:
        """The mount of a container."""
        return {
            "name": self.name,
            "mountPath": self.path,
            "readOnly": True,
            "recursiveReadOnly": "IfPossible",
        }


STORE: Final = Place(VOLUME_STORE, f"{RUN_DIR}/store", STORE_DIR)


def place(profile: str) -> Place:
    """Say where a profile is mounted."""
    return Place(
        f"{VOLUME_PREFIX}{profile}",
        f"{RUN_DIR}/profiles/{profile}",
        f"{POD_PROFILES_DIR}/{profile}",
    )


def places(profiles: Iterable[str]) -> tuple[Place, ...]:
    """Say all that is mounted for some profiles."""
    return (STORE, *map(place, profiles))


def found(spec: Mapping[str, Any]) -> tuple[Place, ...]:
    """Give the places of which a pod has the volume, exactly as we write it; the store is one."""
    volumes = {text(table(one).get("name")): one for one in rows(spec.get("volumes"))}
    ours = [
        place(name.removeprefix(VOLUME_PREFIX))
        for name in volumes
        if name.startswith(VOLUME_PREFIX) and name != VOLUME_STORE
    ]
    exact = tuple(one for one in ours if volumes[one.name] == one.volume)
    whole = volumes.get(VOLUME_STORE) == STORE.volume and 0 < len(exact) <= MAX_PROFILES
    return (STORE, *exact) if whole else ()


def variables(kinds: Mapping[str, Kind], policy: Policy) -> Mapping[str, str]:
    """Give the environment of some profiles: of two that set a name, the first has it."""
    environment: dict[str, str] = {}
    for name, kind in kinds.items():
        own = {variable: place(name).path for variable in VARIABLES[kind]}
        for variable, value in {**own, **policy.profiles[name].environment}.items():
            environment.setdefault(variable, value)
    return environment


def pod_security(namespace: Mapping[str, str], policy: Policy) -> Refusal | None:
    """Say why PodSecurity might refuse hostPath, from a namespace's labels."""
    level = namespace.get(ENFORCE)
    if level == "privileged" or (level is None and policy.assume_privileged):
        return None
    said = f"has {ENFORCE}={shown(level)}" if level is not None else f"has no label {ENFORCE}"
    message = f"the namespace {said}, so hostPath may be refused; privileged would admit it"
    return Refusal(Outcome.POD_SECURITY, message)


def own_store(review: Review, into: Iterable[Container], policy: Policy) -> Refusal | None:
    """Say which image brings a store of its own, that a mount would hide."""
    if review.annotations.get(ANNOTATION_OWN_STORE) == "true":
        return Refusal(Outcome.OWN_STORE, f"the pod has the annotation {ANNOTATION_OWN_STORE}")
    for container in into:
        image = text(container.raw.get("image"))
        if any(fnmatch.fnmatchcase(image, pattern) for pattern in policy.store_images):
            message = f"the image {shown(image)} brings a Nix store of its own, says Policy"
            return Refusal(Outcome.OWN_STORE, message)
    return None


def conflict(review: Review, into: Iterable[Container], wanted: Sequence[Place]) -> Refusal | None:
    """Say which of a pod's volumes, mounts or devices stands where ours would."""
    names = {one.name for one in wanted}
    for volume in rows(review.spec.get("volumes")):
        if (name := text(table(volume).get("name"))) in names:
            message = f"the pod has a volume {name} that is not as nodeagent writes it; rename it"
            return Refusal(Outcome.CONFLICT, message)
    for container in review.containers:
        mounts = (table(one) for one in rows(container.raw.get("volumeMounts")))
        if name := next((one["name"] for one in mounts if text(one.get("name")) in names), ""):
            message = f"the container {shown(container.name)} mounts {name}, which is nodeagent's"
            return Refusal(Outcome.CONFLICT, f"{message}; rename it")
    for container in into:
        if path := blocked(container, wanted):
            message = (
                f"the container {shown(container.name)} has {shown(path)}, at, above or below what "
                "nodeagent mounts; move it or exclude the container"
            )
            return Refusal(Outcome.CONFLICT, message)
    return None


def blocked(container: Container, wanted: Sequence[Place]) -> str:
    """Give a path of a container's that is, contains or lies in one of ours; empty if none."""
    above, below = _around(tuple(one.path for one in wanted))
    for path in _paths(container):
        cleaned = posixpath.normpath("/" + path.lstrip("/"))
        if cleaned in above or cleaned.startswith(below):
            return path
    return ""


def user_namespace(spec: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Refusal | None:
    """Say which profile a pod with a user namespace of its own cannot mount."""
    if spec.get("hostUsers") is not False:
        return None
    if unmapped := [name for name, kind in kinds.items() if kind in NOT_ID_MAPPED]:
        message = f"{', '.join(unmapped)} cannot be mounted with hostUsers: false"
        return Refusal(Outcome.USER_NAMESPACE, message)
    return None


@lru_cache(maxsize=256)
def _around(ours: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Give the paths that are or contain one of some, and how those in them begin."""
    above = {str(parent) for path in ours for parent in PurePosixPath(path).parents}
    return frozenset({*ours, *above}), tuple(f"{path}/" for path in ours)


def _paths(container: Container) -> list[str]:
    """List where a container mounts something, but for what it mounts of ours."""
    keys = (("volumeMounts", "mountPath"), ("volumeDevices", "devicePath"))
    listed = (
        text(table(one).get(path)) for kind, path in keys for one in rows(container.raw.get(kind))
    )
    return [path for path in listed if path]
