"""A node in trouble: registered anew, renamed, its disk full, kubelet and agent dying in turn."""

import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from integration import fleet_kubelets
from integration.cluster import Cluster, config
from integration.cluster.pki import Authority
from integration.fleet import Fleet
from integration.fleet_counts import Counts
from integration.fleet_trouble import SOAK, TRY, containers, tries
from integration.fleet_users import Users, life, unlabelled
from nodeagent.names import Reason

NODE: Final = "node3"
OTHER_NAME: Final = "node4"
DISK: Final = "64m"
# Takes all the room there is, and gives it back when its pod ends.
FILL: Final = "exec 3>/host/ballast; rm /host/ballast; dd if=/dev/zero bs=64k >&3; exec sleep 9d"


def owner(fleet: Fleet, node: str) -> str:
    """Give the uid of the Node with which a NodeStore goes, nothing if there is none."""
    found = fleet.kubectl("get", "nodestore", node, "-o", "json", "--ignore-not-found")
    owners = json.loads(found)["metadata"].get("ownerReferences", ()) if found else ()
    return str(owners[0]["uid"]) if owners else ""


@pytest.mark.parametrize("news", [True, pytest.param(False, marks=SOAK)])
def test_a_node_that_registers_anew_is_told_everything_anew(
    news: bool, fleet: Fleet, counts: Counts, second: bytes
) -> None:
    """The agent lives on meanwhile, and finds out by itself when it looks again."""
    old, began, asked = fleet.node(NODE)["metadata"]["uid"], time.monotonic(), counts.requests
    fleet.kubectl("delete", "node", NODE)
    fleet_kubelets.restart(fleet.cluster)
    fleet.until("there: a new node", lambda: fleet.cluster.answers("node", NODE))
    new = fleet.node(NODE)["metadata"]["uid"]
    assert new != old
    wanted = second if news else fleet.first
    if news:
        fleet.promote(second)
        fleet.deliver()
    # Without news it looks when the next heartbeat is due, after five minutes.
    fleet.until("its own: the NodeStore", lambda: owner(fleet, NODE) == new, seconds=480)
    fleet.until_ready(wanted)
    elapsed = time.monotonic() - began
    assert counts.requests - asked <= len(fleet.nodes) * TRY * (tries(elapsed) + 2)


@contextlib.contextmanager
def renamed(cluster: Cluster, old: str, new: str) -> Iterator[None]:
    """Let the machine of a node be another one, with the same disk."""
    files = config.node(cluster.lan, new, Authority())
    admin = cluster.kubeconfig.read_text()  # the CA's key is gone, so it is no node's own
    files |= {"kubelet.kubeconfig": admin, "proxy.kubeconfig": admin}
    del files["ca.crt"]
    place = cluster.machine(old).disk / "var/lib/cluster"
    before = {name: (place / name).read_text() for name in files}
    swap(cluster, old, new, files)
    try:
        yield
    finally:
        swap(cluster, new, old, before)


def swap(cluster: Cluster, old: str, new: str, files: dict[str, str]) -> None:
    cluster.stop(old)
    cluster.kubectl("delete", "node", old)
    disk = cluster.machine(old).disk
    disk = disk.rename(disk.with_name(new))
    for name, text in files.items():
        (disk / "var/lib/cluster" / name).write_text(text)
    cluster.start(new)
    cluster.until_ready(new)


def test_a_node_that_is_renamed_keeps_its_store_and_leaves_no_nodestore_behind(
    fleet: Fleet, counts: Counts
) -> None:
    with renamed(fleet.cluster, NODE, OTHER_NAME):
        fleet.until_ready(fleet.first, OTHER_NAME)
        fleet.until("gone: the NodeStore", lambda: owner(fleet, NODE) == "")
        assert owner(fleet, OTHER_NAME) == fleet.node(OTHER_NAME)["metadata"]["uid"]
        passes = [one for one in counts.lines(OTHER_NAME) if one["event"] == "pass"]
        assert sum(one["fetched"] for one in passes) == 0
    fleet.until_ready(fleet.first, NODE)
    fleet.until("gone: the other NodeStore", lambda: owner(fleet, OTHER_NAME) == "")
    fleet.until_rolled_out()


