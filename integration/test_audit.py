"""What a cluster's audit log says of injection, and whom an API server asks about which pods."""

import base64
import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
import trustme
import urllib3
import yaml

from integration.apiserver import BASE, api_server
from integration.cluster.kubernetes import Kubernetes
from nodeagent import names
from nodeagent.bench.lab import free_port
from nodeagent.names import Outcome
from tests import snapshots

HOST: Final = "localhost"
WEBHOOK: Final = BASE.parent / "controller/webhook.yaml"
NAMESPACES: Final = {"opted-in": "true", "plain": "", "opted-out": "false"}
BY_NAMESPACE: Final = "namespace.nodeagent.dev"
BY_POD: Final = "pod.nodeagent.dev"
CALL: Final = "mutation.webhook.admission.k8s.io/round_"
AUDITED: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "verbs": ["create"], "resources": [{"resources": ["pods"]}]},
        {"level": "None"},
    ],
}
POLICY: Final = {
    "apiVersion": names.API_VERSION,
    "kind": "Policy",
    "profiles": {"ds": {"namespaces": ["*"]}},
    "assumePrivileged": True,
}
NUMBERS: Final = itertools.count()
Tree = dict[str, Any]


@dataclass(frozen=True)
class Real:
    """An API server that asks a real controller, its audit log, and a client that sees headers."""

    admin: Kubernetes
    log: Path
    client: urllib3.HTTPSConnectionPool
    endpoints: str

    def ask(self, method: str, path: str, body: object) -> urllib3.BaseHTTPResponse:
        kind = "application/json" if method == "POST" else "application/merge-patch+json"
        text = json.dumps(body)
        answer = self.client.request(method, path, body=text, headers={"Content-Type": kind})
        assert answer.status < 300, answer.data.decode()
        return answer

    def create(self, made: Tree, namespace: str) -> urllib3.BaseHTTPResponse:
        return self.ask("POST", f"/api/v1/namespaces/{namespace}/pods", made)

    def audited(self, made: Tree) -> Mapping[str, str]:
        """Wait for a pod's creation in the log; give its annotations."""
        found: list[Mapping[str, str]] = []

        def there() -> bool:
            events = [json.loads(line) for line in self.log.read_text().splitlines()]
            found[:] = [
                one.get("annotations", {})
                for one in events
                if one["objectRef"].get("name") == made["metadata"]["name"]
            ]
            return bool(found)

        self.admin.until("in the audit log: a pod", there)
        [annotations] = found
        return annotations

    def requests(self) -> int:
        """Count what the controller was asked, over all."""
        text = urllib3.request("GET", f"{self.endpoints}/metrics").data.decode()
        lines = [one for one in text.splitlines() if one.startswith("nodeagent_webhook_requests")]
        return sum(int(float(one.split()[-1])) for one in lines if "_total{" in one)


