"""A real API server takes every pod of the corpus with what we add, if it takes it without.

Each pod is decided twice: as its author wrote it, and as a webhook sees it, with the server's
defaults. Nothing is made: all are dry runs.
"""

import base64
import json
import ssl
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import urllib3

from integration import corpus
from integration.cluster import Cluster
from nodeagent.admission import decide
from nodeagent.admission.decision import Decision
from nodeagent.admission.fleet import Fleet
from nodeagent.admission.review import Entry
from nodeagent.names import SILENT, Outcome
from nodeagent.policy import Policy
from tests import reviews
from tests.reviews import NAMESPACE, NOW, Tree, added, node, patched, policed, sent, without_ours

LABELS: Final = {"pool": "batch", "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
NODES: Final = {
    "ready1": "a",
    "ready2": "a",
    "lost1": "a",
    "ready3": "b",
    "ready4": "b",
    "lost2": "b",
}
POLICY: Final[Policy] = policed(defaults={NAMESPACE: ["ds"]}, minEligible=1)
OWN: Final = {"uid", "creationTimestamp", "managedFields", "name"}  # of each request anew


def fleet() -> Fleet:
    """Four nodes that are ready and two that are not; all kinds of demands fit them."""
    nodes = []
    for number, (name, zone) in enumerate(NODES.items()):
        known = reviews.node(name).labels
        labels = {**known, **LABELS, "topology.kubernetes.io/zone": zone, "cores": str(8 + number)}
        labels["kubernetes.io/hostname"] = name
        nodes.append(node(name, labels=labels, ready=name.startswith("ready")))
    return reviews.fleet(*nodes)


FLEET: Final = fleet()


@dataclass(frozen=True)
class Namespace:
    """A namespace of a real API server, asked over one connection."""

    pool: urllib3.HTTPSConnectionPool
    name: str

    def create(self, pod: Mapping[str, Any]) -> tuple[int, Tree]:
        """Create a pod without effect."""
        answer = self.pool.request(
            "POST",
            f"/api/v1/namespaces/{self.name}/pods?dryRun=All",
            body=json.dumps(pod),
            headers={"Content-Type": "application/json"},
        )
        return answer.status, answer.json()


@pytest.fixture
def namespace(cluster: Cluster, tmp_path: Path) -> Iterator[Namespace]:
    config = json.loads(cluster.kubeconfig.read_text())
    user, server = config["users"][0]["user"], config["clusters"][0]["cluster"]
    tls = ssl.create_default_context(cadata=_text(server["certificate-authority-data"]))
    pair = tmp_path / "admin.pem"
    pair.write_text(_text(user["client-certificate-data"]) + _text(user["client-key-data"]))
    tls.load_cert_chain(pair)
    url = urllib3.util.parse_url(server["server"])
    assert url.host is not None
    name = f"corpus-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    try:
        cluster.kubectl("label", "namespace", name, f"{reviews.ENFORCE}=privileged")
        cluster.kubectl("create", "serviceaccount", "workflow", "--namespace", name)
        account = ("serviceaccount/default", "--namespace", name)
        cluster.until("there: the account default", lambda: cluster.answers(*account))
        with urllib3.HTTPSConnectionPool(url.host, url.port, timeout=60, ssl_context=tls) as pool:
            yield Namespace(pool, name)
    finally:
        cluster.kubectl("delete", "namespace", name, "--wait=false")


def _text(data: str) -> str:
    return base64.b64decode(data).decode()


def bare(answer: Mapping[str, Any]) -> Tree:
    """Leave out what the server makes anew for each request."""
    metadata = {key: value for key, value in answer["metadata"].items() if key not in OWN}
    return {**answer, "metadata": metadata}


def check(namespace: Namespace, pod: Tree, answer: Tree) -> Decision:
    """Decide a pod as it was written and as it is seen, and let the server judge both."""
    written = decide(sent(pod, Entry.NAMESPACE), FLEET, POLICY, NOW)
    status, said = namespace.create(patched(pod, written.patch))
    assert status == 201, (pod["metadata"], written.outcome, said["message"])

    seen = bare(answer)
    decision = decide(sent(seen, Entry.NAMESPACE), FLEET, POLICY, NOW)
    assert decision.outcome is written.outcome, (pod["metadata"], decision.message)
    expected = patched(seen, decision.patch)
    named = {**expected, "metadata": {**expected["metadata"], "name": answer["metadata"]["name"]}}
    status, said = namespace.create(named)
    assert status == 201, (pod["metadata"], decision.outcome, said["message"])
    assert bare(said) == expected, pod["metadata"]
    assert added(without_ours(seen), without_ours(expected)), pod["metadata"]
    if decision.outcome not in {Outcome.INJECTED, Outcome.ALREADY_INJECTED}:
        assert said["spec"] == seen["spec"]
        assert bool(decision.patch) == (decision.outcome not in SILENT)
    return decision


def test_an_api_server_takes_every_pod_with_what_we_add_and_keeps_the_rest(
    namespace: Namespace,
) -> None:
    outcomes: Counter[Outcome] = Counter()
    for pod in corpus.pods():
        status, answer = namespace.create(pod)
        if status != 201:
            outcomes[Outcome.NOT_OPTED_IN] += 1
            continue
        outcome = check(namespace, pod, answer).outcome
        labels = pod["metadata"].get("labels") or {}
        assert outcome == labels.get("outcome", Outcome.INJECTED), pod["metadata"]
        outcomes[outcome] += 1
    refused = outcomes.pop(Outcome.NOT_OPTED_IN, 0)
    assert refused <= 5, "pods of the corpus should be such that a server takes them"
    assert outcomes.total() >= 200
    assert outcomes[Outcome.INJECTED] >= 150
    assert len(outcomes) >= 10
