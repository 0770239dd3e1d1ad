"""The controller's manifests as kubectl renders them: alone, with cert-manager, and elsewhere."""

import json
from pathlib import Path
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped] # carries no types
import pytest
import yaml

from integration.test_manifests import BASE, DAEMONSET, Renderer, faults, find, renderer
from nodeagent import names
from nodeagent.config import ControllerSettings

__all__ = ["renderer"]  # a fixture

CONTROLLER: Final = DAEMONSET / "controller"
CERT_MANAGER: Final = CONTROLLER / "components/cert-manager"
Tree = dict[str, Any]
# What cert-manager's CRDs (v1) say of the fields that are used here; the CRDs themselves are not
# at hand, so nothing else of them is checked.
TEXT: Final = {"type": "string", "minLength": 1}
CERTIFICATE: Final = {
    "type": "object",
    "additionalProperties": False,
    "required": ["secretName", "issuerRef"],
    "properties": {
        "secretName": TEXT,
        "dnsNames": {"type": "array", "items": TEXT},
        "issuerRef": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name"],
            "properties": {"name": TEXT, "kind": {"enum": ["Issuer", "ClusterIssuer"]}},
        },
        "usages": {"type": "array", "items": {"enum": ["digital signature", "server auth"]}},
        "privateKey": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "algorithm": {"enum": ["RSA", "ECDSA", "Ed25519"]},
                "size": {"type": "integer"},
                "rotationPolicy": {"enum": ["Never", "Always"]},
            },
        },
    },
}


def overlay(scratch: Path, **fields: object) -> Path:
    """Write an overlay of base and controller, as a user would."""
    scratch.mkdir(exist_ok=True)
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [str(Path("daemonset") / one) for one in ("base", "controller")],
        **fields,
    }
    (scratch / "daemonset").symlink_to(DAEMONSET)
    (scratch / "kustomization.yaml").write_text(yaml.safe_dump(document))
    return scratch


@pytest.fixture
def with_cert_manager(renderer: Renderer, tmp_path: Path) -> list[Tree]:
    component = "daemonset/controller/components/cert-manager"
    return renderer.render(overlay(tmp_path, components=[component]))


def certificates(objects: list[Tree]) -> list[Tree]:
    return [one for one in objects if one["apiVersion"].startswith("cert-manager.io/")]


def test_it_is_strictly_valid_and_brings_nothing_that_the_base_brings(renderer: Renderer) -> None:
    objects = renderer.render(CONTROLLER)
    assert faults(objects) == []
    mine, theirs = (
        {(one["kind"], one["metadata"]["name"]) for one in found}
        for found in (objects, renderer.render(BASE))
    )
    assert mine & theirs == set()
    assert ("MutatingWebhookConfiguration", "nodeagent") in mine


def test_every_name_that_it_refers_to_is_there(renderer: Renderer) -> None:
    objects = renderer.render(CONTROLLER)
    there = {(one["kind"], one["metadata"]["name"]) for one in objects + renderer.render(BASE)}
    [deployment] = find(objects, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert ("ServiceAccount", pod["serviceAccountName"]) in there
    assert ("PriorityClass", pod["priorityClassName"]) in there
    bindings = find(objects, "ClusterRoleBinding") + find(objects, "RoleBinding")
    assert len(bindings) == 4
    for binding in bindings:
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in there
        [subject] = binding["subjects"]
        assert (subject["kind"], subject["name"]) in there


@pytest.mark.parametrize("components", [[], ["daemonset/controller/components/cert-manager"]])
def test_in_another_namespace_nothing_points_back(
    renderer: Renderer, tmp_path: Path, components: list[str]
) -> None:
    directory = overlay(
        tmp_path,
        namespace="elsewhere",
        components=components,
        transformers=["daemonset/namespace"],
    )
    objects = renderer.render(directory)
    assert names.NAMESPACE not in json.dumps(objects)
    [configuration] = find(objects, "MutatingWebhookConfiguration")
    for hook in configuration["webhooks"]:
        assert hook["clientConfig"]["service"]["namespace"] == "elsewhere"
        [excluded] = hook["namespaceSelector"]["matchExpressions"]
        assert excluded["values"] == ["elsewhere", "kube-system", "kube-public", "kube-node-lease"]
    policies = {one["metadata"]["name"]: one for one in find(objects, "ValidatingAdmissionPolicy")}
    [condition] = policies["nodeagent-controller"]["spec"]["matchConditions"]
    account = "system:serviceaccount:elsewhere:nodeagent-controller"
    assert condition["expression"] == f"request.userInfo.username == '{account}'"


def test_cert_manager_takes_the_place_of_all_that_the_controllers_write(
    with_cert_manager: list[Tree],
) -> None:
    others = [one for one in with_cert_manager if one not in certificates(with_cert_manager)]
    assert faults(others) == []
    for kind in ("Secret", "Lease"):
        assert find(with_cert_manager, kind) == []
    assert "nodeagent-certificates" not in json.dumps(with_cert_manager)
    [configuration] = find(with_cert_manager, "MutatingWebhookConfiguration")
    [certificate] = find(with_cert_manager, "Certificate")
    metadata = certificate["metadata"]
    assert configuration["metadata"]["annotations"] == {
        "cert-manager.io/inject-ca-from": f"{metadata['namespace']}/{metadata['name']}"
    }


def test_cert_managers_certificate_is_the_webhooks(with_cert_manager: list[Tree]) -> None:
    issuer, certificate = (find(with_cert_manager, kind)[0] for kind in ("Issuer", "Certificate"))
    assert issuer["spec"] == {"selfSigned": {}}
    spec = certificate["spec"]
    jsonschema.Draft202012Validator(CERTIFICATE).validate(spec)
    assert spec["issuerRef"] == {"kind": "Issuer", "name": issuer["metadata"]["name"]}
    assert f"{names.WEBHOOK_SERVICE}.{names.NAMESPACE}.svc" in spec["dnsNames"]


def test_the_controllers_read_the_files_that_cert_manager_makes(
    with_cert_manager: list[Tree],
) -> None:
    [deployment] = find(with_cert_manager, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    told = {one["name"]: one.get("value") for one in container["env"]}
    assert told["NODEAGENT_CERTIFICATES"] == "files"
    [volume] = [one for one in pod["volumes"] if "secret" in one]
    [certificate] = find(with_cert_manager, "Certificate")
    assert volume["secret"]["secretName"] == certificate["spec"]["secretName"]
    [mount] = [one for one in container["volumeMounts"] if one["name"] == volume["name"]]
    fields = ControllerSettings.model_fields
    for name in ("tls_cert", "tls_key"):
        assert fields[name].default.parent == Path(mount["mountPath"])
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
