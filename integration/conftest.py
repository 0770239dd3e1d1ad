"""The cluster that all tests of a run share, brought up by the first that asks for it."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from integration.cluster import Cluster, host, images
from integration.cluster.binaries import binaries

NODES = 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the time-out of a test count the test alone: compiling Kubernetes takes minutes."""
    for item in items:
        if "cluster_host" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(func_only=True))


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
    return [images.base_image()]


@pytest.fixture(scope="session")
def cluster(
    cluster_host: None, cluster_images: Sequence[Path], pytestconfig: pytest.Config
) -> Iterator[Cluster]:
    """Give a cluster of three nodes, shared by the whole run: a test cleans up after itself."""
    shared = Cluster()
    with _uncaptured(pytestconfig):
        shared.up(NODES, cluster_images)
    try:
        yield shared
    finally:
        shared.down()


def _uncaptured(config: pytest.Config) -> contextlib.AbstractContextManager[None]:
    """Show progress to the person who waits."""
    capture = config.pluginmanager.getplugin("capturemanager")
    return capture.global_and_fixture_disabled() if capture else contextlib.nullcontext()
