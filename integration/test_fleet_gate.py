"""A shut gate holds up whatever starts, containers of a running pod included."""

from integration.fleet import Fleet
from integration.fleet_users import Users, spec
from nodeagent import names
from nodeagent.names import Reason

NODE = "node1"


def waits(users: Users, name: str) -> bool:
    """Tell whether a pod's only container was refused by its runtime."""
    [container] = users.get(name)["status"]["containerStatuses"]
    return bool(container["state"].get("waiting", {}).get("reason") == "CreateContainerError")


def test_a_container_that_starts_anew_waits_while_the_gate_is_shut(
    fleet: Fleet, users: Users
) -> None:
    users.pod("user", NODE)
    users.until_running("user")
    with fleet.cache.away():
        fleet.cluster.sh(NODE, ["rm", "-rf", fleet.path("part1")])
        fleet.until_unready(NODE, Reason.PATH_DAMAGED)
        users.kill("user")
        fleet.until("waiting: the container", lambda: waits(users, "user"))
        assert not fleet.gate(NODE)
    fleet.until_ready(fleet.first, NODE)
    users.until_running("user")
    assert "hello 1" in users.hello("user")


def test_a_directory_that_a_runtime_made_in_a_gates_place_gives_way(
    fleet: Fleet, users: Users
) -> None:
    gate = f"{names.RUN_DIR}/profiles/ds"
    volumes = spec(NODE)["volumes"]
    for volume in volumes:
        del volume["hostPath"]["type"]
    with fleet.cache.away():
        fleet.cluster.sh(NODE, ["rm", "-rf", fleet.path("part1")])
        fleet.until_unready(NODE, Reason.PATH_DAMAGED)
        fleet.cluster.sh(NODE, ["rm", gate])
        users.pod("careless", NODE, volumes=volumes)
        fleet.until("made: a directory", lambda: fleet.gate(NODE))
        assert fleet.condition(NODE)["status"] == "False"
    fleet.until_ready(fleet.first, NODE)
    fleet.cluster.sh(NODE, ["test", "-L", gate])
    # It may be caught between two starts: asking it fails then, and it is asked again.
    fleet.until("greeting: the pod", lambda: "hello 1" in users.hello("careless"))
