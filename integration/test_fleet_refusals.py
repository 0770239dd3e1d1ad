"""What a node does not take: it says why, publishes nothing of it, and what it has stays ready."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from integration import closures
from integration.fleet import Fleet, ours
from integration.site import FLEET, SYSTEM
from nodeagent import keys, names, promote
from nodeagent.names import Reason

NODE = "node3"
OTHER_SYSTEM = "aarch64-linux"
Change = dict[str, Any]


@pytest.fixture(autouse=True)
def _first_again(fleet: Fleet) -> Iterator[None]:
    """Give each test a fleet that is ready, and leave it so."""
    yield
    fleet.site.pins.unlink()  # promotions do not start from what a test made up
    fleet.bring(fleet.first)


def for_others(fleet: Fleet) -> bytes:
    """Make a release that has the profile for another system only."""

    def move(manifest: Change) -> None:
        manifest["systems"] = {OTHER_SYSTEM: manifest["systems"].pop(SYSTEM)}

    return fleet.site.rewrite(fleet.release(fleet.site.closure("decoy")), move)


def test_a_release_for_another_system_is_refused_and_the_condition_says_so(fleet: Fleet) -> None:
    fleet.promote(for_others(fleet))
    fleet.deliver()
    fleet.replace_node(NODE)
    told = fleet.until_unready(NODE, Reason.SYSTEM_MISSING)
    assert SYSTEM in told["message"]
    assert OTHER_SYSTEM in told["message"]
    assert ours(fleet.node(NODE)) == set()
    assert not fleet.gate(NODE)
    assert "decoy" not in fleet.cluster.sh(NODE, ["ls", "/nix/store"]).stdout
    fleet.until("told", lambda: OTHER_SYSTEM in str(fleet.events(NODE, Reason.SYSTEM_MISSING)))
    for node in ("node1", "node2"):
        assert OTHER_SYSTEM in fleet.until_problem(node, Reason.SYSTEM_MISSING)
        assert fleet.is_ready(node, fleet.first)


def test_a_profile_of_the_same_name_for_another_system_is_never_published(fleet: Fleet) -> None:
    """And a node without a profile that other systems have says which those are."""
    decoy = json.loads(for_others(fleet))["systems"]
    profiles = decoy[OTHER_SYSTEM]["profiles"]
    profiles["ml"] = profiles["ds"]

    def add(manifest: Change) -> None:
        manifest["systems"] |= decoy

    both = fleet.site.rewrite(fleet.first, add)
    fleet.bring(both)
    for node in fleet.nodes:
        assert "decoy" not in fleet.cluster.sh(node, ["ls", "/nix/store"]).stdout
        [profile] = fleet.store(node)["profiles"]
        assert profile["root"].endswith("-ds-1")
        assert fleet.store(node)["elsewhere"] == [{"name": "ml", "systems": [OTHER_SYSTEM]}]
        assert f"{names.LABEL_PROFILE_PREFIX}ml" not in ours(fleet.node(node))


@pytest.fixture
def labelled(fleet: Fleet) -> Iterator[None]:
    """Let the channel of the node be `canary`."""
    fleet.kubectl("label", "node", NODE, f"{names.LABEL_CHANNEL}=canary")
    yield
    fleet.kubectl("label", "node", NODE, f"{names.LABEL_CHANNEL}-")


def test_a_node_in_a_channel_that_the_pins_lack_says_so_and_stays_ready(
    fleet: Fleet, labelled: None
) -> None:
    fleet.promote(fleet.first)
    fleet.deliver()
    told = fleet.until_problem(NODE, Reason.CHANNEL_UNKNOWN)
    assert "'canary' (they have: stable)" in told
    assert fleet.is_ready(NODE, fleet.first)
    assert "problem" not in fleet.store("node1")


def test_a_node_takes_the_channel_of_its_label_when_it_looks_again(
    fleet: Fleet, labelled: None
) -> None:
    second = fleet.release(fleet.site.closure("2"))
    canary = promote.Promotion(second, FLEET, "canary", ["main"], timedelta(days=1))
    promote.promote(fleet.site.pins, canary, fleet.site.release_key, datetime.now(UTC))
    fleet.pin()
    fleet.deliver()
    fleet.until_ready(second, NODE)
    assert fleet.store(NODE)["channel"] == "canary"
    fleet.until_ready(fleet.first, "node1", "node2")


def test_what_a_stranger_signed_is_refused(fleet: Fleet) -> None:
    secret, _ = closures.make_key(fleet.site.root / "stranger", "release-1")
    second = fleet.release(fleet.site.closure("2"))
    fleet.site.pin(second, key=keys.load_secret(secret))
    check_refused(fleet, Reason.SIGNATURE_INVALID)


def test_the_pins_of_another_fleet_are_refused(fleet: Fleet) -> None:
    second = fleet.release(fleet.site.closure("2"))
    fleet.site.pin(second, fleet="other")
    check_refused(fleet, Reason.WRONG_FLEET)


def check_refused(fleet: Fleet, reason: Reason) -> None:
    """Hand the pins over, and check that every node refuses them and stays ready."""
    fleet.pin()
    fleet.deliver()
    for node in fleet.nodes:
        fleet.until_problem(node, reason)
        assert fleet.is_ready(node, fleet.first)
        assert fleet.gate(node)
