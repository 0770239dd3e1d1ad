"""What the controllers' account may change, and all that it may not: asked of a real API server.

With the group that may do everything, nothing but the policy can refuse; without it, RBAC speaks.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from integration.apiserver import BASE, api_server
from integration.cluster.kubernetes import Kubernetes
from nodeagent import names

CONTROLLER: Final = BASE.parent / "controller"
ACCOUNT: Final = f"system:serviceaccount:{names.NAMESPACE}:nodeagent-controller"
EVERYTHING: Final = "everything"
DECLARED: Final = (
    *("namespace.yaml", "crd.yaml"),
    *(str(CONTROLLER / f"{one}.yaml") for one in ("rbac", "policy", "certificates", "webhook")),
)
WEBHOOKS: Final = ("mutatingwebhookconfiguration", "nodeagent")
CA_SECRET: Final = ("-n", names.NAMESPACE, "secret", names.AUTHORITIES)
LEASE: Final = ("-n", names.NAMESPACE, "lease", names.LEASE)
BUNDLE: Final = "/webhooks/0/clientConfig/caBundle"
CERTIFICATE: Final = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg=="


@pytest.fixture(scope="module")
def admin(cluster_host: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    with api_server(tmp_path_factory.mktemp("api"), *DECLARED) as (_, admin):
        binding = ("create", "clusterrolebinding", EVERYTHING, "--clusterrole=cluster-admin")
        admin.kubectl(*binding, f"--group={EVERYTHING}")
        for name in ("other", names.AUTHORITIES):
            admin.kubectl("create", "secret", "generic", name, "-n", "default")
        admin.kubectl("create", "secret", "generic", "other", "-n", names.NAMESPACE)
        admin.kubectl("create", "-f", "-", stdin=json.dumps(webhooks_of_others()))
        url = [{"op": "add", "path": "/metadata/labels/other", "value": "1"}]
        patch = Patch(WEBHOOKS, [{"op": "add", "path": "/metadata/labels", "value": {}}, *url])
        admin.until("enforced", lambda: patched(admin, patch) != "")
        yield admin


def webhooks_of_others() -> dict[str, Any]:
    hook = {
        "name": "other.example.dev",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "other"},
        "webhooks": [hook],
    }


@dataclass(frozen=True)
class Patch:
    """A JSON patch, and a part of why it is refused."""

    what: tuple[str, ...]
    operations: list[dict[str, Any]]
    says: str = ""
    more: tuple[str, ...] = ()


def patched(admin: Kubernetes, patch: Patch) -> str:
    """Patch as the account with all rights, without effect; give the refusal, or nothing."""
    who = ("--as", ACCOUNT, "--as-group", EVERYTHING, "--dry-run=server")
    text = json.dumps(patch.operations)
    argv = ("patch", *patch.what, "--type=json", "-p", text, *who, *patch.more)
    done = admin.kubectl(*argv, check=False)
    return "" if done.returncode == 0 else done.stderr


def put(path: str, value: object) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


def drop(path: str) -> dict[str, Any]:
    return {"op": "remove", "path": path}


ALLOWED: Final[dict[str, Patch]] = {
    "whom API servers trust": Patch(WEBHOOKS, [put(BUNDLE, CERTIFICATE)]),
    "both entries at once": Patch(
        WEBHOOKS, [put(BUNDLE, CERTIFICATE), put(BUNDLE.replace("0", "1"), CERTIFICATE)]
    ),
    "its CAs": Patch(CA_SECRET, [put("/data", {"authorities.json": "W10="})]),
    "who writes": Patch(LEASE, [put("/spec", {"holderIdentity": "pod"})]),
    "that nobody does": Patch(LEASE, [put("/spec", {})]),
}
ONE_FIELD: Final = "may only change clientConfig.caBundle"
ORDER: Final = "neither add, remove, rename nor move"
SERVICE: Final = "/webhooks/0/clientConfig/service"
RULE: Final = "/webhooks/1/rules/0"
EVIL: Final = {**webhooks_of_others()["webhooks"][0], "name": "evil.example.dev"}
DENIED: Final[dict[str, Patch]] = {
    "a failurePolicy": Patch(WEBHOOKS, [put("/webhooks/0/failurePolicy", "Fail")], ONE_FIELD),
    "more operations": Patch(WEBHOOKS, [put(f"{RULE}/operations/-", "UPDATE")], ONE_FIELD),
    "more resources": Patch(WEBHOOKS, [put(f"{RULE}/resources/-", "secrets")], ONE_FIELD),
    "another rule": Patch(
        WEBHOOKS,
        [
            put(
                "/webhooks/0/rules/-",
                {
                    "apiGroups": ["*"],
                    "apiVersions": ["*"],
                    "operations": ["*"],
                    "resources": ["*"],
                },
            )
        ],
        ONE_FIELD,
    ),
    "a selector": Patch(WEBHOOKS, [put("/webhooks/1/objectSelector", {})], ONE_FIELD),
    "an excluded namespace": Patch(
        WEBHOOKS,
        [drop("/webhooks/0/namespaceSelector/matchExpressions/0/values/1")],
        ONE_FIELD,
    ),
    "a time-out": Patch(WEBHOOKS, [put("/webhooks/0/timeoutSeconds", 30)], ONE_FIELD),
    "a condition": Patch(
        WEBHOOKS,
        [put("/webhooks/0/matchConditions", [{"name": "a", "expression": "true"}])],
        ONE_FIELD,
    ),
    "an address": Patch(
        WEBHOOKS, [drop(SERVICE), put("/webhooks/0/clientConfig/url", "https://evil/")], ONE_FIELD
    ),
    "a service": Patch(WEBHOOKS, [put(f"{SERVICE}/name", "evil")], ONE_FIELD),
    "a service's path": Patch(WEBHOOKS, [put(f"{SERVICE}/path", "/evil")], ONE_FIELD),
    "whom to trust, and more": Patch(
        WEBHOOKS, [put(BUNDLE, CERTIFICATE), put(f"{SERVICE}/port", 444)], ONE_FIELD
    ),
    "one webhook less": Patch(WEBHOOKS, [drop("/webhooks/1")], ORDER),
    "no webhooks": Patch(WEBHOOKS, [drop("/webhooks")], ORDER),
    "one webhook more": Patch(WEBHOOKS, [put("/webhooks/-", EVIL)], ORDER),
    "their order": Patch(
        WEBHOOKS, [{"op": "move", "from": "/webhooks/1", "path": "/webhooks/0"}], ORDER
    ),
    "their name": Patch(WEBHOOKS, [put("/webhooks/1/name", "evil.example.dev")], ORDER),
    "a label": Patch(WEBHOOKS, [put("/metadata/labels", {"a": "b"})], "metadata.labels"),
    "an annotation": Patch(
        WEBHOOKS, [put("/metadata/annotations", {"a": "b"})], "metadata.annotations"
    ),
    "a finalizer": Patch(WEBHOOKS, [put("/metadata/finalizers", ["a.b/c"])], "finalizers"),
    "webhooks of others": Patch(
        ("mutatingwebhookconfiguration", "other"), [put(BUNDLE, CERTIFICATE)], "other"
    ),
    "another Secret of its namespace": Patch(
        ("-n", names.NAMESPACE, "secret", "other"), [put("/data", {"a": "W10="})], "other"
    ),
    "a Secret of its name elsewhere": Patch(
        ("-n", "default", "secret", names.AUTHORITIES), [put("/data", {"a": "W10="})], "secrets"
    ),
    "its Secret's metadata": Patch(
        CA_SECRET, [put("/metadata/annotations", {"a": "b"})], "metadata.annotations"
    ),
    "that its Secret never changes": Patch(CA_SECRET, [put("/immutable", value=True)], "immutable"),
    "its Lease's metadata": Patch(
        LEASE, [put("/metadata/annotations", {"a": "b"})], "metadata.annotations"
    ),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_a_controller_may_write(admin: Kubernetes, case: str) -> None:
    assert patched(admin, ALLOWED[case]) == ""


@pytest.mark.parametrize("case", DENIED)
def test_a_controller_may_not_write(admin: Kubernetes, case: str) -> None:
    said = patched(admin, DENIED[case])
    assert "ValidatingAdmissionPolicy 'nodeagent-controller'" in said, said
    assert DENIED[case].says in said, said


@pytest.mark.parametrize("what", ["secret", "lease", "mutatingwebhookconfiguration"])
def test_a_controller_may_neither_make_nor_remove(admin: Kubernetes, what: str) -> None:
    who = ("--as", ACCOUNT, "--as-group", EVERYTHING, "--dry-run=server")
    own = {"secret": CA_SECRET, "lease": LEASE}.get(what, WEBHOOKS)
    told = [admin.kubectl("delete", *own, *who, check=False).stderr]
    found = json.loads(admin.kubectl("get", *own, "-o", "json").stdout)
    found["metadata"] = {key: found["metadata"].get(key) for key in ("name", "namespace")}
    found["metadata"]["name"] += "-2"
    told += [admin.kubectl("create", "-f", "-", *who, stdin=json.dumps(found), check=False).stderr]
    for verb, said in zip(("DELETE", "CREATE"), told, strict=True):
        assert f"may not {verb}" in said, said


def test_others_are_not_the_policys_business(admin: Kubernetes) -> None:
    for case in ("a label", "another Secret of its namespace"):
        patch = DENIED[case]
        text = json.dumps(patch.operations)
        admin.kubectl("patch", *patch.what, "--type=json", "-p", text, "--dry-run=server")


def test_the_account_can_do_exactly_this(admin: Kubernetes) -> None:
    listed = admin.kubectl(
        "auth", "can-i", "--list", "--no-headers", "-n", names.NAMESPACE, "--as", ACCOUNT
    ).stdout
    rows = [line.rsplit("[", 3) for line in listed.splitlines() if not line.startswith(" ")]
    rights = {
        (what.strip(), name.strip(" ]")): verbs.strip(" ]")
        for what, _, name, verbs in rows
        if what.strip() and "selfsubject" not in what
    }
    watch = "get list watch"
    assert rights == {
        ("nodes", ""): watch,
        ("namespaces", ""): watch,
        ("nodestores.nodeagent.dev", ""): watch,
        ("pods", ""): "list watch",
        ("events", ""): "list watch",
        ("configmaps", "nodeagent-policy"): watch,
        ("secrets", names.AUTHORITIES): "get patch",
        ("leases.coordination.k8s.io", names.LEASE): "get patch",
        ("mutatingwebhookconfigurations.admissionregistration.k8s.io", "nodeagent"): "get patch",
    }


def test_files_of_the_directory_are_all_applied_here_or_need_nodes() -> None:
    there = {one.name for one in Path(CONTROLLER).glob("*.yaml")}
    assert there - {Path(one).name for one in DECLARED} == {
        "kustomization.yaml",
        "deployment.yaml",
        "service.yaml",
    }
