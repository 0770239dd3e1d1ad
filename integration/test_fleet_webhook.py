"""Pods that mention no mount get the profile, from every controller, on nodes that are ready."""

from collections.abc import Iterator
from typing import Any

import pytest

from integration.fleet import NAMESPACE
from integration.sidecar_webhook import mesh
from integration.webhook import (
    HELLO,
    USERS,
    Webhook,
    is_injected,
    pod,
    skipped,
    template,
)
from nodeagent import names
from nodeagent.names import Outcome, Reason

NODE = "node1"
STAY = ("sh", "-c", f"{HELLO} && exec sleep infinity")
BARE = "webhook-strangers"
Tree = dict[str, Any]


@pytest.fixture
def webhook(installed: Webhook) -> Iterator[Webhook]:
    """Give the webhook, with its usual policy; what is made goes."""
    yield installed
    installed.clear()


def controllers() -> dict[str, Tree]:
    """Describe one of each kind that makes pods."""
    once = {"template": template("it", (HELLO,))}
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }

    def stays(name: str) -> Tree:
        return {
            "selector": {"matchLabels": {"app": name}},
            "template": template(name, STAY, restartPolicy="Always"),
        }

    return {
        "Deployment": {"apiVersion": "apps/v1", "spec": stays("deployment")},
        "StatefulSet": {
            "apiVersion": "apps/v1",
            "spec": {
                **stays("statefulset"),
                "serviceName": "none",
                "volumeClaimTemplates": [claim],
            },
        },
        "DaemonSet": {"apiVersion": "apps/v1", "spec": stays("daemonset")},
        "Job": {"apiVersion": "batch/v1", "spec": once},
        "CronJob": {
            "apiVersion": "batch/v1",
            "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": once}},
        },
    }


def test_a_pod_of_every_controller_gets_the_profile_and_runs_it(webhook: Webhook) -> None:
    kinds = controllers()
    for kind, made in kinds.items():
        webhook.create({**made, "kind": kind, "metadata": {"name": kind.lower()}})
    webhook.create(pod("bare"))

    def owners() -> dict[str, list[Tree]]:
        found: dict[str, list[Tree]] = {}
        for one in webhook.pods():
            [owner] = one["metadata"].get("ownerReferences", [{"kind": "none", "name": ""}])
            kind = "CronJob" if owner["name"].startswith("cronjob") else owner["kind"]
            found.setdefault(kind, []).append(one)
        return found

    wanted = {"ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob", "none"}
    webhook.fleet.until("made: a pod by each", lambda: owners().keys() >= wanted)
    assert [one["metadata"]["name"] for one in webhook.pods() if not is_injected(one)] == []
    assert len(owners()["DaemonSet"]) == len(webhook.fleet.nodes)

    def all_ran() -> bool:
        # Nobody provisions the claim, so the scheduler has no place for the StatefulSet's pod.
        done = [one for kind, found in owners().items() for one in found if kind != "StatefulSet"]
        return all(one["status"]["phase"] in {"Running", "Succeeded"} for one in done)

    webhook.fleet.until("running, or over: all of them", all_ran)
    assert "hello 1" in webhook.fleet.kubectl("logs", "bare", "-n", USERS)


def test_only_who_asks_is_injected(webhook: Webhook) -> None:
    opted_out = webhook.dry(pod(labels={names.LABEL_INJECT: "false"}))
    assert not is_injected(opted_out)
    assert skipped(opted_out) == ""
    webhook.namespace(BARE, inject="")
    assert not is_injected(webhook.dry(pod(), BARE))
    assert is_injected(webhook.dry(pod(labels={names.LABEL_INJECT: "true"}), BARE))
    for excluded in ("kube-system", "nodeagent-system"):
        made = webhook.dry(pod(labels={names.LABEL_INJECT: "true"}), excluded)
        assert not is_injected(made)
        assert skipped(made) == ""


def test_who_is_refused_is_told_and_runs_unchanged(webhook: Webhook) -> None:
    asks = pod("asks", ("true",), annotations={names.ANNOTATION_PROFILES: "nobodys"})
    said = webhook.create(asks)
    assert "Warning" in said
    assert "nobodys" in said
    made = webhook.fleet.get("pod", "asks", "-n", USERS)
    assert skipped(made) == Outcome.UNKNOWN_PROFILE
    assert not is_injected(made)
    webhook.fleet.until("over: the pod", lambda: webhook.phase("asks") == "Succeeded")


def test_containers_of_every_sort_get_mounts_and_the_policys_environment(
    webhook: Webhook,
) -> None:
    base = {"image": "localhost/base:1"}
    check = f'{HELLO} && test "$GREETED" = by-policy'
    made = pod(
        "sorts",
        initContainers=[
            {"name": "first", **base, "command": ["sh", "-c", check]},
            {
                "name": "sidecar",
                **base,
                "restartPolicy": "Always",
                "command": ["sh", "-c", f"{check} && exec sleep infinity"],
            },
        ],
        containers=[
            {
                "name": "own",
                **base,
                "env": [{"name": "GREETED", "value": "by-me"}],
                "command": ["sh", "-c", f'{HELLO} && test "$GREETED" = by-me'],
            },
            {"name": "without", **base, "command": ["sh", "-c", "test ! -e /opt/nodeagent"]},
        ],
    )
    made["metadata"]["annotations"][names.ANNOTATION_EXCLUDE] = "without"
    webhook.create(made)
    over = {"Succeeded", "Failed"}
    webhook.fleet.until("over: the pod", lambda: webhook.phase("sorts") in over)
    assert webhook.phase("sorts") == "Succeeded"