@pytest.fixture(scope="module")
def real(cluster_host: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    directory = tmp_path_factory.mktemp("api")
    log, policy = directory / "audit.log", directory / "audit.json"
    policy.write_text(json.dumps(AUDITED))
    flags = (f"--audit-log-path={log}", f"--audit-policy-file={policy}")
    with api_server(directory, "namespace.yaml", "crd.yaml", flags=flags) as (server, admin):
        port = int(server.url.rpartition(":")[2])
        with (
            _client(directory, port) as client,
            _controller(directory, trustme.CA()) as (endpoints, webhooks),
        ):
            made = Real(admin, log, client, endpoints)
            _fill(made)
            admin.kubectl("create", "-f", "-", stdin=json.dumps(webhooks))
            admin.until("injected: a pod", lambda: _is_injected(made))
            yield made


@contextlib.contextmanager
def _client(directory: Path, port: int) -> Iterator[urllib3.HTTPSConnectionPool]:
    files = {name: str(directory / f"admin.{name}") for name in ("crt", "key")}
    with urllib3.HTTPSConnectionPool(
        "127.0.0.1",
        port,
        ca_certs=str(directory / "ca.crt"),
        cert_file=files["crt"],
        key_file=files["key"],
    ) as client:
        yield client


@contextlib.contextmanager
def _controller(directory: Path, authority: trustme.CA) -> Iterator[tuple[str, Tree]]:
    """Run one; give where its endpoints are, and the manifest's webhooks as they reach it here."""
    port, webhook_port = free_port(), free_port()
    certificate, key = directory / "tls.crt", directory / "tls.key"
    leaf = authority.issue_cert(HOST)
    leaf.cert_chain_pems[0].write_to_path(str(certificate))
    leaf.private_key_pem.write_to_path(str(key))
    argv = [
        *("setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "nodeagent", "controller"),
        *("--kubeconfig", str(directory / "admin.kubeconfig"), "--host", "127.0.0.1"),
        *("--port", str(port), "--webhook-port", str(webhook_port), "--drain-seconds", "0"),
        *("--certificates", "files", "--tls-cert", str(certificate), "--tls-key", str(key)),
    ]
    with (
        (directory / "controller.log").open("wb") as log,
        subprocess.Popen(argv, stdout=log, stderr=log) as process,
    ):
        try:
            yield f"http://127.0.0.1:{port}", _webhooks(webhook_port, authority)
        finally:
            process.terminate()
    assert process.returncode in {0, -15}, (directory / "controller.log").read_text()


def _webhooks(port: int, authority: trustme.CA) -> Tree:
    """Take the manifest's configuration as it is, but for where the API server finds us."""
    [made] = [
        one
        for one in yaml.safe_load_all(WEBHOOK.read_text())
        if one["kind"] == "MutatingWebhookConfiguration"
    ]
    bundle = base64.b64encode(authority.cert_pem.bytes()).decode()
    for one in made["webhooks"]:
        path = one["clientConfig"]["service"]["path"]
        one["clientConfig"] = {"url": f"https://{HOST}:{port}{path}", "caBundle": bundle}
    return dict(made)


def _fill(real: Real) -> None:
    """Make a node that is ready for the profile, our policy, and namespaces of users."""
    uid = real.ask("POST", snapshots.NODES, snapshots.node("node1")).json()["metadata"]["uid"]
    label = {f"{names.LABEL_PROFILE_PREFIX}ds": "true"}
    # A Node comes with the taint of those that are not ready yet, and nobody is here to take it.
    node = {"metadata": {"labels": label}, "spec": {"taints": None}}
    real.ask("PATCH", f"{snapshots.NODES}/node1", node)
    real.ask("PATCH", f"{snapshots.NODES}/node1/status", _healthy())
    real.ask("POST", snapshots.STORES, snapshots.store("node1", uid))
    told = snapshots.publishing(("ds", "env", True))
    real.ask("PATCH", f"{snapshots.STORES}/node1/status", told)
    ours = f"{snapshots.NAMESPACES}/{names.NAMESPACE}"
    real.ask("POST", f"{ours}/pods", snapshots.agent("agent", "node1"))
    real.ask("PATCH", f"{ours}/pods/agent/status", snapshots.pod_ready())
    real.ask("POST", f"{ours}/configmaps", snapshots.policy(json.dumps(POLICY)))
    for name, inject in NAMESPACES.items():
        labels = {names.LABEL_INJECT: inject} if inject else {}
        real.ask("POST", snapshots.NAMESPACES, {"metadata": {"name": name, "labels": labels}})


def _healthy() -> Tree:
    """Say now that a node and its store are ready."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = snapshots.healthy()["status"]["conditions"]
    return {"status": {"conditions": [{**one, "lastHeartbeatTime": now} for one in conditions]}}


def _is_injected(real: Real) -> bool:
    path = f"{snapshots.NAMESPACES}/opted-in/pods?dryRun=All"
    annotations = real.ask("POST", path, pod()).json()["metadata"]["annotations"]
    return names.ANNOTATION_INJECTED in annotations


def pod(inject: str = "", profiles: str = "ds") -> Tree:
    """Describe a pod that nobody else is called."""
    labels = {names.LABEL_INJECT: inject} if inject else {}
    annotations = {names.ANNOTATION_PROFILES: profiles}
    return {
        "metadata": {"name": f"pod{next(NUMBERS)}", "labels": labels, "annotations": annotations},
        "spec": {"containers": [{"name": "user", "image": "image"}]},
    }


def ours(annotations: Mapping[str, str]) -> dict[str, str]:
    """Give what our webhooks said."""
    return {key: text for key, text in annotations.items() if ".nodeagent.dev/" in key}


def asked(annotations: Mapping[str, str]) -> list[str]:
    """List the webhooks that were called, in their order."""
    calls = sorted(key for key in annotations if key.startswith(CALL))
    return [json.loads(annotations[key])["webhook"] for key in calls]


def test_a_pod_that_is_left_alone_has_its_reason_in_the_audit_log_and_its_author_is_warned(
    real: Real,
) -> None:
    made = pod(profiles="nobodys")
    answer = real.create(made, "opted-in")
    annotations = ours(real.audited(made))
    assert annotations.keys() == {f"{BY_NAMESPACE}/reason", f"{BY_NAMESPACE}/message"}
    assert annotations[f"{BY_NAMESPACE}/reason"] == Outcome.UNKNOWN_PROFILE
    message = annotations[f"{BY_NAMESPACE}/message"]
    assert "nobodys" in message
    warning = answer.headers["Warning"]
    assert warning.startswith(f'299 - "nodeagent: {Outcome.UNKNOWN_PROFILE}: {message}')


def test_a_pod_that_is_injected_says_so_in_the_audit_log_and_warns_nobody(real: Real) -> None:
    made = pod(inject="true")
    answer = real.create(made, "plain")
    assert ours(real.audited(made))[f"{BY_POD}/reason"] == Outcome.INJECTED
    assert "Warning" not in answer.headers
    assert names.ANNOTATION_INJECTED in answer.json()["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("namespace", "inject", "webhooks"),
    [
        ("opted-in", "", [BY_NAMESPACE]),
        ("opted-in", "true", [BY_POD]),  # one of the two suffices
        ("opted-in", "false", []),
        ("opted-in", "yes", [BY_NAMESPACE]),  # which is no value that says anything
        ("plain", "", []),
        ("plain", "true", [BY_POD]),
        ("plain", "false", []),
        ("opted-out", "", []),
        ("opted-out", "true", [BY_POD]),
        (names.NAMESPACE, "true", []),
        ("kube-system", "true", []),
    ],
)
def test_who_opts_in_is_asked_about_once_and_by_one_webhook(
    real: Real, namespace: str, inject: str, webhooks: Sequence[str]
) -> None:
    made, before = pod(inject), real.requests()
    answer = real.create(made, namespace)
    annotations = real.audited(made)
    assert asked(annotations) == webhooks
    assert real.requests() - before == len(webhooks)
    assert {key.partition("/")[0] for key in ours(annotations)} == set(webhooks)
    is_injected = names.ANNOTATION_INJECTED in answer.json()["metadata"]["annotations"]
    assert is_injected == bool(webhooks)
