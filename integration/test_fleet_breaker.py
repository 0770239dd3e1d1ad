"""Where others refuse what the webhook adds, or no node fits it, injection stops by itself."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from integration.fleet import NAMESPACE, Fleet
from integration.webhook import Webhook, is_injected, pod, skipped, template
from nodeagent import names
from nodeagent.fleet import trouble
from nodeagent.names import ControllerMetric, Outcome

STRICT: Final = "webhook-strict"
REFUSES: Final = f"no volume {names.VOLUME_STORE} here"
ADMISSION: Final = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": STRICT}}
STAY: Final = ("sleep", "infinity")
Tree = dict[str, Any]


def refusing() -> list[Tree]:
    """Describe admission of somebody else that refuses pods with our volume in one namespace."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    has_none = f"!object.spec.volumes.exists(one, one.name == '{names.VOLUME_STORE}')"
    policy = {
        "matchConstraints": {"resourceRules": [{**rule, "operations": ["CREATE"]}]},
        "validations": [
            {"expression": f"!has(object.spec.volumes) || {has_none}", "message": REFUSES}
        ],
    }
    there = {"matchLabels": {"kubernetes.io/metadata.name": STRICT}}
    binding = {
        "policyName": STRICT,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": there},
    }
    return [
        {**ADMISSION, "kind": "ValidatingAdmissionPolicy", "spec": policy},
        {**ADMISSION, "kind": "ValidatingAdmissionPolicyBinding", "spec": binding},
    ]


@pytest.fixture
def strict(installed: Webhook) -> Iterator[Webhook]:
    """Give the webhook, and a namespace that asks for mounts and refuses them."""
    fleet = installed.fleet
    installed.namespace(STRICT)
    made = json.dumps({"apiVersion": "v1", "kind": "List", "items": refusing()})
    fleet.kubectl("apply", "-f", "-", stdin=made)
    try:
        yield installed
    finally:
        fleet.kubectl("delete", "-f", "-", "--ignore-not-found", stdin=made)
        fleet.kubectl("delete", "namespace", STRICT, "--ignore-not-found")


def breakers(webhook: Webhook) -> list[float]:
    """Ask each of two controllers for how many namespaces its breaker is open."""
    found = []
    for one in webhook.controllers():
        at = f"/api/v1/namespaces/{NAMESPACE}/pods/{one['metadata']['name']}"
        text = webhook.fleet.kubectl("get", "--raw", f"{at}:{names.CONTROLLER_PORT}/proxy/metrics")
        lines = [line.split() for line in text.splitlines()]
        found += [float(line[1]) for line in lines if line[0] == ControllerMetric.BREAKER_OPEN]
    assert len(found) == 2
    return found


def test_pods_that_others_refuse_over_our_volumes_are_made_without_them(strict: Webhook) -> None:
    fleet = strict.fleet

    def refused() -> str:
        create = ("create", "--dry-run=server", "-n", STRICT, "-f", "-")
        return fleet.cluster.kubectl(*create, stdin=json.dumps(pod()), check=False).stderr

    fleet.until("refused: an injected pod", lambda: REFUSES in refused())
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template("web", STAY, restartPolicy="Always"),
        },
    }
    strict.create(deployment, STRICT)
    events = ("events", "-n", STRICT, "--field-selector=reason=FailedCreate")
    fleet.until("told: the refusal", lambda: REFUSES in json.dumps(fleet.get(*events)))

    def phases() -> list[str]:
        return [one["status"]["phase"] for one in strict.pods(STRICT)]

    fleet.until("running: both pods", lambda: phases() == ["Running", "Running"])
    for one in strict.pods(STRICT):
        assert not is_injected(one)
        assert skipped(one) == Outcome.BREAKER_OPEN
    fleet.until("open: the breaker of each controller", lambda: min(breakers(strict)) >= 1)
    label = "app.kubernetes.io/component=controller"
    told = fleet.kubectl("logs", "-n", NAMESPACE, "-l", label, "--tail=-1")
    assert "breaker open" in told
    assert STRICT in told
    assert is_injected(strict.dry(pod()))  # elsewhere


@pytest.mark.parametrize(
    ("ready", "cpu", "counts"),
    [("nowhere", "1m", True), ("true", "9000", False)],
    ids=["no node has the labels", "those that have them are full"],
)
def test_what_the_scheduler_says_is_understood(
    fleet: Fleet, ready: str, cpu: str, counts: bool
) -> None:
    made = pod("waits", STAY, annotations={names.ANNOTATION_INJECTED: "ds"})
    made["spec"]["nodeSelector"] = {names.LABEL_READY: ready}
    made["spec"]["containers"][0]["resources"] = {"requests": {"cpu": cpu}}
    fleet.kubectl("create", "-n", "default", "-f", "-", stdin=json.dumps(made))
    try:
        said = "jsonpath={.status.conditions[?(@.type=='PodScheduled')].reason}"
        get = ("get", "pod", "waits", "-n", "default", "-o", said)
        fleet.until("told: why it waits", lambda: fleet.kubectl(*get) == "Unschedulable")
        found = fleet.get("pod", "waits", "-n", "default")
        assert (trouble.stuck(found) is not None) is counts, found["status"]
    finally:
        fleet.kubectl("delete", "pod", "waits", "-n", "default", "--now")
