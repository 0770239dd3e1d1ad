"""What people do by mistake: two DaemonSets, a wrong clock, hasty pins, a CRD gone or old."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import yaml

from integration.fleet import NAMESPACE, REPOSITORY, Fleet
from integration.fleet_counts import Counts
from integration.fleet_trouble import TRY, metric, tries
from integration.fleet_users import unlabelled
from nodeagent.names import Metric, Reason

CRD: Final = REPOSITORY / "daemonset/base/crd.yaml"
TWIN: Final = "nodeagent-twin"
TWINS: Final = ("-n", NAMESPACE, "-l", f"app={TWIN}")
SKEW: Final = timedelta(hours=25)  # what is promoted for a day has expired by such a clock
HURRY_SECONDS: Final = 3.0
SWAPS: Final = 10
NODE: Final = "node1"
Tree = dict[str, Any]


@contextlib.contextmanager
def twins(fleet: Fleet) -> Iterator[None]:
    """Run a second DaemonSet of agents, whose clock is ahead."""
    base = fleet.get("daemonset", "nodeagent", "-n", NAMESPACE)["spec"]
    labels = {"app": TWIN}
    template = base["template"] | {"metadata": {"labels": labels}}
    skew = {"name": "NODEAGENT_CLOCK_SKEW_SECONDS", "value": f"{SKEW.total_seconds()}"}
    template["spec"]["containers"][0]["env"].append(skew)
    made = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": TWIN, "namespace": NAMESPACE},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }
    fleet.kubectl("apply", "-f", "-", stdin=json.dumps(made))
    try:
        yield
    finally:
        fleet.kubectl("delete", "daemonset", TWIN, "-n", NAMESPACE)
        fleet.apply()
        fleet.until_rolled_out()


def twins_said(fleet: Fleet) -> list[Tree]:
    said = fleet.kubectl("logs", *TWINS, "--tail=-1")
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def wait_for_twins(fleet: Fleet) -> list[Tree]:
    return [one for one in twins_said(fleet) if "waiting for another agent" in one["event"]]


def ahead(fleet: Fleet, node: str) -> bool:
    """Tell whether the last heartbeat was told by the clock that is ahead."""
    told = datetime.fromisoformat(fleet.condition(node)["lastHeartbeatTime"])
    return told > datetime.now(UTC) + SKEW / 2


def hurried(fleet: Fleet, test: Callable[[], bool]) -> Callable[[], bool]:
    """Make kubelets bring the twins' pins while a test is waited for."""
    last = 0.0

    def check() -> bool:
        nonlocal last
        if time.monotonic() - last > HURRY_SECONDS:
            last = time.monotonic()
            fleet.kubectl("annotate", "pods", *TWINS, "--overwrite", f"test/now={last}")
        return test()

    return check


def twins_have_pins(fleet: Fleet) -> bool:
    """Tell whether kubelets have brought the twins the pins as they are now."""
    wanted = fleet.get("configmap", "nodeagent-pins", "-n", NAMESPACE)["data"]["pins.json"]
    for pod in fleet.get("pods", *TWINS)["items"]:
        volumes = f"/var/lib/kubelet/pods/{pod['metadata']['uid']}/volumes"
        file = f"{volumes}/kubernetes.io~configmap/pins/pins.json"
        node = pod["spec"]["nodeName"]
        if fleet.cluster.sh(node, ["cat", file], check=False).stdout != wanted:
            return False
    return True


def expired(fleet: Fleet, node: str) -> bool:
    return bool(fleet.store(node).get("problem", {}).get("reason") == Reason.RECORD_EXPIRED)


def test_a_second_agent_on_a_node_waits_then_takes_over_and_its_wrong_clock_hurts_nothing(
    fleet: Fleet, counts: Counts, second: bytes
) -> None:
    with fleet.watching() as seen:
        with twins(fleet):
            fleet.until(
                "waiting: the twins", lambda: len(wait_for_twins(fleet)) == len(fleet.nodes)
            )
            before = Counter(counts.writes)
            fleet.bring(second)
            wrote = Counter(counts.writes) - before
            assert wrote["nodes"] == 0
            assert wrote["nodes/status"] <= 2 * len(fleet.nodes)
            fleet.until("brought: the twins' pins", hurried(fleet, partial(twins_have_pins, fleet)))
            assert len(twins_said(fleet)) == 2 * len(fleet.nodes)  # started, and waiting
            fleet.kubectl("delete", "daemonset", "nodeagent", "-n", NAMESPACE)
            for node in fleet.nodes:
                fleet.until(f"taken over: {node}", lambda node=node: ahead(fleet, node))  # type: ignore[misc]
            asked, began = counts.requests, time.monotonic()
            fleet.promote(fleet.first)  # a new record, for a day
            for node in fleet.nodes:
                refused = hurried(fleet, lambda node=node: expired(fleet, node))  # type: ignore[misc]
                fleet.until(f"expired for {node}: the record", refused)
                assert "this node's clock says" in fleet.store(node)["problem"]["message"]
                assert fleet.is_ready(node, second)
            elapsed = time.monotonic() - began
            assert counts.requests - asked <= len(fleet.nodes) * TRY * tries(elapsed)
            warned = [one["reason"] for one in twins_said(fleet) if one["level"] == "warning"]
            assert warned == [Reason.RECORD_EXPIRED] * len(fleet.nodes)
        fleet.bring(fleet.first)
        fleet.until(
            "by the right clock: all", lambda: not any(ahead(fleet, n) for n in fleet.nodes)
        )
    assert unlabelled(seen) == []


