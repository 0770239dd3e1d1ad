"""Replicas that keep their own certificates in bad times: what is gone, refused, or set wrong."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from nodeagent.certs.own import KEY, LOOK_SECONDS, PATIENT_SECONDS
from nodeagent.certs.plan import DAY
from nodeagent.kube.lease import LEASE_SECONDS
from nodeagent.names import Reason
from tests.certifying import (
    LEASES,
    NAMESPACE,
    SECRET,
    SHORT,
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


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as made:
        yield made


async def test_cas_that_cannot_be_read_are_left_alone(cluster: Cluster) -> None:
    only = replica(cluster, Clock())
    async with running(only):
        bundle, writes = await published(cluster), cluster.writes
        cluster.put(SECRET, {"data": {KEY: "e30="}})
        await asyncio.sleep(LOOK_SECONDS)
        assert only.problem is not None
        assert f"{KEY} in the Secret {NAMESPACE}/" in only.problem.message
        assert cluster.writes == writes
        trusted_certificate(only.context, bundle)


@pytest.mark.parametrize("gone", [SECRET, LEASES, WEBHOOKS])
async def test_an_object_that_is_gone_is_named(cluster: Cluster, gone: str) -> None:
    del cluster.objects[gone]
    only = replica(cluster, Clock())
    async with running(only):
        assert only.problem is not None
        assert gone.rpartition("/")[2] in only.problem.message
        assert "apply daemonset/controller again" in only.problem.message
        assert only.ready.is_set() is (gone == WEBHOOKS)


async def test_an_account_that_no_policy_guards_is_told_and_serves(cluster: Cluster) -> None:
    cluster.guarded = False
    only = replica(cluster, Clock())
    async with running(only):
        assert only.ready.is_set()
        assert only.problem is not None
        assert only.problem.reason is Reason.POLICY_NOT_ENFORCED
        cluster.guarded = True
        await asyncio.sleep(LOOK_SECONDS)
        assert only.problem is None
        await asyncio.sleep(DAY)
    assert cluster.asked[f"dry PATCH {WEBHOOKS}"] == 2


async def test_a_lease_of_one_that_died_runs_out(cluster: Cluster) -> None:
    dead = {"holderIdentity": "dead", "leaseDurationSeconds": LEASE_SECONDS}
    cluster.put(LEASES, {"spec": dead})
    only = replica(cluster, Clock())
    async with running(only):
        await asyncio.sleep(LEASE_SECONDS - 2 * SHORT)
        assert cluster.writes == 0
        await asyncio.sleep(PATIENT_SECONDS)
        await assert_trusted(cluster, only)


async def test_a_lease_that_others_go_on_taking_is_theirs(cluster: Cluster) -> None:
    others = {"holderIdentity": "other"}
    cluster.put(LEASES, {"spec": others})
    async with running(replica(cluster, Clock())):
        for _ in range(10):
            await asyncio.sleep(LEASE_SECONDS / 2)
            cluster.put(LEASES, {"spec": others})
        assert cluster.writes == 0


@pytest.mark.parametrize("status", [403, 409, 422, 500])
@pytest.mark.parametrize("path", [SECRET, LEASES, WEBHOOKS])
async def test_who_is_refused_does_not_write_in_a_loop(
    cluster: Cluster, path: str, status: int
) -> None:
    cluster.faults[f"PATCH {path}"] = status
    both = [replica(cluster, Clock(), name) for name in ("one", "two")]
    async with running(*both):
        await asyncio.sleep(3600)
    steps = 3 * 4  # read the Secret and the bundle twice, and write
    assert 0 < cluster.asked.total() <= (3600 / PATIENT_SECONDS + 3) * 2 * (6 + steps)
    assert 0 < cluster.asked[f"PATCH {path}"] <= (3600 / PATIENT_SECONDS + 3) * 2 * 3


async def test_a_clock_that_jumps_makes_nobody_write_in_a_loop(cluster: Cluster) -> None:
    clock = Clock()
    both = [replica(cluster, clock, name) for name in ("one", "two")]
    async with running(*both):
        await asyncio.sleep(LOOK_SECONDS)
        for jump in (365 * DAY, -365 * DAY, -365 * DAY, 365 * DAY):
            clock.now += jump
            await asyncio.sleep(2 * LOOK_SECONDS)
            await assert_trusted(cluster, *both)
            writes = cluster.writes
            await asyncio.sleep(3600)
            assert cluster.writes == writes


async def test_two_replicas_whose_clocks_differ_do_not_fight(cluster: Cluster) -> None:
    both = replica(cluster, Clock(), "one"), replica(cluster, Clock(Clock().now + 400 * DAY), "two")
    async with running(*both):
        await asyncio.sleep(4 * LOOK_SECONDS)
        writes = cluster.writes
        await asyncio.sleep(DAY)
        assert cluster.writes == writes
        await assert_trusted(cluster, *both)


async def test_a_writer_that_is_stopped_halfway_leaves_work_that_another_ends(
    cluster: Cluster,
) -> None:
    cluster.faults[f"PATCH {WEBHOOKS}"] = 500
    first = replica(cluster, Clock(), "one")
    async with running(first):
        assert (await authorities(cluster))[0].published is None
    cluster.faults.clear()
    await replica(cluster, Clock(), "two").look()
    assert (await authorities(cluster))[0].published is not None
    await assert_trusted(cluster, first)
