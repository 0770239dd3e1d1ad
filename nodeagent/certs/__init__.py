"""Certificates of the webhook: our own, with CAs of our own, or files that somebody else makes.

Both have a TLS `context` that is kept up to date while it serves, `ready` once it has a
certificate, when what `expires`, and the last `problem`; `run` does the work until cancelled.
"""

from nodeagent.certs.files import FileCertificates
from nodeagent.certs.own import Certificates, Places
from nodeagent.kube import Api
from nodeagent.kube.lease import Lease
from nodeagent.kube.secrets import Secret
from nodeagent.kube.webhooks import WebhookConfiguration
from nodeagent.names import AUTHORITIES, LEASE

__all__ = ["Certificates", "FileCertificates", "Places", "own"]


def own(
    api: Api, *, namespace: str, service: str, configuration: str, pod_name: str
) -> Certificates:
    """Keep certificates for a Service, as the replica in this pod."""
    places = Places(
        Secret(api, namespace, AUTHORITIES),
        WebhookConfiguration(api, configuration),
        Lease(api, namespace, LEASE, pod_name),
    )
    host = f"{service}.{namespace}.svc"
    return Certificates(places, (host, f"{host}.cluster.local"))
