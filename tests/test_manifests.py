"""The manifests say what the code says: variables, phases, fields, paths. No cluster is asked.

`integration/test_manifests.py` renders them and validates what comes out.
"""

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped] # carries no types
import pytest
import yaml

import nodeagent
from nodeagent import keys, names
from nodeagent.config import AgentSettings, ControllerSettings
from nodeagent.names import Kind, Phase, Reason
from nodeagent.release import digest12
from nodeagent.report import Problem, Target

ROOT: Final = Path(__file__).parents[1]
DAEMONSET: Final = ROOT / "daemonset"
EXAMPLE: Final = DAEMONSET / "overlays/example"
VARIABLE: Final = re.compile(r"\bNODEAGENT_[A-Z0-9_]+")
Tree = dict[str, Any]


def load(path: str) -> Any:  # noqa: ANN401 YAML
    return yaml.safe_load((ROOT / path).read_text())


CRD: Final[Tree] = load("daemonset/base/crd.yaml")
VERSION: Final[Tree] = CRD["spec"]["versions"][0]
SCHEMA: Final[Tree] = VERSION["schema"]["openAPIV3Schema"]
STATUS: Final[Tree] = SCHEMA["properties"]["status"]["properties"]
RELEASE: Final = "sha256:" + "1eef5393bc25" + 52 * "0"
TARGET: Final = {
    "release": RELEASE,
    "digest12": digest12(RELEASE),
    "channel": "stable",
    "serial": 1795641613,
}
NODE_STORE: Final[Tree] = {
    "apiVersion": "nodeagent.dev/v1alpha1",
    "kind": "NodeStore",
    "metadata": {"name": "node1"},
    "status": {
        "ready": True,
        "phase": Phase.POURING,
        "reason": "",
        "message": "",
        "channel": "stable",
        "system": "x86_64-linux",
        "wanted": TARGET,
        "published": TARGET,
        "profiles": [
            {"name": "ds", "kind": Kind.ENV, "root": "/nix/store/…-ds", "gate": True},
        ],
        "progress": {"bytesDone": 217_100_000, "bytesTotal": 421_100_000},
        "problem": {
            "reason": Reason.CACHE_UNREACHABLE,
            "message": "main: connection refused",
            "since": "2026-11-25T21:20:13Z",
        },
        "agentVersion": "0.1.0",
        "observedAt": "2026-11-25T21:20:13Z",
    },
}


def parts(schema: Tree, place: str = "") -> Iterator[tuple[str, Tree]]:
    """Give a schema and all schemas in it, each with its place."""
    yield place, schema
    for name, below in schema.get("properties", {}).items():
        yield from parts(below, f"{place}.{name}")
    if "items" in schema:
        yield from parts(schema["items"], f"{place}[]")


def strict(schema: Tree) -> Tree:
    """Refuse unknown fields, which an API server would drop."""
    closed = copy.deepcopy(schema)
    for place, part in parts(closed):
        if "properties" in part and place != ".metadata":
            part["additionalProperties"] = False
    return closed


def validate(document: Tree) -> None:
    checker = jsonschema.Draft202012Validator(strict(SCHEMA))
    checker.validate(document)


def changed(change: Callable[[Tree], object]) -> Tree:
    """Give the NodeStore above with a change to its status."""
    document = copy.deepcopy(NODE_STORE)
    change(document["status"])
    return document


def variables() -> set[str]:
    """Give each variable that base, components and example name."""
    files = [*DAEMONSET.rglob("*.yaml"), EXAMPLE / "settings.env"]
    return {name for file in files for name in VARIABLE.findall(file.read_text())}


def test_every_variable_is_a_setting() -> None:
    settings = {*AgentSettings.model_fields, *ControllerSettings.model_fields}
    known = {f"NODEAGENT_{name.upper()}" for name in settings}
    assert variables() - known == set()
    assert "NODEAGENT_STORE_ROOT" in variables()


def test_the_settings_of_the_example_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (EXAMPLE / "settings.env").read_text().splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not name.startswith("#"):
            monkeypatch.setenv(name, value)
    settings = AgentSettings()
    assert settings.fleet == "example"
    assert [name for name, _ in settings.cache_addresses] == ["main", "backup"]


@pytest.mark.parametrize("name", ["release", "cache"])
def test_the_keys_of_the_example_are_keys(name: str) -> None:
    lines = (EXAMPLE / f"{name}.pub").read_text().splitlines()
    assert len(lines) == 1
    assert keys.parse_public(lines).names == f"example-{name}-1"


def test_the_image_has_the_tag_of_this_version() -> None:
    agent = load("daemonset/base/daemonset.yaml")["spec"]["template"]["spec"]["containers"][0]
    assert agent["image"] == f"localhost/nodeagent:{nodeagent.__version__}"
    [image] = load("daemonset/overlays/example/kustomization.yaml")["images"]
    assert (image["name"], image["newTag"]) == ("localhost/nodeagent", nodeagent.__version__)


