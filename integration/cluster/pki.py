"""Certificates of one cluster: an authority that lives as long as the cluster is being made."""

import base64
import json
from dataclasses import dataclass, field

import trustme


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as PEM."""

    certificate: str
    key: str


@dataclass(frozen=True)
class Authority:
    """Who signs; nothing of it but its certificate is ever written down."""

    ca: trustme.CA = field(default_factory=trustme.CA)

    @property
    def certificate(self) -> str:
        return self.ca.cert_pem.bytes().decode()

    def issue(self, user: str, *hosts: str, group: str | None = None) -> Pair:
        """Certify a Kubernetes user, in a group, that also serves under these names."""
        # Go refuses an empty list of names, so who serves nothing gets a name that nobody asks for.
        leaf = self.ca.issue_cert(
            *(hosts or ("nobody",)), common_name=user, organization_name=group
        )
        return Pair(leaf.cert_chain_pems[0].bytes().decode(), leaf.private_key_pem.bytes().decode())

    def kubeconfig(self, server: str, pair: Pair) -> str:
        """Spell the file with which a user finds and convinces the API server."""
        cluster = {"server": server, "certificate-authority-data": _data(self.certificate)}
        user = {
            "client-certificate-data": _data(pair.certificate),
            "client-key-data": _data(pair.key),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        return json.dumps(document, indent=1)


def _data(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
