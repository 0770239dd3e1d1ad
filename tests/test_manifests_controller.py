"""The controller's manifests say what the code says: settings, ports, names, paths, labels."""

import json
from pathlib import Path
from typing import Any, Final

import kubernetes_validate as kubernetes  # type: ignore[import-untyped] # carries no types
import pytest
import yaml

import nodeagent
from nodeagent import certs, names
from nodeagent.admission.request import SYSTEM_NAMESPACES
from nodeagent.config import ControllerSettings
from nodeagent.kube import Api
from tests.certifying import ENTRIES, LEASES, SECRET, WEBHOOKS, Cluster

CONTROLLER: Final = Path(__file__).parents[1] / "daemonset/controller"
OLDEST: Final = (1, 32)
Tree = dict[str, Any]
DOCUMENTS: Final[list[Tree]] = [
    one
    for file in sorted(CONTROLLER.glob("*.yaml"))
    if file.name != "kustomization.yaml"
    for one in yaml.safe_load_all(file.read_text())
]
VERSIONS: Final = sorted(
    one
    for one in set(kubernetes.utils.all_versions())
    if tuple(map(int, one.split(".")[:2])) >= OLDEST
)


def find(kind: str, name: str = "nodeagent-controller") -> Tree:
    [found] = [one for one in DOCUMENTS if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


POD: Final[Tree] = find("Deployment")["spec"]["template"]["spec"]
HOOKS: Final[list[Tree]] = find("MutatingWebhookConfiguration", "nodeagent")["webhooks"]
[CONTAINER] = POD["containers"]
PORTS: Final = {one["name"]: one["containerPort"] for one in CONTAINER["ports"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_all_of_it_is_strictly_valid(version: str) -> None:
    for one in DOCUMENTS:
        kubernetes.validate(one, version, strict=True)


def test_all_of_it_is_applied() -> None:
    kustomization = yaml.safe_load((CONTROLLER / "kustomization.yaml").read_text())
    there = {one.name for one in CONTROLLER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == there


def test_settings_are_those_of_the_controller() -> None:
    fields = ControllerSettings.model_fields
    told = {one["name"].removeprefix("NODEAGENT_").lower() for one in CONTAINER["env"]}
    assert told == {"pod_name", "namespace"}
    assert told <= fields.keys()
    assert {"http": fields["port"].default, "webhook": fields["webhook_port"].default} == PORTS
    assert CONTAINER["args"] == ["controller"]
    assert CONTAINER["image"] == f"localhost/nodeagent:{nodeagent.__version__}"
    assert find("Service", fields["service"].default)
    assert find("MutatingWebhookConfiguration", fields["webhook_configuration"].default)


async def test_certificates_lie_where_the_manifests_put_them() -> None:
    """And are for the name by which API servers ask."""
    async with Cluster() as cluster:
        cluster.objects = {place(one): one for one in DOCUMENTS}
        for one in cluster.objects.values():
            one["metadata"]["resourceVersion"] = "1"
        assert {SECRET, LEASES, WEBHOOKS} <= cluster.objects.keys()
        settings = ControllerSettings(pod_name="one")
        made = certs.own(
            Api(cluster),
            namespace=settings.namespace,
            service=settings.service,
            configuration=settings.webhook_configuration,
            pod_name=settings.pod_name,
        )
        await made.look()
        assert made.ready.is_set()
    for hook in HOOKS:
        service = hook["clientConfig"]["service"]
        assert (service["name"], service["namespace"]) == (settings.service, settings.namespace)


def place(document: Tree) -> str:
    """Give the path under which an API server has it."""
    version, metadata = document["apiVersion"], document["metadata"]
    root = "/apis/" if "/" in version else "/api/"
    inside = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{root}{version}{inside}/{document['kind'].lower()}s/{metadata['name']}"


def test_the_manifests_hold_neither_keys_nor_trust_nor_a_holder() -> None:
    """So applying them again resets none of it."""
    text = json.dumps(DOCUMENTS)
    assert "caBundle" not in json.dumps(HOOKS)
    assert not {"data", "stringData"} & find("Secret", names.AUTHORITIES).keys()
    assert "spec" not in find("Lease")
    assert "BEGIN" not in text


def test_webhooks_can_hold_nobody_up_and_change_nothing_else() -> None:
    assert tuple(one["name"] for one in HOOKS) == ENTRIES
    for hook in HOOKS:
        assert hook["failurePolicy"] == "Ignore"
        assert hook["timeoutSeconds"] == 2
        assert hook["sideEffects"] == "None"
        assert hook["reinvocationPolicy"] == "IfNeeded"
        [rule] = hook["rules"]
        assert (rule["operations"], rule["resources"]) == (["CREATE"], ["pods"])
        assert hook["clientConfig"]["service"]["port"] == 443
    [port] = find("Service", names.WEBHOOK_SERVICE)["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (443, "webhook")


def test_who_is_asked_about_is_opted_in_by_label() -> None:
    by_namespace, by_pod = HOOKS
    opted_in = {names.LABEL_INJECT: "true"}
    assert by_namespace["namespaceSelector"]["matchLabels"] == opted_in
    assert by_namespace["objectSelector"] == {
        "matchExpressions": [
            {"key": names.LABEL_INJECT, "operator": "NotIn", "values": ["false", "true"]}
        ]
    }
    assert by_pod["objectSelector"] == {"matchLabels": opted_in}
    assert "matchLabels" not in by_pod["namespaceSelector"]
    for hook in HOOKS:
        [excluded] = hook["namespaceSelector"]["matchExpressions"]
        assert (excluded["key"], excluded["operator"]) == ("kubernetes.io/metadata.name", "NotIn")
        assert excluded["values"][0] == names.NAMESPACE, "the one that daemonset/namespace moves"
        assert set(excluded["values"][1:]) == SYSTEM_NAMESPACES


def test_the_pod_has_no_privilege_and_nothing_of_its_host() -> None:
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["runAsUser"] > 0
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & POD.keys()
    assert not any("hostPath" in one for one in POD["volumes"])
    assert POD["serviceAccountName"] == find("ServiceAccount")["metadata"]["name"]


def test_one_replica_always_answers() -> None:
    deployment, budget = find("Deployment")["spec"], find("PodDisruptionBudget")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert budget["minAvailable"] == 1
    [spread] = POD["topologySpreadConstraints"]
    selectors = [
        deployment["selector"]["matchLabels"],
        budget["selector"]["matchLabels"],
        spread["labelSelector"]["matchLabels"],
        find("Service", names.WEBHOOK_SERVICE)["spec"]["selector"],
        find("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    assert selectors == [labels] * len(selectors)


def test_probes_ask_the_endpoints_port() -> None:
    asked = {
        probe: CONTAINER[f"{probe}Probe"]["httpGet"]
        for probe in ("startup", "liveness", "readiness")
    }
    live = {"path": "/livez", "port": "http"}
    assert asked == {"startup": live, "liveness": live, "readiness": {**live, "path": "/readyz"}}
