"""A real API server under the conformance suite of `nodeagent.kube`, as the agent's own account."""

from collections.abc import Iterator

import pytest

from integration.apiserver import api_server
from tests.kube_conformance import *  # noqa: F403 the suite is collected here
from tests.kube_conformance_leave import *  # noqa: F403 … in parts
from tests.kube_conformance_use import *  # noqa: F403
from tests.kube_server import Server


@pytest.fixture(scope="module")
def real(cluster_host: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give an API server that knows NodeStores and the agent's rights."""
    declared = ("namespace.yaml", "rbac.yaml", "crd.yaml")
    with api_server(tmp_path_factory.mktemp("api"), *declared) as (server, _):
        yield server


@pytest.fixture
async def server(real: Server) -> Server:
    return await real.with_node()
