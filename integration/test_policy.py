"""What an agent's account may change, and all that it may not: asked of a real API server.

The account has every right here, so that nothing but the policy can refuse. Requests are made
in the name of the agent on node1, with the claim that the token in its pod carries.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from integration.apiserver import AGENT, api_server
from integration.cluster.commands import Completed
from integration.cluster.kubernetes import Kubernetes
from nodeagent import names

OURS: Final = {"key": names.TAINT, "effect": "NoSchedule"}
OTHERS: Final = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
READY: Final = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
CLAIM: Final = "authentication.kubernetes.io/node-name"
FINISHED: Final = {"finalizers": ["example.dev/mine"]}


@pytest.fixture(scope="module")
def admin(cluster_host: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    declared = ("namespace.yaml", "rbac.yaml", "crd.yaml", "policy.yaml")
    with api_server(tmp_path_factory.mktemp("api"), *declared) as (_, admin):
        binding = ("create", "clusterrolebinding", "everything", "--clusterrole=cluster-admin")
        admin.kubectl(*binding, f"--user={AGENT}")
        for name in ("node1", "node2"):
            labels = {"zone": "b", names.LABEL_CHANNEL: "stable", names.LABEL_READY: "true"}
            metadata = {"name": name, "labels": labels, "annotations": {"a": "1"}}
            spec = {"taints": [OTHERS, OURS]}
            node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec}
            admin.kubectl("create", "-f", "-", stdin=json.dumps(node))
            status = {"conditions": [READY], "capacity": {"cpu": "2"}}
            merge(admin, name, {"status": status}, "--subresource=status")
        admin.until("enforced", lambda: asked(admin, LABEL_OF_OTHERS).returncode != 0)
        yield admin


def merge(admin: Kubernetes, node: str, patch: Mapping[str, Any], *more: str) -> None:
    admin.kubectl("patch", "node", node, "--type=merge", "-p", json.dumps(patch), *more)


@dataclass(frozen=True)
class Request:
    """A patch of a Node: `merge`, `json`, or `apply` for a server-side one, forced."""

    patch: Any
    kind: str = "merge"
    status: bool = False
    node: str = "node1"
    claims: Sequence[str] = ("node1",)
    says: str = ""


def asked(admin: Kubernetes, request: Request) -> Completed:
    """Make a request as the agent, without effect."""
    who = ("--as", AGENT, *(f"--as-user-extra={CLAIM}={claim}" for claim in request.claims))
    where = ("--subresource=status",) if request.status else ()
    dry = (*who, *where, "--dry-run=server")
    if request.kind == "apply":
        body = {"apiVersion": "v1", "kind": "Node", **request.patch}
        body["metadata"] = {"name": request.node, **body.get("metadata", {})}
        apply = (
            "apply",
            "--server-side",
            "--force-conflicts",
            f"--field-manager={names.FIELD_MANAGER}",
        )
        return admin.kubectl(*apply, *dry, "-f", "-", stdin=json.dumps(body), check=False)
    patch = (
        "patch",
        "node",
        request.node,
        f"--type={request.kind}",
        "-p",
        json.dumps(request.patch),
    )
    return admin.kubectl(*patch, *dry, check=False)


def labelled(key: str, value: str | None = "true") -> dict[str, Any]:
    return {"metadata": {"labels": {key: value}}}


def told(kind: str, status: str = "True") -> dict[str, Any]:
    return {"status": {"conditions": [condition(kind, status)]}}


def condition(kind: str, status: str = "True") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": "R"}


LABEL_OF_OTHERS: Final = Request(labelled("zone", "c"), says="label zone")
PROFILE: Final = f"{names.LABEL_PROFILE_PREFIX}ds"

ALLOWED: Final[dict[str, Request]] = {
    "its label, by merge": Request(labelled(names.LABEL_READY, None)),
    "its label, by apply": Request(labelled(PROFILE), "apply"),
    "its label, through the status": Request(labelled(PROFILE), status=True),
    "its condition, by apply": Request(told(names.CONDITION), "apply", status=True),
    "its condition, by strategic patch": Request(told(names.CONDITION), "strategic", status=True),
    "its disk's condition, by apply": Request(told(names.CONDITION_DISK), "apply", status=True),
    "both conditions, by apply": Request(
        {"status": {"conditions": [condition(names.CONDITION), condition(names.CONDITION_DISK)]}},
        "apply",
        status=True,
    ),
    "its taint, taken off": Request([{"op": "remove", "path": "/spec/taints/1"}], "json"),
}
DENIED: Final[dict[str, Request]] = {
    "another node": Request(labelled(PROFILE), node="node2", says="may not touch nodes node2"),
    "another node's condition": Request(
        told(names.CONDITION), "apply", status=True, node="node2", says="may not touch"
    ),
    "a token without a node": Request(labelled(PROFILE), claims=(), says="names no node"),
    "a token of two nodes": Request(
        labelled(PROFILE), claims=("node1", "node2"), says="names no node"
    ),
    "a label of others, changed": LABEL_OF_OTHERS,
    "a label of others, removed": Request(labelled("zone", None), says="label zone"),
    "a label of others, added": Request(labelled("team", "a"), says="label team"),
    "a label of others, by apply": Request(labelled("zone", "c"), "apply", says="label zone"),
    "a label of others, through the status": Request(
        labelled("zone", "c"), status=True, says="label zone"
    ),
    "its own channel": Request(labelled(names.LABEL_CHANNEL, "canary"), says=names.LABEL_CHANNEL),
    "a prefix that looks alike": Request(labelled("evilnodeagent.dev/ready"), says="evil"),
    "a domain that looks alike": Request(labelled("profile.nodeagent.dev.evil/ds"), says="evil"),
    "another label of the group": Request(labelled("nodeagent.dev/other"), says="other"),
    "an annotation": Request(
        {"metadata": {"annotations": {"a": "2"}}}, says="metadata.annotations"
    ),
    "a finalizer": Request({"metadata": FINISHED}, says="metadata.finalizers"),
    "an owner": Request(
        {
            "metadata": {
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": "node2", "uid": "u"}
                ]
            }
        },
        says="metadata.ownerReferences",
    ),
    "cordon": Request({"spec": {"unschedulable": True}}, says="spec.unschedulable"),
    "the provider's id": Request({"spec": {"providerID": "x://y"}}, says="spec.providerID"),
    "a taint of others, added": Request(
        [{"op": "add", "path": "/spec/taints/-", "value": {"key": "t", "effect": "NoExecute"}}],
        "json",
        says="of taints",
    ),
    "a taint of others, removed": Request(
        [{"op": "remove", "path": "/spec/taints/0"}], "json", says="of taints"
    ),
    "all taints, removed": Request({"spec": {"taints": None}}, says="of taints"),
    "its taint, with another effect": Request(
        [{"op": "replace", "path": "/spec/taints/1/effect", "value": "NoExecute"}],
        "json",
        says="of taints",
    ),
    "the kubelet's condition, by apply": Request(
        told("Ready", "False"), "apply", status=True, says="of conditions"
    ),
    "the kubelet's condition, by merge": Request(
        told("Ready", "False"), status=True, says="of conditions"
    ),
    "the kubelet's condition, by strategic patch": Request(
        told("Ready", "False"), "strategic", status=True, says="of conditions"
    ),
    "the kubelet's condition, wiped": Request(
        told(names.CONDITION), status=True, says="of conditions"
    ),
    "a condition of the group that is not its": Request(
        told("nodeagent.dev/Other"), "apply", status=True, says="of conditions"
    ),
    "a new condition of others": Request(told("Other"), "apply", status=True, says="of conditions"),
    "capacity": Request(
        {"status": {"capacity": {"cpu": "9"}}}, status=True, says="status.capacity"
    ),
    "addresses": Request(
        {"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.9"}]}},
        status=True,
        says="status.addresses",
    ),
    "images": Request(
        {"status": {"images": [{"names": ["a"], "sizeBytes": 1}]}},
        status=True,
        says="status.images",
    ),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_an_agent_may_write(admin: Kubernetes, case: str) -> None:
    done = asked(admin, ALLOWED[case])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", DENIED)
def test_an_agent_may_not_write(admin: Kubernetes, case: str) -> None:
    done = asked(admin, DENIED[case])
    said = done.stdout + done.stderr
    assert "ValidatingAdmissionPolicy 'nodeagent'" in said, said
    assert DENIED[case].says in said, said


@pytest.mark.parametrize("verb", ["create", "delete"])
def test_an_agent_may_neither_make_nor_remove_nodes(admin: Kubernetes, verb: str) -> None:
    made = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}}
    argv = ("create", "-f", "-") if verb == "create" else ("delete", "node", "node1")
    who = ("--as", AGENT, f"--as-user-extra={CLAIM}=node1", "--dry-run=server")
    if verb == "create":
        made["metadata"] = {"name": "node3"}
    done = admin.kubectl(*argv, *who, stdin=json.dumps(made), check=False)
    assert "ValidatingAdmissionPolicy 'nodeagent'" in done.stderr, done.stderr


@dataclass(frozen=True)
class Own:
    """A NodeStore or an event that an agent of node1 makes up."""

    fields: Mapping[str, Any]
    name: str = "node1"
    says: str = ""
    owner: str = "node1"
    more: Mapping[str, Any] = field(default_factory=dict)


STORES: Final[dict[str, Own]] = {
    "its own": Own({}),
    "another node's": Own({}, "node2", says="may not touch nodestores node2"),
    "one that belongs to another": Own({}, owner="node2", says="belongs to its own Node"),
    "one that nobody can delete": Own({}, more=FINISHED, says="finalizers"),
}


@pytest.mark.parametrize("case", STORES)
def test_a_node_store_is_its_own_nodes(admin: Kubernetes, case: str) -> None:
    store = STORES[case]
    owner = {"apiVersion": "v1", "kind": "Node", "name": store.owner, "uid": "u"}
    metadata = {"name": store.name, "ownerReferences": [owner], **store.more}
    body = {"apiVersion": names.NODE_STORE_VERSION, "kind": "NodeStore", "metadata": metadata}
    who = ("--as", AGENT, f"--as-user-extra={CLAIM}=node1", "--dry-run=server")
    done = admin.kubectl("create", *who, "-f", "-", stdin=json.dumps(body), check=False)
    assert (done.returncode == 0) == (not store.says), done.stderr
    assert store.says in done.stderr, done.stderr


@pytest.mark.parametrize("node", ["node1", "node2", ""])
def test_a_node_store_is_removed_by_its_own_node_alone(admin: Kubernetes, node: str) -> None:
    for name in ("node1", "node2"):
        body = {"apiVersion": names.NODE_STORE_VERSION, "kind": "NodeStore"}
        admin.kubectl("apply", "-f", "-", stdin=json.dumps({**body, "metadata": {"name": name}}))
    which = f"/apis/{names.NODE_STORE_VERSION}/nodestores/{node}".rstrip("/")  # or all of them
    who = ("--as", AGENT, f"--as-user-extra={CLAIM}=node1")
    done = admin.kubectl("delete", f"--raw={which}?dryRun=All", *who, check=False)
    assert (done.returncode == 0) == (node == "node1"), done.stderr
    assert node == "node1" or "ValidatingAdmissionPolicy 'nodeagent'" in done.stderr, done.stderr
    assert node != "node2" or "may not touch nodestores node2" in done.stderr, done.stderr


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_events_are_about_its_own_node(admin: Kubernetes, node: str) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "told", "namespace": "default"},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": node},
        "reason": "Told",
        "type": "Normal",
    }
    who = ("--as", AGENT, f"--as-user-extra={CLAIM}=node1", "--dry-run=server")
    done = admin.kubectl("create", *who, "-f", "-", stdin=json.dumps(body), check=False)
    assert (done.returncode == 0) == (node == "node1"), done.stderr


def test_others_are_not_the_policys_business(admin: Kubernetes) -> None:
    someone = ("--as", "somebody", "--as-group", "system:masters", "--dry-run=server")
    patch = ("patch", "node", "node2", "--type=merge", "-p", json.dumps(labelled("zone", "c")))
    admin.kubectl(*patch, *someone)