def test_the_mounts_are_the_agents_own_defaults() -> None:
    agent = load("daemonset/base/daemonset.yaml")["spec"]["template"]["spec"]["containers"][0]
    mounts = {one["name"]: Path(one["mountPath"]) for one in agent["volumeMounts"]}
    fields = AgentSettings.model_fields
    assert mounts["state"] == fields["state_dir"].default
    assert mounts["run"] == fields["run_dir"].default
    assert mounts["pins"] / "pins.json" == fields["pins"].default
    assert mounts["keys"] / "release.pub" == fields["release_keys"].default
    assert mounts["keys"] / "cache.pub" == fields["cache_keys"].default
    assert [port["containerPort"] for port in agent["ports"]] == [fields["port"].default]


def test_a_node_store_has_the_codes_phases_and_kinds() -> None:
    assert STATUS["phase"]["enum"] == list(Phase)
    assert STATUS["profiles"]["items"]["properties"]["kind"]["enum"] == list(Kind)


@pytest.mark.parametrize("field", ["wanted", "published"])
def test_a_node_store_names_a_release_as_the_agent_does_and_by_its_short_form(field: str) -> None:
    assert STATUS[field]["properties"].keys() == {*Target.model_fields, "digest12"}


def test_a_node_store_tells_a_problem_as_the_agent_does() -> None:
    assert STATUS["problem"]["properties"].keys() == Problem.model_fields.keys()


def test_every_field_of_a_node_store_has_a_type_and_says_what_it_is() -> None:
    for place, part in parts(SCHEMA):
        assert "type" in part, place
        assert "x-kubernetes-preserve-unknown-fields" not in part, place
        assert ("items" in part) == (part["type"] == "array"), place
        if place.startswith(".status"):
            assert part["description"].endswith("."), place
            assert ("properties" in part) == (part["type"] == "object"), place
            assert set(part.get("required", ())) <= part.get("properties", {}).keys(), place


def test_lists_in_a_node_store_are_sets_or_merged_by_a_key_that_is_required() -> None:
    lists = [part for _, part in parts(SCHEMA) if part["type"] == "array"]
    maps = [one for one in lists if one["x-kubernetes-list-type"] == "map"]
    assert maps
    assert all(one["x-kubernetes-list-type"] == "set" for one in lists if one not in maps)
    for one in maps:
        assert set(one["x-kubernetes-list-map-keys"]) <= set(one["items"]["required"])


def test_columns_and_selectable_fields_are_in_the_schema() -> None:
    there = {place: part for place, part in parts(SCHEMA) if place.startswith(".status")}
    columns = VERSION["additionalPrinterColumns"]
    for column in columns:
        if column["jsonPath"] != ".metadata.creationTimestamp":
            part = there[column["jsonPath"]]
            assert column["type"] in {part["type"], part.get("format", "").partition("-")[0]}
    for field in VERSION["selectableFields"]:
        assert there[field["jsonPath"]]["type"] in {"string", "boolean", "integer"}


def test_the_table_of_nodes_fits_120_columns() -> None:
    widest = {
        "Ready": "false",
        "Phase": max(Phase, key=len),
        "Published": digest12(RELEASE),
        "Channel": "canary",
        "Reason": max(Reason, key=len),
        "Changed": "119s",
        "Age": "119d",
    }
    shown = [one["name"] for one in VERSION["additionalPrinterColumns"] if not one.get("priority")]
    assert shown == list(widest)
    widths = [max(len(name), len(value)) for name, value in widest.items()]
    assert 30 + sum(3 + width for width in widths) <= 120


def test_a_node_store_as_an_agent_writes_it_is_valid() -> None:
    validate(NODE_STORE)
    validate({key: value for key, value in NODE_STORE.items() if key != "status"})
    validate(changed(lambda status: [status.pop(key) for key in ("wanted", "published")]))


@pytest.mark.parametrize(
    "change",
    [
        lambda status: status.update(redy=True),
        lambda status: status.update(phase="Pouring!"),
        lambda status: status.update(ready="true"),
        lambda status: status.pop("observedAt"),
        lambda status: status["wanted"].pop("serial"),
        lambda status: status["wanted"].update(release=RELEASE.upper()),
        lambda status: status["profiles"][0].update(name="Not A Profile"),
        lambda status: status["progress"].update(bytesDone=-1),
        lambda status: status["problem"].update(code=1),
    ],
)
def test_a_node_store_that_is_wrong_is_refused(change: Callable[[Tree], object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate(changed(change))


def test_the_example_pod_mounts_the_gates_read_only() -> None:
    pod = load("examples/pod.yaml")["spec"]
    hosts = {one["name"]: one["hostPath"] for one in pod["volumes"]}
    assert hosts == {
        "store": {"path": f"{names.RUN_DIR}/store", "type": "Directory"},
        "ds": {"path": f"{names.RUN_DIR}/profiles/ds", "type": "Directory"},
    }
    [container] = pod["containers"]
    mounts = {one.pop("name"): one for one in container["volumeMounts"]}
    read_only = {"readOnly": True, "recursiveReadOnly": "IfPossible"}
    assert mounts == {
        "store": {"mountPath": names.STORE_DIR, **read_only},
        "ds": {"mountPath": f"{names.POD_PROFILES_DIR}/ds", **read_only},
    }
    assert container["command"][0].startswith(mounts["ds"]["mountPath"])
