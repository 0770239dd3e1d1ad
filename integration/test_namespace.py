"""The installation in another namespace than its own: what names one follows, or says so."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from integration.apiserver import AGENT, BASE, api_server
from integration.cluster.kubernetes import Kubernetes
from nodeagent import names

ELSEWHERE: Final = "elsewhere"
MOVED: Final = f"system:serviceaccount:{ELSEWHERE}:nodeagent"
CLAIM: Final = "authentication.kubernetes.io/node-name=node1"


@pytest.fixture(scope="module")
def admin(cluster_host: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    with api_server(tmp_path_factory.mktemp("api"), "crd.yaml") as (_, admin):
        for name in ("node1", "node2"):
            admin.kubectl("create", "-f", "-", stdin=json.dumps(node(name)))
        yield admin


def node(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


def rendered(admin: Kubernetes, directory: Path, transformers: Sequence[str]) -> str:
    """Render an overlay as a user would write it."""
    base = BASE.parent
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": ELSEWHERE,
        "resources": [os.path.relpath(base / "base", directory)],
        "transformers": [os.path.relpath(base / one, directory) for one in transformers],
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return admin.kubectl("kustomize", str(directory)).stdout


def labelled(admin: Kubernetes, account: str, node: str) -> str:
    """Label a node as its namesake's agent, without effect; give the refusal, or nothing."""
    label = f"{names.LABEL_PROFILE_PREFIX}ds=true"
    who = ("--as", account, f"--as-user-extra={CLAIM}", "--dry-run=server")
    return admin.kubectl("label", "node", node, label, *who, check=False).stderr


def can(admin: Kubernetes, account: str, *what: str) -> bool:
    return admin.kubectl("auth", "can-i", *what, "--as", account, check=False).returncode == 0


def test_accounts_rights_and_policy_move_together(admin: Kubernetes, tmp_path: Path) -> None:
    text = rendered(admin, tmp_path, ["namespace"])
    assert "nodeagent-system" not in text
    admin.kubectl("apply", "-f", "-", stdin=text)
    admin.until("enforced", lambda: "may not touch" in labelled(admin, MOVED, "node2"))
    assert labelled(admin, MOVED, "node1") == ""
    assert can(admin, MOVED, "create", "events", "-n", "default")
    assert not can(admin, MOVED, "create", "events", "-n", ELSEWHERE)
    assert not can(admin, AGENT, "patch", "nodes")


def test_without_the_transformer_the_policy_guards_nobody(
    admin: Kubernetes, tmp_path: Path
) -> None:
    """Prove that the test above could fail; agents call this PolicyNotEnforced."""
    admin.kubectl("apply", "-f", "-", stdin=rendered(admin, tmp_path, []))
    admin.until("let through", lambda: labelled(admin, MOVED, "node2") == "")
