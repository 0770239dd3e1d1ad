"""The controllers' certificates on a real API server, by the account's own token and rights."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient

from integration.apiserver import BASE, api_server
from integration.cluster.kubernetes import Kubernetes
from nodeagent import kube, names
from nodeagent.certs import Certificates
from nodeagent.certs.plan import AUTHORITY_SECONDS, RIPE_SECONDS
from tests.certifying import CONFIGURATION, SECRET, WEBHOOKS, Clock, places, replica
from tests.kube_conformance_write import *  # noqa: F403 the suite is collected here
from tests.kube_server import Server

CONTROLLER: Final = BASE.parent / "controller"
DECLARED: Final = tuple(
    str(CONTROLLER / f"{one}.yaml") for one in ("rbac", "policy", "certificates", "webhook")
)
OPTED_IN: Final = "opted-in"
POD: Final = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "asks"},
    "spec": {"containers": [{"name": "c", "image": "i"}]},
}


@dataclass(frozen=True)
class Real:
    """An API server with the manifests; `kubeconfig` is the controllers' account's."""

    admin: Kubernetes
    kubeconfig: Path

    def reset(self) -> None:
        """Bring the objects back to what they are after the installation."""
        for path, gone in {SECRET: "/data", WEBHOOKS: "/webhooks/0/clientConfig/caBundle"}.items():
            kind, name = path.split("/")[-2:]
            patch = [{"op": "add", "path": gone, "value": None}]
            if kind != "secrets":
                patch = [{**one, "path": gone.replace("0", i)} for one in patch for i in "01"]
            text = json.dumps(patch)
            where = ("-n", names.NAMESPACE, "patch", kind, name)
            self.admin.kubectl(*where, "--type=json", "-p", text)

    def apply(self) -> None:
        for file in DECLARED:
            self.admin.kubectl("apply", "-f", file)

    def object(self, path: str) -> Any:  # noqa: ANN401 any JSON
        return json.loads(self.admin.kubectl("get", "--raw", path).stdout)


@pytest.fixture(scope="module")
def real(cluster_host: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    directory = tmp_path_factory.mktemp("api")
    with api_server(directory, "namespace.yaml", "crd.yaml", *DECLARED) as (server, admin):
        token = admin.kubectl("-n", names.NAMESPACE, "create", "token", "nodeagent-controller")
        file = directory / "controller.kubeconfig"
        file.write_text(json.dumps(kubeconfig(server, directory, token.stdout.strip())))
        admin.kubectl("create", "namespace", OPTED_IN)
        admin.kubectl("label", "namespace", OPTED_IN, f"{names.LABEL_INJECT}=true")
        yield Real(admin, file)


def kubeconfig(server: Server, directory: Path, token: str) -> dict[str, Any]:
    authority = base64.b64encode((directory / "ca.crt").read_bytes()).decode()
    at = {"server": server.url, "certificate-authority-data": authority}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": at}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }


@pytest.fixture
async def cluster(real: Real) -> AsyncIterator[ApiClient]:
    real.reset()
    async with kube.connected(real.kubeconfig) as api:
        yield api.client


@dataclass
class Webhook:
    """A server that admits everything and notes which certificate it was asked under."""

    asked: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        review = await request.json()
        self.asked.append(request.path)
        return web.json_response(
            {
                "apiVersion": "admission.k8s.io/v1",
                "kind": "AdmissionReview",
                "response": {"uid": review["request"]["uid"], "allowed": True},
            }
        )


@asynccontextmanager
async def serving(certificates: Certificates) -> AsyncIterator[tuple[Webhook, int]]:
    webhook = Webhook()
    app = web.Application()
    app.router.add_post("/{path:.*}", webhook.answer)
    # No connection outlives an answer, so that each pod needs a handshake.
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=0, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certificates.context).start()
        yield webhook, runner.addresses[0][1]
    finally:
        await runner.cleanup()


def ask_there(real: Real, port: int) -> None:
    """Have the API server ask here, for it has no Services."""
    patch = [
        operation
        for number in (0, 1)
        for operation in (
            {"op": "remove", "path": f"/webhooks/{number}/clientConfig/service"},
            {
                "op": "add",
                "path": f"/webhooks/{number}/clientConfig/url",
                "value": f"https://localhost:{port}/{number}",
            },
        )
    ]
    argv = ("patch", "mutatingwebhookconfiguration", CONFIGURATION, "--type=json")
    real.admin.kubectl(*argv, "-p", json.dumps(patch))


def ask_the_service(real: Real) -> None:
    """Undo that."""
    real.admin.kubectl("delete", "mutatingwebhookconfiguration", CONFIGURATION)
    real.apply()


async def make_a_pod(real: Real) -> None:
    """Make one for each webhook to be asked about, without effect."""
    for labels in ({}, {names.LABEL_INJECT: "true"}):
        pod = {**POD, "metadata": {"name": "asks", "labels": labels}}
        argv = ("-n", OPTED_IN, "create", "--dry-run=server", "-f", "-")
        await asyncio.to_thread(real.admin.kubectl, *argv, stdin=json.dumps(pod))


async def until_asked(real: Real, webhook: Webhook) -> None:
    """Make pods until the API server has taken up what it shall trust."""
    webhook.asked.clear()
    end = time.monotonic() + 180
    while not {"/0", "/1"} <= set(webhook.asked):
        assert time.monotonic() < end, "the API server does not ask"
        await make_a_pod(real)


async def test_an_api_server_trusts_what_was_published_and_its_successor(
    real: Real, cluster: ApiClient
) -> None:
    now = time.time() - 60  # or what is signed an hour later would not be valid yet
    clock = Clock(now - AUTHORITY_SECONDS * 2 / 3)  # so that the successor is due now
    certificates = replica(cluster, clock)
    await certificates.look()
    async with serving(certificates) as (webhook, port):
        ask_there(real, port)
        try:
            clock.now = now
            await certificates.look()
            bundle = real.object(WEBHOOKS)["webhooks"][0]["clientConfig"]["caBundle"]
            assert base64.b64decode(bundle).count(b"BEGIN CERTIFICATE") == 2
            await until_asked(real, webhook)
            before = dict(certificates.expires)
            clock.now += RIPE_SECONDS
            await certificates.look()
            assert certificates.expires["authority"] > before["authority"]
            await until_asked(real, webhook)  # nobody has anything to learn any more
        finally:
            ask_the_service(real)


async def test_pods_are_made_without_the_webhook_until_it_is_trusted(
    real: Real, cluster: ApiClient
) -> None:
    """The manifests hold no caBundle, and an API server takes them as they are."""
    certificates = replica(cluster, Clock(time.time()))
    assert not any((await places(cluster, "test").configuration.bundles()).values())
    await certificates.look()
    async with serving(certificates) as (webhook, port):
        ask_the_service(real)
        ask_there(real, port)
        try:
            for _ in range(3):
                await make_a_pod(real)
            assert webhook.asked == []
            await certificates.look()
            await until_asked(real, webhook)
        finally:
            ask_the_service(real)


async def test_applying_the_manifests_again_resets_nothing(real: Real, cluster: ApiClient) -> None:
    certificates = replica(cluster, Clock(time.time()))
    await certificates.look()
    paths = (SECRET, WEBHOOKS, places(cluster, "test").lease.path)
    before = [real.object(path) for path in paths]
    real.apply()
    for file in DECLARED:
        argv = ("apply", "--server-side", "--force-conflicts", "-f", file)
        real.admin.kubectl(*argv)
    after = [real.object(path) for path in paths]
    for found in (*before, *after):
        found.pop("metadata")
    assert after == before


async def test_without_its_policy_the_account_is_told_to_be_unguarded(
    real: Real, cluster: ApiClient
) -> None:
    configuration = places(cluster, "test").configuration
    binding = ("validatingadmissionpolicybinding", "nodeagent-controller")
    try:
        for is_there in (True, False):
            if not is_there:
                real.admin.kubectl("delete", *binding)
            async with asyncio.timeout(180):
                # An API server tells nobody when it has taken a policy up.
                while await configuration.is_guarded() is not is_there:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
    finally:
        real.apply()


async def test_replicas_that_start_together_make_one_ca(real: Real, cluster: ApiClient) -> None:
    clock = Clock(time.time())
    three = [replica(cluster, clock, name) for name in ("one", "two", "three")]
    tasks = [asyncio.create_task(one.run()) for one in three]
    try:
        async with asyncio.timeout(180):
            await asyncio.gather(*(one.ready.wait() for one in three))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert len({one.expires["authority"] for one in three}) == 1
    bundles = set((await places(cluster, "test").configuration.bundles()).values())
    assert [one.count("BEGIN") for one in bundles] == [1]
