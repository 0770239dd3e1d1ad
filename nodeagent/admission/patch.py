"""A JSON patch of `add` alone (RFC 6902): made, applied to a copy, and checked before it leaves.

An API server refuses the pod whose patch it cannot apply, or that is invalid afterwards, also
where the webhook may fail. So what is in doubt never gets there.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from nodeagent.admission.decision import Object
from nodeagent.admission.review import containers, rows, table, text
from nodeagent.names import ANNOTATION_INJECTED, ANNOTATION_SKIPPED

OURS: Final = frozenset({ANNOTATION_INJECTED, ANNOTATION_SKIPPED})


class UnfitError(Exception):
    """A patch does not apply, or makes a pod that nobody asked for; says why."""


def add(*path: str, value: object) -> Object:
    """Make the operation that adds a value at a path, given by its unescaped parts."""
    return {"op": "add", "path": pointer(*path), "value": value}


def pointer(*parts: str) -> str:
    """Write a JSON pointer (RFC 6901)."""
    return "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in parts)


def append(at: str, owner: Mapping[str, Any], field: str, values: Sequence[Object]) -> list[Object]:
    """Add elements to an array of the object at `at`, or the array where there is none."""
    if not values:
        return []
    if owner.get(field) is None:
        return [{"op": "add", "path": f"{at}/{field}", "value": list(values)}]
    return [{"op": "add", "path": f"{at}/{field}/-", "value": value} for value in values]


def apply(pod: Mapping[str, Any], operations: Sequence[Object]) -> Mapping[str, Any]:
    """Patch a copy; what is not touched is shared with the original. Raises UnfitError."""
    patched: Any = pod
    for operation in operations:
        if operation["op"] != "add":
            raise UnfitError(f"{operation['op']} is no addition")
        _, *parts = operation["path"].split("/")
        keys = [part.replace("~1", "/").replace("~0", "~") for part in parts]
        patched = _added(patched, keys, operation["value"])
    return table(patched)


def check(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raise UnfitError unless nothing was lost or changed and all names are unique."""
    if not _only_adds(_without_ours(before), _without_ours(after)):
        raise UnfitError("something that the pod says would change")
    spec = table(after.get("spec"))
    _unique("volumes have", [text(table(one).get("name")) for one in rows(spec.get("volumes"))])
    old = {one.at: one.raw for one in containers(table(before.get("spec")))}
    for container in containers(spec):
        if container.raw is old.get(container.at):
            continue
        mounts = rows(container.raw.get("volumeMounts"))
        _unique("mounts of a container have", [text(table(one).get("mountPath")) for one in mounts])
        names = [text(table(one).get("name")) for one in rows(container.raw.get("env"))]
        added = names[len(rows(old.get(container.at, {}).get("env"))) :]
        counted = Counter(names)
        _unique("variables have", [name for name in added for _ in range(counted[name])])


def _added(node: object, keys: Sequence[str], value: object) -> object:
    key, *rest = keys
    if isinstance(node, dict):
        if not rest:
            return {**node, key: value}
        if key in node:
            return {**node, key: _added(node[key], rest, value)}
    if isinstance(node, list):
        if key == "-" and not rest:
            return [*node, value]
        if key.isdecimal() and rest and int(key) < len(node):
            number = int(key)
            return [*node[:number], _added(node[number], rest, value), *node[number + 1 :]]
    raise UnfitError(f"the pod has no place for {key}")


def _only_adds(before: object, after: object) -> bool:
    """Whether what was there is there still; an array may only have got longer."""
    if before is after or before is None:
        return True
    if isinstance(before, dict) and isinstance(after, dict):
        return all(key in after and _only_adds(one, after[key]) for key, one in before.items())
    if isinstance(before, list) and isinstance(after, list):
        return len(before) <= len(after) and all(map(_only_adds, before, after))
    return type(before) is type(after) and before == after


def _without_ours(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """Leave out our own annotations: what one says is not believed, so it may be overwritten."""
    metadata = table(pod.get("metadata"))
    annotations = metadata.get("annotations")
    if not isinstance(annotations, dict) or OURS.isdisjoint(annotations):
        return pod
    kept = {key: value for key, value in annotations.items() if key not in OURS}
    return {**pod, "metadata": {**metadata, "annotations": kept}}


def _unique(what: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise UnfitError(f"two {what} one name or path")
