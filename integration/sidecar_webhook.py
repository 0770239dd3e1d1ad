"""A mesh's webhook, as far as we meet one: it adds a sidecar to pods, after ours had them.

API servers call webhooks in the order of their configurations' names.
"""

import base64
import contextlib
import json
import ssl
import tempfile
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import trustme

from integration.cluster import Cluster

NAME: Final = "zz-test-mesh"
PORT: Final = 18443


class _Mesh(BaseHTTPRequestHandler):
    """Adds a container named `mesh` that runs what the pod's own first container runs."""

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        containers = review["request"]["object"]["spec"]["containers"]
        response: dict[str, Any] = {"uid": review["request"]["uid"], "allowed": True}
        if "mesh" not in {one["name"] for one in containers}:
            ours = {"name", "image", "command"}
            sidecar = {key: containers[0][key] for key in ours} | {"name": "mesh"}
            patch = [{"op": "add", "path": "/spec/containers/-", "value": sidecar}]
            response |= {
                "patchType": "JSONPatch",
                "patch": base64.b64encode(json.dumps(patch).encode()).decode(),
            }
        answer = json.dumps({**review, "request": None, "response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def mesh(cluster: Cluster, selector: Mapping[str, Any]) -> Iterator[None]:
    """Serve one on the host, for the namespaces that a selector selects."""
    host, authority = cluster.lan.gateway, trustme.CA()
    server = ThreadingHTTPServer((host, PORT), _Mesh)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as scratch:
        pem = Path(scratch) / "server.pem"
        authority.issue_cert(host).private_key_and_cert_chain_pem.write_to_path(str(pem))
        context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        cluster.kubectl(
            "apply", "-f", "-", stdin=json.dumps(_configuration(host, authority, selector))
        )
        yield
    finally:
        cluster.kubectl("delete", "mutatingwebhookconfiguration", NAME, "--ignore-not-found")
        server.shutdown()
        server.server_close()
        thread.join()


def _configuration(host: str, authority: trustme.CA, selector: Mapping[str, Any]) -> dict[str, Any]:
    bundle = base64.b64encode(authority.cert_pem.bytes()).decode()
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["pods"],
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": NAME},
        "webhooks": [
            {
                "name": "mesh.test.example",
                "clientConfig": {"url": f"https://{host}:{PORT}/", "caBundle": bundle},
                "rules": [rule],
                "namespaceSelector": dict(selector),
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
            }
        ],
    }
