"""Labels are sticky: what a pod requires of its node stays, whatever happens to agents and API.

A kubelet that starts anew kills pods whose node lacks a label that they require: so in each test
all kubelets die twice, in the middle and afterwards, and every version of the Nodes is looked at.
"""

from collections.abc import Callable, Iterator

import pytest
import urllib3

from integration import fleet_kubelets
from integration.fleet import AGENTS, NAMESPACE, Fleet
from integration.fleet_look import Tree
from integration.fleet_users import Users, life, runs, unlabelled
from nodeagent import names, promote
from nodeagent.names import Metric, Reason

# Begins in its first step, is through in its second.
Disturbance = Callable[[Fleet], Iterator[None]]


@pytest.fixture(scope="module")
def users(fleet: Fleet, users_namespace: Users) -> Iterator[Users]:
    """Give a pod on node1, and on node2 that of a Deployment; nobody may touch them."""
    users = users_namespace
    users.pod("lone", "node1")
    users.deployment("steady", "node2")
    fleet.until("made: both pods", lambda: len(users.list()) == 2)
    users.until_all_run()
    yield users
    users.clear()


def agents_deleted(fleet: Fleet) -> Iterator[None]:
    old = names_of(fleet.agents())
    fleet.kubectl("delete", "pods", *AGENTS, "--wait=false")
    yield
    fleet.until("gone: the old agents", lambda: old.isdisjoint(names_of(fleet.agents())))
    fleet.until_rolled_out()
    yield


def names_of(pods: list[Tree]) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods}


def agents_terminated(fleet: Fleet) -> Iterator[None]:
    terminated = fleet.signal("SIGTERM")
    yield
    fleet.until_anew(terminated)
    yield


def rollout(fleet: Fleet) -> Iterator[None]:
    fleet.kubectl("rollout", "restart", "daemonset/nodeagent", "-n", NAMESPACE)
    yield
    fleet.until_rolled_out()
    yield


def release(fleet: Fleet) -> Iterator[None]:
    second = fleet.release(fleet.site.closure("2"))
    fleet.promote(second)
    fleet.hurry()
    yield
    fleet.deliver()
    fleet.until_ready(second)
    yield


def rollback(fleet: Fleet) -> Iterator[None]:
    fleet.bring(fleet.first)
    fleet.bring(fleet.release(fleet.site.closure("2")))
    promote.set_percent(fleet.site.pins, names.DEFAULT_CHANNEL, 0)
    fleet.pin()
    fleet.hurry()
    yield
    fleet.deliver()
    fleet.until_ready(fleet.first)
    yield


def api_away(fleet: Fleet) -> Iterator[None]:
    """Let agents start meanwhile: they become ready without an API server."""
    agents = [fleet.address(node) for node in fleet.nodes]
    fleet.signal("SIGTERM")
    fleet.cluster.stop("cp")
    fleet.until("missed: the API server", lambda: all(misses_api(agent) for agent in agents))
    yield
    fleet.cluster.start("cp")
    fleet.until("answering: the API server", lambda: fleet.cluster.answers("--raw", "/readyz"))
    yield


def misses_api(agent: str) -> bool:
    """Tell whether an agent is ready, and got no answer from the API server."""
    try:
        metrics = urllib3.request("GET", f"{agent}/metrics", retries=False, timeout=2).data.decode()
    except urllib3.exceptions.HTTPError:
        return False
    counts = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line[0] != "#")
    missed = f'{Metric.REFUSALS}{{reason="{Reason.API_UNREACHABLE}"}}'
    return float(counts[Metric.READY]) == 1 and float(counts.get(missed, 0)) > 0


def pins_emptied(fleet: Fleet) -> Iterator[None]:
    fleet.unpin()
    fleet.hurry()
    yield
    fleet.deliver()
    for node in fleet.nodes:
        fleet.until_problem(node, Reason.PINS_MISSING)
    yield


def pins_garbage(fleet: Fleet) -> Iterator[None]:
    fleet.configmap("nodeagent-pins", "--from-literal=pins.json={garbage")
    fleet.hurry()
    yield
    fleet.deliver()
    for node in fleet.nodes:
        fleet.until_problem(node, Reason.PINS_INVALID)
    yield


DISTURBANCES = (
    *(agents_deleted, agents_terminated, rollout, release, rollback),
    *(api_away, pins_emptied, pins_garbage),
)


@pytest.mark.parametrize("disturbance", DISTURBANCES, ids=lambda one: one.__name__)
def test_labels_and_pods_outlast(disturbance: Disturbance, fleet: Fleet, users: Users) -> None:
    before = [life(pod) for pod in users.list()]
    with fleet.watching() as seen, fleet.watching(users.path) as pods:
        steps = disturbance(fleet)
        next(steps)
        kubelets = fleet_kubelets.kill(fleet.cluster)
        next(steps)
        seen.reconnect()
        pods.reconnect()
        kubelets.until_back()
        fleet_kubelets.restart(fleet.cluster)
        fleet.bring(fleet.first)
    assert unlabelled(seen) == []
    assert len(seen.versions) > len(fleet.nodes)
    assert {life(one.object) for one in pods.versions} == {*before}
    assert "hello 1" in users.hello("lone")


def test_after_a_reboot_pods_wait_at_the_gate_and_then_start_by_themselves(
    fleet: Fleet, users: Users
) -> None:
    [steady] = [
        pod["metadata"]["name"] for pod in users.list() if "steady" in pod["metadata"]["name"]
    ]
    boot = boot_id(fleet)
    with fleet.watching() as seen:
        fleet.unname_image("node2")  # so that its agent cannot start yet
        fleet.cluster.reboot("node2")
        fleet.until("booted: node2", lambda: boot_id(fleet) != boot)
        users.pod("late", "node2", nodeName="node2")
        for pod in ("late", steady):
            fleet.until(f"waiting: {pod}", lambda pod=pod: waits(users, pod))  # type: ignore[misc]
        assert not fleet.gate("node2")
        fleet.name_image("node2")
        fleet.until_rolled_out()
        for pod in ("late", steady):
            users.until_running(pod)
            assert "hello 1" in users.hello(pod)
        fleet.until_ready(fleet.first)
    users.delete("late")
    assert unlabelled(seen) == []


def waits(users: Users, pod: str) -> bool:
    """Tell whether a pod does not run because its mounts are not there."""
    return "FailedMount" in users.events(pod) and not runs(users.get(pod))


def boot_id(fleet: Fleet) -> str:
    return str(fleet.node("node2")["status"]["nodeInfo"]["bootID"])


def test_a_kubelet_that_restarts_kills_a_pod_whose_node_lost_a_label(
    fleet: Fleet, users: Users
) -> None:
    """Prove that the tests above could fail: with a label that is nobody's."""
    fleet.kubectl("label", "node", "node3", "test/label=on")
    users.pod("victim", "node3", nodeSelector={"test/label": "on"})
    users.until_running("victim")
    fleet.kubectl("label", "node", "node3", "test/label-")
    fleet_kubelets.restart(fleet.cluster)
    fleet.until("killed: the pod", lambda: users.phase("victim") == "Failed")
    assert users.get("victim")["status"]["reason"] == "NodeAffinity"
    users.delete("victim")
