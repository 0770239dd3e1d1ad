"""An API server in trouble: agents go on, ask within bounds, say it once, and catch up once."""

import time
from collections import Counter

import pytest

from integration import fleet_kubelets, fleet_proxy
from integration.fleet import NAMESPACE, Fleet
from integration.fleet_counts import Counts
from integration.fleet_trouble import (
    SOAK,
    TRY,
    containers,
    held_up,
    refusals,
    tries,
    until_poured,
    until_refused,
)
from integration.fleet_users import unlabelled
from nodeagent.names import Reason


@pytest.mark.parametrize("times", [3, pytest.param(14, marks=SOAK)])
def test_without_an_api_server_a_release_is_poured_and_published_and_told_once_afterwards(
    times: int, fleet: Fleet, counts: Counts, second: bytes
) -> None:
    misses = refusals(fleet, Reason.API_UNREACHABLE)
    before = Counter(counts.warnings())
    with fleet.watching() as seen:
        with fleet.cache.away():
            held_up(fleet, second)
            fleet.cluster.stop("cp")
        until_poured(fleet, second)
        until_refused(fleet, Reason.API_UNREACHABLE, misses, times)
        fleet.cluster.start("cp")
        fleet.until("answering: the API server", lambda: fleet.cluster.answers("--raw", "/readyz"))
        seen.reconnect()
        fleet.until_ready(second)
        writes = counts.writes
    assert unlabelled(seen) == []
    assert "nodes" not in writes  # no label was set anew
    assert writes["nodestores/status"] <= 2 * len(fleet.nodes)
    assert writes.get("nodes/status", 0) <= 2 * len(fleet.nodes)
    after = Counter(counts.warnings()) - before
    assert after[Reason.API_UNREACHABLE] <= len(fleet.nodes)
    assert after.total() <= 3 * len(fleet.nodes)


def test_agents_take_the_new_token_when_theirs_is_no_longer_good(
    fleet: Fleet, counts: Counts, second: bytes
) -> None:
    """Tokens die with their account; kubelets that start anew bring others for the next one."""
    before, same = Counter(counts.warnings()), containers(fleet)
    misses = refusals(fleet, Reason.API_REFUSED)
    with fleet.watching() as seen:
        began = time.monotonic()
        fleet.kubectl("delete", "serviceaccount", "nodeagent", "-n", NAMESPACE)
        fleet.apply()
        start = counts.requests
        fleet.promote(second)
        fleet.deliver()
        until_poured(fleet, second)
        until_refused(fleet, Reason.API_REFUSED, misses, 2)
        fleet_kubelets.restart(fleet.cluster)
        fleet.until_ready(second)
        elapsed = time.monotonic() - began
    assert counts.requests - start <= len(fleet.nodes) * (tries(elapsed) + 2 * TRY)
    after = Counter(counts.warnings()) - before
    assert after == {Reason.API_REFUSED: len(fleet.nodes)}
    assert unlabelled(seen) == []
    assert containers(fleet) == same


def test_a_slow_etcd_that_also_hangs_up_costs_no_more_requests(
    fleet: Fleet, counts: Counts, second: bytes
) -> None:
    with fleet.watching() as seen, fleet_proxy.between(fleet.cluster) as etcd:
        seen.reconnect()
        with fleet.cache.away():
            held_up(fleet, second)
            before, warned = counts.requests, Counter(counts.warnings())
            misses = refusals(fleet, Reason.API_UNREACHABLE)
            began = time.monotonic()
            etcd.order("6")
        until_poured(fleet, second)
        until_refused(fleet, Reason.API_UNREACHABLE, misses, 2)
        etcd.order("drop")
        etcd.order("0.05")
        fleet.until_ready(second)
        elapsed = time.monotonic() - began
        requests = counts.requests - before
    assert requests <= len(fleet.nodes) * TRY * tries(elapsed)
    after = Counter(counts.warnings()) - warned
    assert after[Reason.API_UNREACHABLE] <= 2 * len(fleet.nodes)
    assert after.total() <= 3 * len(fleet.nodes)
    assert unlabelled(seen) == []
