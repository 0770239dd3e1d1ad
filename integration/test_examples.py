"""Examples for autoscaled nodes: judged as the projects that read them do, and in step with us."""

import copy
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped] # carries no types
import pytest
import yaml

from integration.apiserver import api_server
from integration.cluster.commands import Completed
from integration.cluster.kubernetes import Kubernetes
from nodeagent import names

EXAMPLES: Final = Path(__file__).parents[1] / "examples"
Tree = dict[str, Any]
NODE_POOL: Final[Tree] = yaml.safe_load((EXAMPLES / "karpenter/nodepool.yaml").read_text())
RULE: Final[Tree] = yaml.safe_load((EXAMPLES / "node-readiness-controller/rule.yaml").read_text())

KARPENTER: Final = "sigs.k8s.io/karpenter@v1.12.0"
KARPENTER_SUM: Final = "h1:SffONGtSqVfTiEBM55OZb5ZVEsBPaEcLuRLL8v98sPo="
NODE_POOLS: Final = "pkg/apis/crds/karpenter.sh_nodepools.yaml"

STATUSES: Final = {"enum": ["True", "False", "Unknown"]}
# What node-readiness-controller's CRD demands of the fields that a rule may have, in our words.
RULES: Final[Tree] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "readiness.node.x-k8s.io/v1alpha1"},
        "kind": {"const": "NodeReadinessRule"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["conditions", "enforcementMode", "nodeSelector", "taint"],
            "properties": {
                "conditions": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 32,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["requiredStatus", "type"],
                        "properties": {
                            "type": {"type": "string", "minLength": 1, "maxLength": 316},
                            "requiredStatus": STATUSES,
                            "defaultStatus": STATUSES,
                        },
                    },
                },
                "conditionPolicy": {"enum": ["allOf", "anyOf"]},
                "dryRun": {"type": "boolean"},
                "enforcementMode": {"enum": ["bootstrap-only", "continuous"]},
                "nodeSelector": {
                    "type": "object",
                    "additionalProperties": False,
                    "minProperties": 1,
                    "properties": {
                        "matchLabels": {
                            "type": "object",
                            "minProperties": 1,
                            "additionalProperties": {"type": "string"},
                        },
                        "matchExpressions": {"type": "array", "minItems": 1},
                    },
                },
                "taint": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["effect", "key"],
                    "properties": {
                        "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
                        "key": {
                            "type": "string",
                            "pattern": r"^readiness\.k8s\.io/"
                            r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
                        },
                        "value": {"type": "string", "maxLength": 63},
                    },
                },
            },
        },
    },
}


@pytest.fixture(scope="module")
def admin(cluster_host: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """Give the admin of an API server that knows Karpenter's NodePools."""
    declared = karpenter() / NODE_POOLS
    with api_server(tmp_path_factory.mktemp("api"), "crd.yaml") as (_, admin):
        admin.kubectl("apply", "--server-side", "-f", str(declared))
        admin.until_condition("condition=Established", "crd/nodepools.karpenter.sh")
        yield admin


def karpenter() -> Path:
    """Give Karpenter's source, fetched by its module's name and checked by its hash."""
    done = subprocess.run(
        ["go", "mod", "download", "-json", KARPENTER],
        capture_output=True,
        text=True,
        check=False,
        cwd=EXAMPLES,
    )
    told = json.loads(done.stdout or "{}")
    if "Dir" not in told:
        why = f"no NodePool to compare with: {told.get('Error', done.stderr)}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    assert told["Sum"] == KARPENTER_SUM
    return Path(told["Dir"])


def judged(admin: Kubernetes, document: Tree) -> Completed:
    """Let the API server judge, without effect: schema, unknown fields, and rules in CEL."""
    argv = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
    return admin.kubectl(*argv, stdin=json.dumps(document), check=False)


def changed(document: Tree, change: Callable[[Tree], object]) -> Tree:
    """Give a copy with a change to its spec."""
    other = copy.deepcopy(document)
    change(other["spec"])
    return other


def test_karpenters_own_schema_takes_the_node_pool(admin: Kubernetes) -> None:
    done = judged(admin, NODE_POOL)
    assert done.returncode == 0, done.stderr
    assert "created (server dry run)" in done.stdout


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda spec: spec["template"]["spec"].update(startupTaint=[]), "startupTaint"),
        (lambda spec: spec["template"]["spec"].pop("nodeClassRef"), "nodeClassRef"),
        (
            lambda spec: spec["template"]["metadata"]["labels"].update({"karpenter.sh/x": "y"}),
            "label",
        ),
        (lambda spec: spec["template"]["spec"]["startupTaints"][0].update(effect="No"), "effect"),
    ],
)
def test_karpenters_own_schema_refuses_what_is_wrong(
    admin: Kubernetes, change: Callable[[Tree], object], says: str
) -> None:
    done = judged(admin, changed(NODE_POOL, change))
    assert done.returncode != 0
    assert says in done.stderr


def test_the_node_pool_promises_what_the_example_pod_selects_and_holds_it_back() -> None:
    template = NODE_POOL["spec"]["template"]
    pod = yaml.safe_load((EXAMPLES / "pod.yaml").read_text())["spec"]
    assert pod["nodeSelector"].items() <= template["metadata"]["labels"].items()
    assert template["spec"]["startupTaints"] == [{"key": names.TAINT, "effect": "NoSchedule"}]
    assert names.LABEL_CHANNEL in template["metadata"]["labels"]


def test_the_rule_has_the_fields_that_its_controller_asks_for() -> None:
    jsonschema.Draft202012Validator(RULES).validate(RULE)


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.update(nodeSelector={}),
        lambda spec: spec.pop("enforcementMode"),
        lambda spec: spec["taint"].update(key=names.TAINT),
        lambda spec: spec["conditions"][0].update(status="True"),
    ],
)
def test_a_rule_that_is_wrong_is_refused(change: Callable[[Tree], object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(RULES).validate(changed(RULE, change))


def test_the_rule_waits_for_the_condition_that_agents_write() -> None:
    assert RULE["spec"]["conditions"] == [{"type": names.CONDITION, "requiredStatus": "True"}]
    assert RULE["spec"]["taint"]["effect"] == "NoSchedule"
