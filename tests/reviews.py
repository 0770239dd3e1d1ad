"""Reviews, fleets and policies as values, and a JSON patch applied.

Patches are applied here by code of its own, as RFC 6902 says, so that no test believes the
package's.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from nodeagent import policy
from nodeagent.admission import decide
from nodeagent.admission import review as reviews
from nodeagent.admission.decision import Decision
from nodeagent.admission.fleet import Fleet, Node
from nodeagent.admission.request import WATCHED
from nodeagent.admission.review import Entry, Review
from nodeagent.names import (
    ANNOTATION_INJECTED,
    ANNOTATION_PROFILES,
    ANNOTATION_SKIPPED,
    LABEL_INJECT,
    LABEL_PROFILE_PREFIX,
    LABEL_READY,
    Kind,
    Outcome,
)
from nodeagent.policy import Policy

NOW: Final = 1_795_600_000.0
KINDS: Final = {"ds": Kind.ENV, "hf": Kind.MODELS}
NAMESPACE: Final = "team-a"
ENFORCE: Final = "pod-security.kubernetes.io/enforce"
POLICY: Final[Mapping[str, Any]] = {
    "profiles": {
        "ds": {"namespaces": [NAMESPACE, "team-b"], "environment": {"MODE": "ds", "A": "1"}},
        "hf": {"kind": "models", "namespaces": [NAMESPACE], "environment": {"MODE": "hf"}},
        "private": {"namespaces": ["team-b"]},
    },
    "minEligible": 2,
    "storeImages": ["*nixos/nix*"],
}
STORE: Final = {
    "name": "nodeagent-store",
    "hostPath": {"path": "/run/nodeagent/store", "type": "Directory"},
}
DS: Final = {
    "name": "nodeagent-ds",
    "hostPath": {"path": "/run/nodeagent/profiles/ds", "type": "Directory"},
}
READ_ONLY: Final = {"readOnly": True, "recursiveReadOnly": "IfPossible"}
STORE_MOUNT: Final = {"name": "nodeagent-store", "mountPath": "/nix/store", **READ_ONLY}
DS_MOUNT: Final = {"name": "nodeagent-ds", "mountPath": "/opt/nodeagent/ds", **READ_ONLY}
SELECTED: Final = {LABEL_READY: "true", f"{LABEL_PROFILE_PREFIX}ds": "true"}
DATA: Final = [{"name": "data", "emptyDir": {}}]
Tree = dict[str, Any]


def node(name: str, **changes: Any) -> Node:  # noqa: ANN401 any field of a Node
    """Give a node that is ready for all profiles, unless something else is said."""
    labels = {LABEL_READY: "true"} | {f"{LABEL_PROFILE_PREFIX}{one}": "true" for one in KINDS}
    fields: Tree = {
        "labels": labels,
        "ready": True,
        "store_ready": True,
        "told": NOW - 10,
        "agent_ready": True,
        "profiles": KINDS,
    }
    return Node(name, **(fields | changes))


def fleet(*nodes: Node, **changes: Any) -> Fleet:  # noqa: ANN401 any field of a Fleet
    """Give a fleet of three ready nodes, or of these, whose snapshot is fresh."""
    ready = nodes or tuple(node(f"node{number}") for number in (1, 2, 3))
    fields: Tree = {
        "nodes": {one.name: one for one in ready},
        "namespaces": {NAMESPACE: {ENFORCE: "privileged"}, "team-b": {ENFORCE: "privileged"}},
        "heard": dict.fromkeys(WATCHED, NOW - 1),
    }
    return Fleet(**(fields | changes))


def policed(**changes: Any) -> Policy:  # noqa: ANN401 any field of a Policy document
    """Give Policy with some fields of its document changed."""
    return policy.parse(json.dumps({**POLICY, **changes}).encode())


def container(name: str = "main", **fields: Any) -> Tree:  # noqa: ANN401 JSON
    """Give a container as a pod spec has it."""
    return {"name": name, "image": "localhost/base:1", **fields}


def pod(
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    **spec: Any,  # noqa: ANN401 JSON
) -> Tree:
    """Give a pod that asks for the profile ds, by its own label."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "task",
            "labels": {LABEL_INJECT: "true"} if labels is None else dict(labels),
            "annotations": {ANNOTATION_PROFILES: "ds"} if annotations is None else annotations,
        },
        "spec": {"containers": [container()], **spec},
    }


def review(made: Mapping[str, Any], **changes: Any) -> Review:  # noqa: ANN401 any field
    """Give the review of a pod's creation."""
    fields: Tree = {"uid": "u1", "entry": Entry.POD, "namespace": NAMESPACE, "pod": made}
    return Review(**(fields | changes))


def document(made: object, **request: Any) -> Tree:  # noqa: ANN401 JSON
    """Give the AdmissionReview that an API server would send."""
    fields: Tree = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": "CREATE",
        "namespace": NAMESPACE,
        "userInfo": {"username": "system:serviceaccount:kube-system:job-controller"},
        "object": made,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    }
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": fields | request,
    }


def sent(made: object, entry: Entry = Entry.POD, **request: Any) -> Review:  # noqa: ANN401 JSON
    """Give a review that has been over the wire."""
    read = reviews.parse(json.dumps(document(made, **request)).encode(), entry)
    assert isinstance(read, Review), read
    return read


def patched(made: Mapping[str, Any], operations: Sequence[Mapping[str, Any]]) -> Any:  # noqa: ANN401 JSON
    """Apply a patch to a copy, over the wire; a place that is not there is an error."""
    result = {"": copy.deepcopy(made)}
    for operation in json.loads(json.dumps(operations)):
        assert operation.keys() == {"op", "path", "value"}
        assert operation["op"] == "add"
        parts = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")
        ]
        inner: Any = result
        for part in parts[:-1]:
            inner = inner[int(part)] if isinstance(inner, list) else inner[part]
        if isinstance(inner, list):
            assert parts[-1] == "-"
            inner.append(operation["value"])
        else:
            assert isinstance(inner, dict)
            inner[parts[-1]] = operation["value"]
    return result[""]


def added(before: Any, after: Any) -> bool:  # noqa: ANN401 JSON
    """Whether one is the other with keys and last elements more."""
    if before is None:
        return True
    if isinstance(before, dict):
        if not isinstance(after, dict):
            return False
        return all(key in after and added(value, after[key]) for key, value in before.items())
    if isinstance(before, list):
        if not isinstance(after, list) or len(after) < len(before):
            return False
        return all(added(one, other) for one, other in zip(before, after, strict=False))
    return bool(json.dumps(before) == json.dumps(after))


def without_ours(pod: Mapping[str, Any]) -> Tree:
    """Leave out the annotations that are ours to write."""
    kept = copy.deepcopy(dict(pod))
    metadata = kept.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    if isinstance(annotations, dict):
        for key in (ANNOTATION_INJECTED, ANNOTATION_SKIPPED):
            annotations.pop(key, None)
    return kept


def decided(
    made: Tree,
    policy: Policy | None = None,
    fleet: Fleet | None = None,
    **changes: Any,  # noqa: ANN401 any field of a review
) -> Decision:
    """Decide a pod's creation in a fleet that is ready."""
    return decide(review(made, **changes), fleet or FLEET, policy or policed(), NOW)


def injected(made: Tree, policy: Policy | None = None) -> Tree:
    """Give a pod as it is when it was injected."""
    decision = decided(made, policy)
    assert decision.outcome is Outcome.INJECTED, decision.message
    result: Tree = patched(made, decision.patch)
    return result


FLEET: Final = fleet()