@contextlib.contextmanager
def small_disk(fleet: Fleet) -> Iterator[None]:
    """Let the store of a node lie on a small file system of its own, empty at first."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", "/nix"]
    fleet.cluster.sh(NODE, mount)
    fleet.renew(NODE)
    try:
        fleet.until_ready(fleet.first, NODE)
        yield
    finally:
        fleet.cluster.sh(NODE, ["umount", "--lazy", "/nix"])
        fleet.renew(NODE)
        fleet.bring(fleet.first)


def fill_disk(users: Users) -> None:
    """Run a pod that fills the file system of its node's store."""
    container = {
        "name": "filler",
        "image": "localhost/base:1",
        "command": ["sh", "-c", FILL],
        "volumeMounts": [{"name": "nix", "mountPath": "/host"}],
    }
    volumes = [{"name": "nix", "hostPath": {"path": "/nix", "type": "Directory"}}]
    users.pod("filler", NODE, containers=[container], volumes=volumes)
    free = ["stat", "--file-system", "--format=%a", "/nix"]
    sh = users.fleet.cluster.sh
    users.fleet.until("full: the disk", lambda: int(sh(NODE, free).stdout) == 0)


def test_a_disk_that_another_pod_fills_is_named_and_used_when_there_is_room(
    fleet: Fleet, counts: Counts, users: Users
) -> None:
    big = fleet.release(fleet.site.closure("big", changed=3, file_bytes=4_000_000))
    with small_disk(fleet):
        before = Counter(counts.warnings(NODE))
        with fleet.watching() as seen:
            fill_disk(users)
            fleet.promote(big)
            fleet.deliver()
            told = fleet.until_problem(NODE, Reason.DISK_SHORT)
            assert "/host/nix" in told  # whether Nix said it or we counted
            assert re.search(r"\d+ MiB", told)
            assert fleet.is_ready(NODE, fleet.first)
            assert fleet.gate(NODE)
            fleet.until_ready(big, "node1", "node2")
            users.delete("filler")
            fleet.until_ready(big, NODE)
        assert unlabelled(seen) == []
        after = Counter(counts.warnings(NODE)) - before
        assert set(after) == {Reason.DISK_SHORT}
        assert after.total() <= 10


def test_kubelets_and_agents_may_die_in_any_order(fleet: Fleet, users: Users) -> None:
    users.pod("user", "node1")
    users.until_running("user")
    before = life(users.get("user"))
    with fleet.watching() as seen, fleet.watching(users.path) as pods:
        for order in ("kubelet agent", "agent kubelet"):
            same, kill_agents = containers(fleet), agents_killer(fleet)
            for one in order.split():
                if one == "agent":
                    kill_agents()
                else:
                    kubelets = fleet_kubelets.kill(fleet.cluster)
            kubelets.until_back()
            fleet.until("anew: all agents", lambda same=same: all_anew(fleet, same))  # type: ignore[misc]
        fleet.until_ready(fleet.first)
    assert unlabelled(seen) == []
    assert {life(one.object) for one in pods.versions} == {before}
    assert "hello 1" in users.hello("user")


def agents_killer(fleet: Fleet) -> Callable[[], None]:
    """Look agents up now, to kill them at once later: by then their kubelets may be dead."""
    found = {node: str(fleet.agent_container(node)["containerID"]) for node in fleet.nodes}

    def kill() -> None:
        for node, container in found.items():
            task = container.removeprefix("containerd://")
            argv = ["ctr", "-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", task]
            fleet.cluster.sh(node, argv)

    return kill


def all_anew(fleet: Fleet, before: list[str]) -> bool:
    ready = all(fleet.agent_container(node)["ready"] for node in fleet.nodes)
    return ready and not set(before) & set(containers(fleet))
