"""A real API server alone with its etcd, on loopback: no controller and no kubelet writes there."""

import contextlib
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from integration.cluster.binaries import binaries
from integration.cluster.kubernetes import Kubernetes
from integration.cluster.pki import Authority
from tests.kube_server import Server

BASE: Final = Path(__file__).parents[1] / "daemonset/base"
AGENT: Final = "system:serviceaccount:nodeagent-system:nodeagent"
FILES: Final = ("ca.crt", "server.crt", "server.key", "admin.crt", "admin.key")


@contextlib.contextmanager
def api_server(
    directory: Path, *declared: str, flags: Sequence[str] = ()
) -> Iterator[tuple[Server, Kubernetes]]:
    """Run one that knows these files of the base; give what tests and its admin use.

    Certificates name the agent's account, so its rights are those that the base gives it.
    `flags` are the API server's, beside those that it always has.
    """
    etcd, peers, port = _free_ports(3)
    made = _credentials(directory, f"https://127.0.0.1:{port}")
    with (
        _running(directory, _etcd(directory, etcd, peers)),
        _running(directory, [*_api_server(directory, etcd, port), *flags]),
    ):
        admin = Kubernetes(directory)
        admin.until("answering: the API server", lambda: admin.answers("--raw", "/readyz"))
        admin.until("there: the namespace default", lambda: admin.answers("namespace", "default"))
        for name in declared:
            admin.kubectl("apply", "-f", str(BASE / name))
        admin.until_condition("condition=Established", "crd/nodestores.nodeagent.dev")
        yield made, admin


def _credentials(directory: Path, url: str) -> Server:
    """Certify the server, its admin, an agent and one without rights."""
    authority = Authority()
    serving, admin = (
        authority.issue("kube-apiserver", "127.0.0.1"),
        authority.issue("admin", group="system:masters"),
    )
    texts = (authority.certificate, serving.certificate, serving.key, admin.certificate, admin.key)
    for name, text in zip(FILES, texts, strict=True):
        (directory / name).write_text(text)
    for name, user in {"agent": AGENT, "stranger": "stranger"}.items():
        (directory / name).write_text(authority.kubeconfig(url, authority.issue(user)))
    (directory / "admin.kubeconfig").write_text(authority.kubeconfig(url, admin))
    tls = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    tls.load_cert_chain(directory / "admin.crt", directory / "admin.key")
    return Server(directory / "agent", directory / "stranger", url, tls)


def _etcd(directory: Path, clients: int, peers: int) -> Sequence[str]:
    return (
        str(binaries() / "etcd"),
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{clients}",
        f"--advertise-client-urls=http://127.0.0.1:{clients}",
        f"--listen-peer-urls=http://127.0.0.1:{peers}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
        f"--initial-cluster=default=http://127.0.0.1:{peers}",
        "--unsafe-no-fsync",
    )


def _api_server(directory: Path, etcd: int, port: int) -> Sequence[str]:
    return (
        str(binaries() / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={directory / 'server.crt'}",
        f"--tls-private-key-file={directory / 'server.key'}",
        f"--client-ca-file={directory / 'ca.crt'}",
        "--authorization-mode=RBAC",
        "--disable-admission-plugins=ServiceAccount",  # Nobody is here who would make accounts.
        f"--service-account-key-file={directory / 'server.key'}",
        f"--service-account-signing-key-file={directory / 'server.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.221.0.0/16",
        "--endpoint-reconciler-type=none",
    )


@contextlib.contextmanager
def _running(directory: Path, argv: Sequence[str]) -> Iterator[None]:
    """Run a program until the end of the block, or of the tests if they are killed."""
    bound = ("setpriv", "--pdeathsig", "KILL", *argv)
    with (
        (directory / f"{Path(argv[0]).name}.log").open("wb") as log,
        subprocess.Popen(bound, stdout=log, stderr=log, stdin=subprocess.DEVNULL) as process,
    ):
        try:
            yield
        finally:
            process.kill()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
