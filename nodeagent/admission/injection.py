"""What is added to a pod: volumes, mounts, variables and annotations, as operations of a patch."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from nodeagent.admission import mounts, placement
from nodeagent.admission.decision import Object
from nodeagent.admission.mounts import STORE, Place
from nodeagent.admission.patch import add, append
from nodeagent.admission.review import Container, Review, rows, table, text
from nodeagent.names import (
    ANNOTATION_INJECTED,
    ANNOTATION_SKIPPED,
    LABEL_PROFILE_PREFIX,
    LABEL_READY,
    VOLUME_PREFIX,
    Outcome,
)

MAX_ANNOTATIONS_BYTES: Final = 256 << 10  # keys and values of an object; the API server's bound


def already(pod: Mapping[str, Any]) -> tuple[Place, ...]:
    """Give the places that a pod has from an earlier call; none unless it is placed for them, too.

    Annotations are not asked: who wrote them is not known.
    """
    spec = table(pod.get("spec"))
    places = mounts.found(spec)
    if not places or placement.known_node(pod) is not None:
        return places
    selector = table(spec.get("nodeSelector"))
    profiles = (one.name.removeprefix(VOLUME_PREFIX) for one in places if one != STORE)
    needed = (LABEL_READY, *(f"{LABEL_PROFILE_PREFIX}{name}" for name in profiles))
    return places if all(selector.get(label) == "true" for label in needed) else ()


def since(into: Iterable[Container], places: Sequence[Place]) -> list[Object]:
    """Mount what is there already in containers that came later.

    One that has something of its own in the way stays without.
    """
    operations: list[Object] = []
    for container in into:
        had = {text(table(one).get("name")) for one in rows(container.raw.get("volumeMounts"))}
        lacking = [one for one in places if one.name not in had]
        if not mounts.blocked(container, lacking):
            operations += _mounted(container, lacking)
    return operations


def whole(
    spec: Mapping[str, Any],
    into: Iterable[Container],
    places: Sequence[Place],
    variables: Mapping[str, str],
) -> list[Object]:
    """Add volumes, and to each container its mounts and the variables that it does not set."""
    operations = append("/spec", spec, "volumes", [one.volume for one in places])
    for container in into:
        had = {text(table(one).get("name")) for one in rows(container.raw.get("env"))}
        lacking = [
            {"name": name, "value": value} for name, value in variables.items() if name not in had
        ]
        operations += _mounted(container, places)
        operations += append(container.at, container.raw, "env", lacking)
    return operations


def injected(review: Review, profiles: Iterable[str]) -> list[Object]:
    """Note on the pod what it got."""
    return _noted(review, {ANNOTATION_INJECTED: ",".join(profiles)}, ANNOTATION_SKIPPED)


def skipped(review: Review, outcome: Outcome) -> list[Object]:
    """Note on the pod why it is left alone."""
    return _noted(review, {ANNOTATION_SKIPPED: str(outcome)}, ANNOTATION_INJECTED)


def _mounted(container: Container, places: Iterable[Place]) -> list[Object]:
    return append(container.at, container.raw, "volumeMounts", [one.mount for one in places])


def _noted(review: Review, note: Mapping[str, str], opposite: str) -> list[Object]:
    """Write an annotation, and empty its opposite, as a copied pod may have it.

    Nothing is written where the API server would then refuse the pod for its annotations.
    """
    metadata = review.pod.get("metadata")
    had = review.annotations
    if had.get(opposite):
        note = {**note, opposite: ""}
    if not isinstance(metadata, dict) or _bytes({**had, **note}) > MAX_ANNOTATIONS_BYTES:
        return []
    if metadata.get("annotations") is None:
        return [add("metadata", "annotations", value=dict(note))]
    return [
        add("metadata", "annotations", key, value=value)
        for key, value in note.items()
        if had.get(key) != value
    ]


def _bytes(annotations: Mapping[str, Any]) -> int:
    """Count as the API server does; what is no string will be refused anyway."""
    words = (word for pair in annotations.items() for word in pair)
    return sum(len(text(word).encode(errors="surrogatepass")) for word in words)
