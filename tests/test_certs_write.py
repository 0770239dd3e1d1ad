"""The stand-in for an API server that certificates are tried on, under its conformance suite."""

from collections.abc import AsyncIterator

import pytest

from tests.certifying import Cluster
from tests.kube_conformance_write import *  # noqa: F403 the suite is collected here


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as made:
        yield made
