"""The cluster that all tests of a run share, brought up by the first that asks for it."""

import asyncio
import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from integration import fleet_counts
from integration.cluster import Cluster, host, images
from integration.cluster.binaries import binaries
from integration.fleet import Fleet
from integration.fleet_counts import Counts
from integration.fleet_users import Users
from integration.image import agent_image
from integration.site import Site
from integration.webhook import Webhook

NODES = 3
FRESH = itertools.count()
TEST_SECONDS = 600


def pytest_configure() -> None:
    """Have no event loop by default: who runs one in a test would leave that behind, unclosed."""
    asyncio.set_event_loop(None)


@pytest.hookimpl(tryfirst=True)  # before the distributor reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what needs Kubernetes together: one process has the cluster that all share.

    Let the time-out of a test count the test alone, for compiling Kubernetes takes minutes. It
    is longer than those of the test's own waits, which say what they waited for.
    """
    for item in items:
        if "cluster_host" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("cluster"))
            item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))


@pytest.fixture(scope="session")
def cluster_host(pytestconfig: pytest.Config) -> None:
    """Ensure that a cluster can run here: what is missing is compiled, or skips the test."""
    if (why := host.why_not()) is not None:
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    with _uncaptured(pytestconfig):
        binaries()
        images.base_image()


@pytest.fixture(scope="session")
def cluster_images(cluster_host: None) -> Sequence[Path]:
    """Give the image archives (OCI) that every node has; last what changes often."""
    return [images.base_image(), agent_image()]


@pytest.fixture(scope="session")
def cluster(
    cluster_host: None, cluster_images: Sequence[Path], pytestconfig: pytest.Config
) -> Iterator[Cluster]:
    """Give a cluster of three nodes, shared by the whole run: a test cleans up after itself.

    `NODEAGENT_TEST_CLUSTER=2`, say, takes the one of that number, that somebody has left up.
    """
    if kept := os.environ.get("NODEAGENT_TEST_CLUSTER"):
        yield _kept(int(kept), cluster_images)
        return
    shared = Cluster()
    with _uncaptured(pytestconfig):
        shared.up(NODES, cluster_images)
    try:
        yield shared
    finally:
        shared.down()


@pytest.fixture(scope="session")
def bare_fleet(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Give what a fleet lives from; its agents are installed or not."""
    fleet = Fleet(cluster, Site(tmp_path_factory.mktemp("fleet")))
    fleet.first = fleet.release(fleet.site.closure())
    with fleet.served():
        fleet.remove()  # from a cluster that somebody has left up
        yield fleet


@pytest.fixture(scope="module")
def fleet(bare_fleet: Fleet) -> Fleet:
    """Give the agents of the shared cluster, ready with release `fleet.first`: leave them so."""
    if not bare_fleet.is_installed():
        bare_fleet.install()
        bare_fleet.bring(bare_fleet.first)
    return bare_fleet


@pytest.fixture(scope="module")
def counts(fleet: Fleet) -> Iterator[Counts]:
    """Count what agents ask and log."""
    with fleet_counts.counting(fleet) as counts:
        yield counts


@pytest.fixture
def second(fleet: Fleet) -> Iterator[bytes]:
    """Give a release that no node ever had; afterwards all are back at the first."""
    yield fleet.release(fleet.site.closure(f"second-{next(FRESH)}"))
    fleet.bring(fleet.first)


@pytest.fixture(scope="module")
def installed(fleet: Fleet) -> Iterator[Webhook]:
    """Give the webhook, installed beside the agents: leave its policy and its namespace so."""
    made = Webhook(fleet)
    made.install()
    yield made
    made.remove()


@pytest.fixture(scope="session")
def users_namespace(bare_fleet: Fleet) -> Iterator[Users]:
    users = Users(bare_fleet)
    users.make()
    yield users
    users.remove()


@pytest.fixture
def users(users_namespace: Users) -> Iterator[Users]:
    """Give the means to make pods that live from a node's store; what is made goes."""
    yield users_namespace
    users_namespace.clear()


def _kept(number: int, archives: Sequence[Path]) -> Cluster:
    cluster = Cluster(number)
    assert cluster.is_kept, f"no cluster {number} is up; `python -m integration.cluster up`"
    cluster.load(archives[-1:])
    return cluster


def _uncaptured(config: pytest.Config) -> contextlib.AbstractContextManager[None]:
    """Show progress to the person who waits."""
    capture = config.pluginmanager.getplugin("capturemanager")
    return capture.global_and_fixture_disabled() if capture else contextlib.nullcontext()
