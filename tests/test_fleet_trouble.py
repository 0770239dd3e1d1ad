"""What counts as a sign that injection does harm, and how little of it is kept."""

from typing import Any

import pytest

from nodeagent.admission.breaker import REFUSED_SECONDS, Refused, Stuck
from nodeagent.fleet import trouble
from nodeagent.fleet.trouble import FEW, Refusals, Waits, is_ours
from nodeagent.kube.watch import Alive, Changed, Listed
from tests import snapshots
from tests.snapshots import NO_NODE, REFUSAL

Tree = dict[str, Any]
AFFINITY = "node(s) didn't match Pod's node affinity/selector"
VOLUMES = "node(s) didn't match PersistentVolume's node affinity"
SPREAD = "node(s) didn't match pod topology spread constraints"
PREEMPTION = (
    "preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, "
    "2 Preemption is not helpful for scheduling."
)
VAP = (
    "Error creating: pods \"web-1\" is forbidden: ValidatingAdmissionPolicy 'no-store' with "
    "binding 'no-store' denied request: no volume nodeagent-store here"
)
GATEKEEPER = (
    'Error creating: admission webhook "validation.gatekeeper.sh" denied the request: [host] '
    'HostPath volume {"hostPath": {"path": "/run/x", "type": ""}, "name": "x"} is not allowed'
)
KYVERNO = (
    'Error creating: admission webhook "validate.kyverno.svc-fail" denied the request: resource '
    "Pod/team/web was blocked due to the following policies disallow-host-path: host-path: …"
)
STATEFUL = (
    'create Pod web-0 in StatefulSet web failed error: pods "web-0" is forbidden: '
    "node selector nodeagent.dev/ready is for others"
)
INVALID = (
    'Error creating: Pod "web" is invalid: spec.volumes[2].name: Duplicate value: "nodeagent-ds"'
)


@pytest.mark.parametrize(
    "message",
    [
        f"0/3 nodes are available: 3 {AFFINITY}.",
        NO_NODE,
        f"0/3 nodes are available: 3 {AFFINITY}. no new claims to deallocate, {PREEMPTION}",
        f"0/4 nodes are available: 1 node(s) had untolerated taint {{a.b/c: d}}, 3 {AFFINITY}.",
        f"0/4 nodes are available: 1 node(s) had untolerated taint(s), 3 {AFFINITY}.",
        f"0/4 nodes are available: 1 node(s) were unschedulable, 3 {AFFINITY}.",
        f"0/3 nodes are available: 1 {AFFINITY}, 2 node(s) didn't satisfy plugin(s) [Other].",
    ],
)
def test_a_pod_that_fits_no_other_node_waits_because_of_us(message: str) -> None:
    assert is_ours(message)


@pytest.mark.parametrize(
    "message",
    [
        "",
        f"0/3 nodes are available: 1 Insufficient cpu, 2 {AFFINITY}. {PREEMPTION}",
        f"0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 {AFFINITY}.",
        f"0/3 nodes are available: 1 Too many pods, 2 {AFFINITY}.",
        f"0/3 nodes are available: 1 {VOLUMES}, 2 {AFFINITY}.",
        f"0/3 nodes are available: 2 {AFFINITY}, 2 {SPREAD}.",
        "0/3 nodes are available: 3 node(s) had untolerated taint {a: }.",
        "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
        "no nodes available to schedule pods",
        f"3 {AFFINITY}",
    ],
)
def test_a_pod_that_waits_for_something_else_is_not_ours(message: str) -> None:
    assert not is_ours(message)


def pod(message: str = NO_NODE, **metadata: object) -> Tree:
    made = snapshots.injected("a") | snapshots.unschedulable(60, message)
    made["metadata"] = {"namespace": "team", **made["metadata"], **metadata}
    return made


def condition(**fields: object) -> Tree:
    made = pod()
    made["status"]["conditions"][0] |= fields
    return made


def test_an_injected_pod_that_no_node_fits_is_stuck_since_it_was_told_so() -> None:
    at = {"lastTransitionTime": snapshots.AT}
    assert trouble.stuck(condition(**at)) == Stuck("team", snapshots.TOLD)
    made = condition(lastTransitionTime=None)
    made["metadata"]["creationTimestamp"] = snapshots.AT
    assert trouble.stuck(made) == Stuck("team", snapshots.TOLD)


