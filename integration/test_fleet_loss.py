"""What is lost or damaged under an agent: gate, condition, label, in this order, and back again."""

import pytest

from integration.fleet import Fleet, condition, ours
from integration.fleet_users import LABELS, Users, unlabelled
from integration.fleet_watch import Watch
from nodeagent.names import Phase, Reason

NODE = "node1"


@pytest.fixture
def user(fleet: Fleet, users: Users) -> Users:
    """Give a pod named `user` that lives from the node's store; its agent has told no event yet."""
    fleet.renew(NODE)
    users.pod("user", NODE)
    users.until_running("user")
    return users


def vanish(fleet: Fleet) -> str:
    """Delete a path of the published closure; give it."""
    path = fleet.path("part1")
    fleet.cluster.sh(NODE, ["rm", "-rf", path])
    return path


def corrupt(fleet: Fleet) -> str:
    """Change a byte in a path of the published closure, and nothing that a walk sees; give it."""
    path = fleet.path("part1")
    file = f"{path}/file0"
    change = f"printf '#' | dd of={file} conv=notrunc status=none && touch --date=@1 {file}"
    fleet.cluster.sh(NODE, ["sh", "-c", change])
    return path


def digests(fleet: Fleet, path: str) -> str:
    return fleet.cluster.sh(NODE, ["sh", "-c", f"sha256sum {path}/file*"]).stdout


def unready(seen: Watch) -> list[int]:
    """Number the versions in which the condition is False."""
    return [
        number
        for number, one in enumerate(seen.versions)
        if one.name == NODE and condition(one.object).get("status") == "False"
    ]


def test_a_path_that_vanishes_shuts_the_gate_and_the_condition_tells_until_it_is_back(
    fleet: Fleet, user: Users
) -> None:
    with fleet.watching() as seen:
        with fleet.cache.away():
            path = vanish(fleet)
            told = fleet.until_unready(NODE, Reason.PATH_DAMAGED)
            shut_at = fleet.gates_changed(NODE)
            assert path in told["message"]
            assert not fleet.gate(NODE)
            fleet.until(
                "told: the loss", lambda: path in str(fleet.events(NODE, Reason.PATH_DAMAGED))
            )
            store = fleet.store(NODE)
            assert not store["ready"]
            assert [one["gate"] for one in store["profiles"]] == [False]
        fleet.until_ready(fleet.first, NODE)
    assert fleet.gate(NODE)
    assert shut_at < seen.versions[unready(seen)[0]].at
    assert unlabelled(seen) == []
    assert "hello 1" in user.hello("user")


def test_damage_that_only_reading_shows_is_found_after_a_power_cut(
    fleet: Fleet, user: Users
) -> None:
    path = fleet.path("part1")
    whole = digests(fleet, path)
    with fleet.watching() as seen:
        with fleet.cache.away():
            corrupt(fleet)
            assert digests(fleet, path) != whole
            assert fleet.gate(NODE)
            fleet.cluster.reboot(NODE)
            told = fleet.until_unready(NODE, Reason.PATH_DAMAGED)
            assert path in told["message"]
            assert not fleet.gate(NODE)
        fleet.until_ready(fleet.first, NODE)
    assert fleet.gate(NODE)
    assert digests(fleet, path) == whole
    assert unlabelled(seen) == []


def test_a_loss_that_lasts_takes_the_labels_once_no_pod_requires_them_and_gives_them_back(
    fleet: Fleet, user: Users
) -> None:
    with fleet.watching() as seen:
        with fleet.cache.away():
            vanish(fleet)
            fleet.until_unready(NODE, Reason.PATH_DAMAGED)
            shut_at = fleet.gates_changed(NODE)
            fleet.until("trying again", lambda: fleet.store(NODE)["phase"] == Phase.RETRYING)
            assert ours(fleet.node(NODE)) == LABELS.keys()
            needed = len(seen.versions)
            user.delete("user")
            fleet.until("gone: the labels", lambda: ours(fleet.node(NODE)) == set())
        fleet.until_ready(fleet.first, NODE)
    assert ours(fleet.node(NODE)) == LABELS.keys()
    bare = [number for number, one in enumerate(seen.versions) if not ours(one.object)]
    assert shut_at < seen.versions[unready(seen)[0]].at
    assert unready(seen)[0] < needed <= bare[0]
