"""Replicas that keep their own certificates, before an API server that only they speak to."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Final

import pytest
from cryptography import x509 as oracle

from nodeagent.certs import own
from nodeagent.certs.own import LOOK_SECONDS
from nodeagent.certs.plan import AUTHORITY_SECONDS, DAY, LEAF_SECONDS, RIPE_SECONDS
from nodeagent.kube import Api
from nodeagent.names import Reason
from tests.certifying import (
    CONFIGURATION,
    ENTRIES,
    HOST,
    LEASES,
    NAMESPACE,
    SECRET,
    WEBHOOKS,
    Clock,
    Cluster,
    assert_trusted,
    authorities,
    published,
    replica,
    running,
    trusted_certificate,
)

pytestmark = pytest.mark.looptime
SECOND_LIFE: Final = AUTHORITY_SECONDS * 2 // 3  # when a successor is due


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as made:
        yield made


async def test_the_first_look_makes_a_ca_publishes_it_and_serves(cluster: Cluster) -> None:
    clock = Clock()
    only = replica(cluster, clock)
    assert not only.ready.is_set()
    await only.look()
    assert only.ready.is_set()
    certificate = trusted_certificate(only.context, await published(cluster))
    ends = oracle.load_der_x509_certificate(certificate).not_valid_after_utc.timestamp()
    assert only.expires == {"leaf": ends, "authority": clock.now + AUTHORITY_SECONDS}
    [authority] = await authorities(cluster)
    assert authority.published == clock.now
    assert cluster.objects[LEASES]["spec"] == {}


async def test_a_name_that_is_not_the_services_is_not_vouched_for(cluster: Cluster) -> None:
    only = replica(cluster, Clock())
    await only.look()
    with pytest.raises(ssl.SSLCertVerificationError):
        trusted_certificate(only.context, await published(cluster), "elsewhere.example")


async def test_certificates_are_for_the_service_in_its_namespace(cluster: Cluster) -> None:
    made = own(
        Api(cluster),
        namespace=NAMESPACE,
        service="nodeagent-webhook",
        configuration=CONFIGURATION,
        pod_name="one",
    )
    await made.look()
    for host in (HOST, f"{HOST}.cluster.local"):
        trusted_certificate(made.context, await published(cluster), host)


async def test_while_nothing_is_lacking_nothing_is_written_and_little_read(
    cluster: Cluster,
) -> None:
    async with running(replica(cluster, Clock())):
        before, writes = cluster.asked.total(), cluster.writes
        await asyncio.sleep(DAY)
        assert cluster.writes == writes
        assert cluster.asked.total() - before <= 2 * DAY / LOOK_SECONDS


@pytest.mark.parametrize("slow", [0.0, 0.5])
async def test_replicas_that_start_together_make_one_ca(cluster: Cluster, slow: float) -> None:
    cluster.slow = slow
    both = [replica(cluster, Clock(), name) for name in ("one", "two", "three")]
    async with running(*both):
        await asyncio.gather(*(one.ready.wait() for one in both))
        await asyncio.sleep(LOOK_SECONDS)
        assert len(await authorities(cluster)) == 1
        await assert_trusted(cluster, *both)
        assert cluster.writes <= 3 + 2 * len(both)  # the Secret twice, the bundle; the Lease


async def test_a_successor_is_published_for_an_hour_before_it_signs(cluster: Cluster) -> None:
    clock = Clock()
    both = [replica(cluster, clock, name) for name in ("one", "two")]
    async with running(*both):
        await asyncio.sleep(LOOK_SECONDS)
        [first] = await authorities(cluster)
        clock.now += SECOND_LIFE
        await asyncio.sleep(2 * LOOK_SECONDS)
        assert (await authorities(cluster))[0].seed == first.seed
        assert (await published(cluster)).count("BEGIN") == 2
        for one in both:
            trusted_certificate(one.context, first.certificate)
        clock.now += RIPE_SECONDS
        await asyncio.sleep(LOOK_SECONDS)
        _, second = await authorities(cluster)
        for one in both:
            trusted_certificate(one.context, second.certificate)
            with pytest.raises(ssl.SSLCertVerificationError):
                trusted_certificate(one.context, first.certificate)


async def test_a_certificate_is_renewed_long_before_it_ends(cluster: Cluster) -> None:
    clock = Clock()
    only = replica(cluster, clock)
    async with running(only):
        before = trusted_certificate(only.context, await published(cluster))
        clock.now += LEAF_SECONDS * 2 / 3
        await asyncio.sleep(LOOK_SECONDS)
        assert trusted_certificate(only.context, await published(cluster)) != before
        assert only.expires["leaf"] == clock.now + LEAF_SECONDS


async def test_a_certificate_is_renewed_without_an_api_server(cluster: Cluster) -> None:
    clock = Clock()
    only = replica(cluster, clock)
    async with running(only):
        bundle = await published(cluster)
        cluster.away = True
        clock.now += LEAF_SECONDS
        await asyncio.sleep(LOOK_SECONDS)
        assert only.problem is not None
        assert only.problem.reason is Reason.API_UNREACHABLE
        trusted_certificate(only.context, bundle)
        assert only.expires["leaf"] == clock.now + LEAF_SECONDS
        cluster.away = False
        await asyncio.sleep(LOOK_SECONDS)
        assert only.problem is None


async def test_a_bundle_that_somebody_reset_is_mended(cluster: Cluster) -> None:
    both = [replica(cluster, Clock(), name) for name in ("one", "two")]
    async with running(*both):
        await asyncio.sleep(LOOK_SECONDS)
        bundle, writes = await published(cluster), cluster.writes
        changed = dict(cluster.objects[WEBHOOKS])
        changed["webhooks"] = [{"name": one, "clientConfig": {}} for one in ENTRIES]
        cluster.put(WEBHOOKS, changed)
        await asyncio.sleep(LOOK_SECONDS)
        assert await published(cluster) == bundle
        assert cluster.writes - writes <= 3


async def test_cas_that_somebody_removed_are_replaced_at_once(cluster: Cluster) -> None:
    """It is how a key that leaked is revoked."""
    both = [replica(cluster, Clock(), name) for name in ("one", "two")]
    async with running(*both):
        await asyncio.sleep(LOOK_SECONDS)
        [leaked] = await authorities(cluster)
        cluster.put(SECRET, {})
        await asyncio.sleep(2 * LOOK_SECONDS)
        [made] = await authorities(cluster)
        assert made.seed != leaked.seed
        assert await published(cluster) == made.certificate
        await assert_trusted(cluster, *both)
