"""Up and back: other versions over a running fleet, whose pods are in use all the while.

The other versions are this one with other texts in three modules: images of their own, with
manifests of their own.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import urllib3
import yaml

from integration import fleet_kubelets
from integration.fleet import REPOSITORY, Fleet
from integration.fleet_users import Users, life, unlabelled
from integration.image import Changes, Image
from nodeagent import __version__, names
from nodeagent.names import Metric, Reason

NODE: Final = "node3"  # the one that gets a state of the version after
NEXT: Final = "0.1.1"
AFTER: Final = "0.2.0"  # its state has version 2
STATE: Final = f"{names.STATE_DIR}/state.json"
CRD: Final = "/spec/versions/0"
COLUMN: Final = {"name": "Invention", "type": "string", "jsonPath": ".status.invention"}
ADDED: Final = [
    {"op": "add", "path": f"{CRD}/additionalPrinterColumns/-", "value": COLUMN},
    {
        "op": "add",
        "path": f"{CRD}/schema/openAPIV3Schema/properties/status/properties/invention",
        "value": {"type": "string"},
    },
]
ONE_BY_ONE: Final = [{"op": "add", "path": "/spec/updateStrategy", "value": {"type": "OnDelete"}}]
Tree = dict[str, Any]


def changes(version: str, state: int) -> Changes:
    """Say what a later version has otherwise: one field more in its state and its NodeStore."""
    told, kept = '"agentVersion": status.version,', "    damaged: Mapping[str, str] = {} "
    return {
        "nodeagent/__init__.py": {f'"{__version__}"': f'"{version}"'},
        "nodeagent/kube/nodestore.py": {told: f'{told} "invention": "told",'},
        "nodeagent/ledger.py": {
            kept: f'    invention: str = "{version}"\n{kept}',
            "VERSION: Final = 1 ": f"VERSION: Final = {state} ",
        },
    }


def overlay(place: Path, version: str, **patches: object) -> Path:
    """Write the manifests of a version: the base's with its image, and patched by kind."""
    place.mkdir()
    made = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(REPOSITORY / "daemonset/base", place)],
        "images": [{"name": "localhost/nodeagent", "newTag": version}],
        "patches": [
            {"target": {"kind": kind}, "patch": json.dumps(patch)}
            for kind, patch in patches.items()
        ],
    }
    (place / "kustomization.yaml").write_text(yaml.safe_dump(made))
    return place


