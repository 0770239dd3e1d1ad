"""An API server for what the controller's replicas write: objects with versions, JSON patches.

It counts what it is asked, and can be told to fail. `tests.kube_conformance_write` holds it to
what a real one answers.
"""

import asyncio
import contextlib
import copy
import itertools
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration

from nodeagent.certs import Certificates, Places, plan
from nodeagent.certs.own import KEY
from nodeagent.certs.plan import Authority
from nodeagent.kube import Api
from nodeagent.kube.lease import Lease
from nodeagent.kube.secrets import Secret
from nodeagent.kube.webhooks import WebhookConfiguration
from nodeagent.names import AUTHORITIES, LEASE
from tests.fakeserving import Reply

NAMESPACE: Final = "nodeagent-system"
CONFIGURATION: Final = "nodeagent"
HOST: Final = f"nodeagent-webhook.{NAMESPACE}.svc"
SHORT: Final = 0.01  # seconds: all that does not wait is done
SECRET: Final = f"/api/v1/namespaces/{NAMESPACE}/secrets/{AUTHORITIES}"
LEASES: Final = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{LEASE}"
WEBHOOKS: Final = (
    f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{CONFIGURATION}"
)
_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME
ENTRIES: Final = ("namespace.nodeagent.dev", "pod.nodeagent.dev")


class Cluster(ApiClient):
    """The manifests' objects, as they are after the installation.

    `faults` gives a status for a method and path, `away` drops connections, `slow` is how long
    each answer takes, so that others come in between. What is `guarded` by a policy refuses all
    that is asked without effect.
    """

    def __init__(self) -> None:
        super().__init__(Configuration(host="http://api"))
        self._versions = itertools.count(1)
        webhooks: list[dict[str, Any]] = [
            {"name": one, "clientConfig": {"service": {}}} for one in ENTRIES
        ]
        self.objects: dict[str, dict[str, Any]] = {}
        self.put(SECRET, {})
        self.put(LEASES, {})
        self.put(WEBHOOKS, {"webhooks": webhooks})
        self.asked: Counter[str] = Counter()
        self.faults: dict[str, int] = {}
        self.away, self.slow, self.guarded = False, 0.0, True

    def put(self, path: str, fields: Mapping[str, Any]) -> None:
        """Write an object as somebody else."""
        version = {"resourceVersion": str(next(self._versions))}
        self.objects[path] = {**copy.deepcopy(dict(fields)), "metadata": version}

    @property
    def writes(self) -> int:
        """How many patches came in."""
        return sum(count for what, count in self.asked.items() if what.startswith("PATCH"))

    async def call_api(  # type: ignore[override] # it gives what is needed of an answer
        self,
        method: str,
        url: str,
        header_params: Mapping[str, str],
        body: object = None,
        post_params: object = None,
        _request_timeout: object = None,
    ) -> Reply:
        """Answer as the library's own transport would."""
        path, is_dry = urlsplit(url).path, "dryRun" in urlsplit(url).query
        what = f"{'dry ' if is_dry else ''}{method} {path}"
        self.asked[what] += 1
        await asyncio.sleep(self.slow)
        if self.away:
            raise aiohttp.ClientConnectionError("told to be away")
        status, answer = self._answer(what, path, copy.deepcopy(body))
        return Reply(status, copy.deepcopy(answer), {})

    def _answer(self, what: str, path: str, body: Any) -> tuple[int, Any]:  # noqa: ANN401 any JSON
        if what in self.faults:
            return self.faults[what], {"message": f"told to answer {self.faults[what]}"}
        if what.startswith("dry"):
            return (403 if self.guarded else 200), {"message": "the policy says no"}
        if path not in self.objects:
            return 404, {"message": "not found"}
        if what.startswith("PATCH"):
            try:
                patched = _patched(self.objects[path], body)
            except LookupError as error:
                return 422, {"message": f"the server rejected our request: {error}"}
            self.put(path, patched)
        return 200, self.objects[path]


def _patched(found: Mapping[str, Any], operations: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Apply `test` and `add`, all or none; a test that fails is a LookupError."""
    changed: Any = json.loads(json.dumps(found))
    for one in operations:
        *way, last = [int(step) if step.isdigit() else step for step in one["path"].split("/")[1:]]
        parent = changed
        for step in way:
            parent = parent[step]
        if one["op"] == "add":
            parent[last] = one["value"]
        elif parent[last] != one["value"]:
            raise LookupError(f"test of {one['path']} failed")
    result: dict[str, Any] = changed
    return result


def places(cluster: ApiClient, pod_name: str) -> Places:
    """What a replica works on."""
    api = Api(cluster)
    return Places(
        Secret(api, NAMESPACE, AUTHORITIES),
        WebhookConfiguration(api, CONFIGURATION),
        Lease(api, NAMESPACE, LEASE, pod_name),
    )


class Clock:
    """A clock that tests set, or one that goes with the event loop."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def replica(cluster: ApiClient, clock: Clock, pod_name: str = "one") -> Certificates:
    """Give a replica of the controller, as far as certificates go."""
    return Certificates(places(cluster, pod_name), (HOST, "localhost"), clock)


def trusted_certificate(context: ssl.SSLContext, bundle: str, host: str | None = HOST) -> bytes:
    """Give the certificate (DER) that a client gets who trusts this bundle, whatever the time.

    Raises ssl.SSLCertVerificationError if it does not trust it.
    """
    trusting = ssl.create_default_context(cadata=bundle)
    trusting.check_hostname = host is not None
    trusting.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(back, there, server_hostname=host)
    server = context.wrap_bio(there, back, server_side=True)
    for side in (client, server, client, server):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    certificate = client.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


@contextlib.asynccontextmanager
async def running(*replicas: Certificates) -> AsyncIterator[None]:
    """Let them run, from their first look on."""
    tasks = [asyncio.create_task(one.run()) for one in replicas]
    try:
        await asyncio.sleep(SHORT)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def published(cluster: Cluster) -> str:
    """Give what both entries trust."""
    bundles = await places(cluster, "test").configuration.bundles()
    assert tuple(bundles) == ENTRIES
    assert len(set(bundles.values())) == 1
    return bundles[ENTRIES[0]]


async def authorities(cluster: Cluster) -> tuple[Authority, ...]:
    content = await places(cluster, "test").secret.read()
    return plan.parse(content.data.get(KEY), "the Secret")


async def assert_trusted(cluster: Cluster, *replicas: Certificates) -> None:
    for one in replicas:
        trusted_certificate(one.context, await published(cluster))
