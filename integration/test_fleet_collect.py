"""Releases come and go on a real cluster, with pods that live across them."""

from collections.abc import Iterator

import pytest

from integration.fleet import NAMESPACE, Fleet
from integration.fleet_users import Users, life
from nodeagent import names, release

NODE = "node1"
SOON = {
    "NODEAGENT_COLLECT_SECONDS": "0.5",
    "NODEAGENT_COLLECT_GRACE_SECONDS": "1",
    "NODEAGENT_COLLECT_MARGIN_SECONDS": "1",
    "NODEAGENT_KEEP_RELEASES": "0",
}
LIVES = 3  # promotions that a pod lives across
KEPT = 2  # releases without pods: what pods get, and what a rollback goes to


@pytest.fixture
def hasty(fleet: Fleet) -> Iterator[Fleet]:
    """Give a fleet that collects at once; it is left as it was."""
    set_up(fleet, SOON)
    yield fleet
    fleet.bring(fleet.first)
    set_up(fleet, {})


def set_up(fleet: Fleet, settings: dict[str, str]) -> None:
    fleet.settings = settings
    fleet.configure()
    fleet.kubectl("rollout", "restart", "daemonset/nodeagent", "-n", NAMESPACE)
    fleet.until_rolled_out()


def there(fleet: Fleet) -> set[str]:
    """List, by 12 digits, the releases that a node has."""
    listed = fleet.cluster.sh(NODE, ["ls", f"{names.STATE_DIR}/releases"]).stdout.split()
    return {name[:12] for name in listed}


@pytest.mark.parametrize("count", [6, pytest.param(20, marks=pytest.mark.soak)])
def test_pods_keep_what_they_started_with_and_all_else_goes(
    count: int, hasty: Fleet, users: Users
) -> None:
    fleet, living = hasty, dict[str, tuple[str, object]]()
    for number in range(2, count + 2):
        manifest, pod = fleet.release(fleet.site.closure(str(number), changed=2)), f"pod-{number}"
        fleet.bring(manifest)
        users.pod(pod, NODE)
        users.until_running(pod)
        living[pod] = release.digest12(release.digest_of(manifest)), life(users.get(pod))
        if len(living) > LIVES:
            ended = next(iter(living))
            users.delete(ended)
            del living[ended]
        for one, (_, born) in living.items():
            assert f"hello {one.removeprefix('pod-')}" in users.hello(one)
            assert life(users.get(one)) == born
        fleet.until(f"few: the releases after {number}", lambda: len(there(fleet)) <= LIVES + KEPT)
        assert {held for held, _ in living.values()} <= there(fleet)
    users.clear()
    fleet.until("collected", lambda: len(there(fleet)) == KEPT)
    registered = fleet.exec(NODE, "nodeagent", "gc", "--dry-run", "--paths")
    assert "left alone" not in registered