@pytest.fixture(scope="module")
def manifests(
    fleet: Fleet, cluster_images: Sequence[Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Give the manifests of the later versions, whose images the nodes have."""
    place, this = tmp_path_factory.mktemp("versions"), Image(cluster_images[-1])
    for version, state in ((NEXT, 1), (AFTER, 2)):
        name = f"localhost/nodeagent:{version}"
        archive = this.with_changes(place / f"{version}.tar", name, changes(version, state))
        fleet.cluster.load([archive])
    more = {"CustomResourceDefinition": ADDED}
    return {
        NEXT: overlay(place / NEXT, NEXT, **more),
        AFTER: overlay(place / AFTER, AFTER, **more, DaemonSet=ONE_BY_ONE),
    }


@pytest.fixture
def users(users: Users) -> Users:
    """Give a pod in use on each node."""
    for node in users.fleet.nodes:
        users.pod(f"user-{node}", node)
    users.fleet.until("made: the pods", lambda: len(users.list()) == len(users.fleet.nodes))
    users.until_all_run()
    return users


def test_up_and_back_no_pod_no_label_and_no_path_is_touched(
    fleet: Fleet, users: Users, manifests: dict[str, Path]
) -> None:
    before = [life(pod) for pod in users.list()]
    with fleet.watching() as seen, fleet.watching(users.path) as pods:
        for place, version in ((manifests[NEXT], NEXT), ("base", __version__)):
            fleet.apply(place)
            kubelets = fleet_kubelets.kill(fleet.cluster)
            fleet.until_rolled_out()
            kubelets.until_back()
            until_runs(fleet, version, *fleet.nodes)
            for node in fleet.nodes:
                assert poured(fleet, node) == 0
                until_written(fleet, node, 1)
                assert state(fleet, node)["invention"] == NEXT  # kept by who does not know it
            table = fleet.kubectl("get", "nodestores", "-o", "wide")
            assert ("INVENTION" in table, "told" in table) == ((version == NEXT),) * 2
        fleet_kubelets.restart(fleet.cluster)
    assert unlabelled(seen) == []
    assert {life(one.object) for one in pods.versions} == {*before}
    assert all("hello 1" in users.hello(f"user-{node}") for node in fleet.nodes)


def until_runs(fleet: Fleet, version: str, *nodes: str) -> None:
    """Wait until agents of a version say that their nodes are ready."""
    for node in nodes:
        fleet.until(
            f"ready with {version}: {node}",
            lambda node=node: (  # type: ignore[misc]
                fleet.store(node).get("agentVersion") == version
                and fleet.is_ready(node, fleet.first)
            ),
        )


def until_written(fleet: Fleet, node: str, version: int) -> None:
    """Wait until the agent that runs has written its state; that of one that ended has an end."""

    def written() -> bool:
        found = state(fleet, node)
        return found["version"] == version and found.get("cleanEnd") is None

    fleet.until(f"written: the state of {node}", written)


def state(fleet: Fleet, node: str) -> Tree:
    return dict(json.loads(fleet.cluster.sh(node, ["cat", STATE]).stdout))


def poured(fleet: Fleet, node: str) -> float:
    """Count the paths that a node's agent brought since it started."""
    metrics = urllib3.request("GET", f"{fleet.address(node)}/metrics", timeout=5).data.decode()
    counts = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line[0] != "#")
    return float(counts[Metric.PATHS_POURED])


@pytest.fixture
def settings(fleet: Fleet) -> Iterator[None]:
    before = fleet.settings
    yield
    fleet.settings = before
    fleet.configure()


def test_an_older_agent_leaves_a_newer_state_alone_and_says_how_to_go_on(
    fleet: Fleet, users: Users, manifests: dict[str, Path], settings: None
) -> None:
    before = [life(pod) for pod in users.list()]
    with fleet.watching() as seen, fleet.watching(users.path) as pods:
        upgrade(fleet, manifests[AFTER])
        until_written(fleet, NODE, 2)

        fleet.apply()
        serial = until_refused(fleet)
        left = state(fleet, NODE)
        fleet_kubelets.restart(fleet.cluster)
        assert fleet.gate(NODE)
        assert all("hello 1" in users.hello(f"user-{node}") for node in fleet.nodes)
        for node in fleet.nodes:
            assert fleet.is_ready(node, fleet.first)
        assert state(fleet, NODE) == left

        upgrade(fleet, manifests[AFTER])  # one way on
        assert poured(fleet, NODE) == 0

        fleet.apply()  # the other way on
        assert until_refused(fleet) == serial
        fleet.cluster.sh(NODE, ["mv", STATE, "/tmp"])
        fleet.settings = {**fleet.settings, "NODEAGENT_MIN_SERIAL": serial}
        fleet.configure()
        fleet.renew(NODE)
        until_runs(fleet, __version__, *fleet.nodes)
        assert poured(fleet, NODE) == 0
        assert "invention" not in state(fleet, NODE)
        assert "hello 1" in users.hello(f"user-{NODE}")  # its profile is still what it mounted
    assert unlabelled(seen) == []
    assert {life(one.object) for one in pods.versions} == {*before}


def upgrade(fleet: Fleet, manifests: Path) -> None:
    """Give one node the version after; the others keep their agents."""
    fleet.apply(manifests)
    fleet.renew(NODE)
    until_runs(fleet, AFTER, NODE)


def until_refused(fleet: Fleet) -> str:
    """Wait until the agent of the node has ended, saying why; give the serial that it names."""
    fleet.until("refused: the state", lambda: "has version" in last_words(fleet))
    sentence = last_words(fleet)
    assert sentence.startswith(
        f"nodeagent: {Reason.STORE_UNUSABLE}: {STATE} has version 2, this nodeagent {__version__} "
        "knows 1: upgrade again, or move the file away and set --min-serial to "
    )
    [serial] = re.findall(r"--min-serial to (\d+);", sentence)
    return str(serial)


def last_words(fleet: Fleet) -> str:
    """Give the last line of an agent that failed, as its pod's status has it."""
    for one in fleet.agent_pod(NODE)["status"].get("containerStatuses", ()):
        for ended in (one["state"], one["lastState"]):
            if ended.get("terminated", {}).get("exitCode") == 1:
                return str(ended["terminated"]["message"].splitlines()[-1])
    return ""