@pytest.mark.parametrize(
    "item",
    [
        pod("0/3 nodes are available: 3 Insufficient cpu."),
        pod(annotations=None),
        pod(annotations={"nodeagent.dev/skipped": "Conflict"}),
        pod(deletionTimestamp=snapshots.AT),
        pod() | {"spec": {"nodeSelector": {"pool": "gpu"}}},
        pod() | {"spec": {"nodeSelector": None}},
        pod() | {"status": None},
        pod() | {"status": {"conditions": [{"type": "Ready", "status": "False"}]}},
        condition(status="True"),
        condition(reason="SchedulingGated"),
        condition(message=None),
    ],
)
def test_of_other_pods_nothing_is_kept(item: Tree) -> None:
    assert trouble.stuck(item) is None


def event(message: str, **fields: object) -> Tree:
    made = snapshots.failed_create("a", "team", message) | {"lastTimestamp": snapshots.AT}
    made["metadata"]["namespace"] = "team"
    return made | fields


@pytest.mark.parametrize("message", [REFUSAL, VAP, GATEKEEPER, KYVERNO, STATEFUL, INVALID])
def test_a_refusal_that_names_what_we_add_counts(message: str) -> None:
    assert trouble.refused(event(message)) == Refused("team", snapshots.TOLD)
    again = event(f"(combined from similar events): {message}")
    assert trouble.refused(again) == Refused("team", snapshots.TOLD)


@pytest.mark.parametrize(
    "message",
    [
        "",
        'Error creating: pods "nodeagent-x" is forbidden: exceeded quota: few, requested: pods=1',
        'Error creating: pods "web" is forbidden: serviceaccount "web" not found',
        "Error creating: Internal error occurred: nodeagent-store",
    ],
)
def test_other_creations_that_failed_do_not(message: str) -> None:
    assert trouble.refused(event(message)) is None


@pytest.mark.parametrize(
    "times",
    [
        {"series": {"lastObservedTime": snapshots.AT}, "eventTime": snapshots.ago(0)},
        {"series": None, "eventTime": snapshots.AT},
        {"metadata": {"namespace": "team", "creationTimestamp": snapshots.AT}},
    ],
)
def test_an_event_of_any_client_has_a_time(times: Tree) -> None:
    assert trouble.refused(event(REFUSAL, lastTimestamp=None, **times)) == Refused(
        "team", snapshots.TOLD
    )


def test_of_a_namespace_with_thousands_the_oldest_few_are_kept() -> None:
    waits = Waits()
    many = {f"team/{number}": Stuck("team", float(number)) for number in range(10_000)}
    waits.take(Listed({**dict(reversed(many.items())), "other/a": Stuck("other", 99.0)}))
    kept = [Stuck("team", float(number)) for number in range(FEW)]
    assert sorted(waits, key=lambda one: one.since) == [*kept, Stuck("other", 99.0)]
    waits.take(Changed("team/later", Stuck("team", 1.5)))
    assert len([*waits]) == FEW + 1
    waits.take(Changed("team/0", None))
    waits.take(Changed("team/later", Stuck("team", 1.5)))
    assert Stuck("team", 1.5) in [*waits]
    waits.take(Listed({}))
    assert [*waits] == []


def test_a_pod_that_waits_no_longer_is_forgotten() -> None:
    waits = Waits()
    waits.take(Changed("team/a", Stuck("team", 1.0)))
    waits.take(Changed("team/b", None))
    waits.take(Changed("other/b", None))
    waits.take(Alive())
    assert [*waits] == [Stuck("team", 1.0)]
    waits.take(Changed("team/a", Stuck("team", 2.0)))
    assert [*waits] == [Stuck("team", 2.0)]
    waits.take(Changed("team/a", None))
    assert [*waits] == []


def test_the_last_refusal_of_a_namespace_counts_for_a_while() -> None:
    refusals = Refusals()
    refusals.take(Listed({"team/a": Refused("team", 100.0), "team/b": Refused("team", 50.0)}))
    refusals.take(Changed("other/c", Refused("other", 200.0)))
    refusals.take(Changed("other/c", None))
    refusals.take(Alive())
    assert refusals.fresh(200.0) == [Refused("team", 100.0), Refused("other", 200.0)]
    assert refusals.fresh(100.0 + REFUSED_SECONDS) == [Refused("other", 200.0)]
    assert refusals.fresh(200.0) == [Refused("other", 200.0)]