def test_pods_land_on_nodes_that_are_ready_when_they_are_made(webhook: Webhook) -> None:
    fleet = webhook.fleet
    with fleet.cache.away():
        fleet.cluster.sh(NODE, ["rm", "-rf", fleet.path("part1")])
        fleet.until_unready(NODE, Reason.PATH_DAMAGED)
        fleet.until(
            "kept away from: the node",
            lambda: NODE in str(webhook.dry(pod())["spec"].get("affinity")),
        )
        there = webhook.dry(pod(nodeName=NODE))
        assert skipped(there) == Outcome.NODE_NOT_READY
        names_ = [f"many{number}" for number in range(6)]
        for name in names_:
            webhook.create(pod(name))
        fleet.until(
            "over: all pods",
            lambda: all(one["status"]["phase"] == "Succeeded" for one in webhook.pods()),
        )
        assert NODE not in {one["spec"]["nodeName"] for one in webhook.pods()}
        webhook.tell({**webhook.policy, "minFraction": 1.0})
        fleet.until(
            "too few: the nodes",
            lambda: skipped(webhook.dry(pod())) == Outcome.NOT_ENOUGH_NODES,
        )
    webhook.tell(webhook.policy)
    fleet.until_ready(fleet.first, NODE)
    fleet.until(
        "injected for: every node",
        lambda: is_injected(made := webhook.dry(pod())) and "affinity" not in made["spec"],
    )


def test_a_sidecar_that_is_added_after_us_gets_its_mounts_too(webhook: Webhook) -> None:
    labelled = {"matchLabels": {"kubernetes.io/metadata.name": USERS}}
    fleet = webhook.fleet
    with mesh(fleet.cluster, labelled):
        fleet.until(
            "two containers: in a pod", lambda: len(webhook.dry(pod())["spec"]["containers"]) == 2
        )
        webhook.create(pod("meshed"))
    made = fleet.get("pod", "meshed", "-n", USERS)
    assert [one["name"] for one in made["spec"]["containers"]] == ["user", "mesh"]
    for container in made["spec"]["containers"]:
        at = [one["mountPath"] for one in container["volumeMounts"]]
        assert sorted(one for one in at if not one.startswith("/var/run")) == [
            names.STORE_DIR,
            f"{names.POD_PROFILES_DIR}/ds",
        ]
    fleet.until("over: the pod", lambda: webhook.phase("meshed") == "Succeeded")


def test_pods_are_made_unchanged_while_packets_to_the_controllers_vanish(webhook: Webhook) -> None:
    with webhook.blackholed():
        assert not is_injected(webhook.dry(pod()))
        webhook.create(pod("alone", ("true",)))
    assert not is_injected(webhook.fleet.get("pod", "alone", "-n", USERS))
    webhook.until_injecting()


def test_pods_are_made_unchanged_while_no_controller_answers(webhook: Webhook) -> None:
    fleet = webhook.fleet
    fleet.kubectl(
        "scale", "deployment/nodeagent-controller", "-n", "nodeagent-system", "--replicas=0"
    )
    fleet.until("gone: the controllers", lambda: webhook.controllers() == [])
    refused = webhook.dry(pod())
    assert not is_injected(refused)
    fleet.kubectl(
        "scale", "deployment/nodeagent-controller", "-n", "nodeagent-system", "--replicas=2"
    )
    webhook.until_injecting()


def test_taking_it_away_leaves_no_trace_and_the_pods_that_run(webhook: Webhook) -> None:
    fleet = webhook.fleet
    webhook.create(pod("stays", STAY))
    fleet.until("running: the pod", lambda: webhook.phase("stays") == "Running")
    webhook.uninstall()
    own = (
        "deployments,services,secrets,configmaps,leases,poddisruptionbudgets,networkpolicies",
        "serviceaccounts,roles,rolebindings",
    )
    everywhere = (
        "mutatingwebhookconfigurations,validatingadmissionpolicies",
        "validatingadmissionpolicybindings,clusterroles,clusterrolebindings",
    )
    found = fleet.kubectl("get", ",".join(own), "-n", NAMESPACE, "-o", "name")
    found += fleet.kubectl("get", ",".join(everywhere), "-o", "name")
    ours = [line for line in found.split() if "nodeagent" in line]
    words = ("controller", "webhook", "certificates", "policy")
    assert [line for line in ours if any(word in line.split("/")[1] for word in words)] == []
    assert "mutatingwebhookconfiguration" not in str(ours)
    assert "hello 1" in fleet.kubectl("exec", "-n", USERS, "stays", "--", HELLO)
    assert not is_injected(webhook.dry(pod()))