def test_pins_that_change_ten_times_in_a_row_end_at_the_last(
    fleet: Fleet, counts: Counts, second: bytes
) -> None:
    agents = [fleet.address(node) for node in fleet.nodes]
    passes = {agent: metric(agent, f"{Metric.PASSES}{{") for agent in agents}
    before, warned = Counter(counts.writes), counts.warnings()
    with fleet.watching() as seen:
        for number in range(SWAPS):
            fleet.promote((second, fleet.first)[number % 2])
            fleet.deliver()
        fleet.until_ready(fleet.first)
        serial = fleet.store(NODE)["wanted"]["serial"]
        fleet.until(
            "at the last: all",
            lambda: all(fleet.store(node)["published"]["serial"] == serial for node in fleet.nodes),
        )
    wrote = Counter(counts.writes) - before
    for agent in agents:  # and one that a resync began
        assert metric(agent, f"{Metric.PASSES}{{") - passes[agent] <= SWAPS + 1
    assert wrote["nodes"] == 0
    assert wrote["nodes/status"] <= 3 * len(fleet.nodes)
    assert wrote["nodestores/status"] <= 4 * SWAPS * len(fleet.nodes)
    assert counts.warnings() == warned
    assert unlabelled(seen) == []


def older(crd: Tree) -> Tree:
    """Make the CRD of a version that did not know all that agents tell now."""
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    status = schema["properties"]["status"]["properties"]
    for later in ("published", "elsewhere", "progress"):
        del status[later]
    for column in list(crd["spec"]["versions"][0]["additionalPrinterColumns"]):
        if ".published" in column["jsonPath"]:
            crd["spec"]["versions"][0]["additionalPrinterColumns"].remove(column)
    return crd


def apply_crd(fleet: Fleet, crd: Tree) -> None:
    fleet.kubectl("apply", "-f", "-", stdin=json.dumps(crd))
    fleet.cluster.until_condition("condition=Established", "crd/nodestores.nodeagent.dev")


def check_node_is_told(fleet: Fleet) -> None:
    """Lose a path and have it back: the condition follows."""
    with fleet.cache.away():
        fleet.cluster.sh(NODE, ["rm", "-rf", fleet.path("part1")])
        fleet.until_unready(NODE, Reason.PATH_DAMAGED)
    fleet.until("ready again", lambda: fleet.condition(NODE)["status"] == "True")


def refused(counts: Counts) -> str:
    """Give what the agent of the node last said of the API server."""
    said = [one["event"] for one in counts.lines(NODE) if one.get("reason") == Reason.API_REFUSED]
    return str(said[-1]) if said else ""


def test_without_its_crd_or_with_an_older_one_labels_and_condition_go_on(
    fleet: Fleet, counts: Counts, second: bytes
) -> None:
    warned, asked = Counter(counts.warnings(NODE)), counts.requests
    began = time.monotonic()
    with fleet.watching() as seen:
        fleet.kubectl("delete", "-f", str(CRD))
        try:
            check_node_is_told(fleet)
            apply_crd(fleet, older(yaml.safe_load(CRD.read_text())))
            fleet.until("refused: a field", lambda: "not declared" in refused(counts))
            check_node_is_told(fleet)
        finally:
            fleet.kubectl("apply", "-f", str(CRD))
        fleet.bring(second)  # news makes agents find out that their NodeStores went with the CRD
        elapsed = time.monotonic() - began
    assert unlabelled(seen) == []
    assert counts.requests - asked <= len(fleet.nodes) * TRY * (tries(elapsed) + 3)
    told = Counter(counts.warnings(NODE)) - warned
    assert 2 <= told[Reason.API_REFUSED] <= 4  # nobody knows NodeStores, nor a field; none is there
