"""The example pod: Pending while no node is ready, then it has pandas that no image brought."""

import os
from collections.abc import Iterator

import pytest
import yaml

from integration.demo_profile import demo_closure
from integration.fleet import REPOSITORY, Fleet
from integration.fleet_users import NAMESPACE, Users
from nodeagent.errors import NodeAgentError

SECONDS = 120.0


@pytest.fixture
def demo(bare_fleet: Fleet) -> Iterator[bytes]:
    """Give the release of the demo's profile, for nodes that were never ready."""
    try:
        closure = demo_closure()
    except NodeAgentError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no profile with pandas: {error}")
    bare_fleet.remove()
    yield bare_fleet.release(closure)
    bare_fleet.bring(bare_fleet.first)


def test_the_example_pod_waits_for_a_ready_node_and_imports_pandas_there(
    bare_fleet: Fleet, demo: bytes, users: Users
) -> None:
    fleet = bare_fleet
    pod = yaml.safe_load((REPOSITORY / "examples/pod.yaml").read_text())
    pod["spec"]["containers"][0]["image"] = "localhost/base:1"
    users.apply(pod)
    fleet.until(
        "unschedulable: the pod", lambda: "node affinity/selector" in users.events("pandas")
    )
    fleet.install()
    assert users.phase("pandas") == "Pending"
    fleet.promote(demo)
    fleet.deliver()
    fleet.until("over: the pod", lambda: users.phase("pandas") == "Succeeded", seconds=SECONDS)
    version = fleet.kubectl("logs", "pandas", "-n", NAMESPACE)
    assert version.split(".")[0].isdigit()
    assert (
        f"pandas=={version.strip()}" in (REPOSITORY / "examples/ds/requirements.lock").read_text()
    )
