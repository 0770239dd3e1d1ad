"""What agents, their account and the pods that use a store can do on a cluster, and what not."""

import pytest

from integration.cluster import ClusterError
from integration.fleet import NAMESPACE, Fleet
from integration.fleet_users import NAMESPACE as USERS
from integration.fleet_users import Users
from nodeagent import names

DAC_OVERRIDE = 1 << 1
# Runs in an agent's container: moves a directory of mode 0555 as an exchange does, with what the
# container has, and once more without its capabilities.
MOVE = """
import ctypes, pathlib, tempfile
place = pathlib.Path(tempfile.mkdtemp(dir="/host/nix/var/nodeagent"))
for name in ("from", "to"):
    (place / name).mkdir()
def move(name):
    (place / "from" / name).mkdir(mode=0o555)
    try:
        (place / "from" / name).rename(place / "to" / name)
    except PermissionError:
        (place / "from" / name).rmdir()
        return False
    (place / "to" / name).rmdir()
    return True
able = move("with")
header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).capset(header, none) == 0
print(able, move("without"))
for name in ("from", "to"):
    (place / name).rmdir()
place.rmdir()
"""


def test_an_agent_has_the_one_capability_that_it_needs_and_a_root_that_it_cannot_write_to(
    fleet: Fleet,
) -> None:
    read = "print(open('/proc/1/status').read())"
    lines = fleet.exec("node1", "python3", "-c", read).splitlines()
    status = dict(line.split(":\t", 1) for line in lines if line)
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[kind], 16) == DAC_OVERRIDE
    assert (int(status["CapInh"], 16), int(status["CapAmb"], 16)) == (0, 0)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")  # 2: filtered
    with pytest.raises(ClusterError, match="Read-only file system"):
        fleet.exec("node1", "python3", "-c", "open('/new', 'w')")
    assert fleet.exec("node1", "python3", "-c", MOVE).split() == ["True", "False"]


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("get", "secrets"),
        ("list", "configmaps"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("create", "serviceaccounts/token"),
        ("patch", "daemonsets.apps"),
        ("delete", "nodes"),
        ("update", "validatingadmissionpolicies.admissionregistration.k8s.io"),
    ],
)
def test_the_agents_account_may_not_even_ask(fleet: Fleet, verb: str, resource: str) -> None:
    ask = ("auth", "can-i", "--as", f"system:serviceaccount:{NAMESPACE}:nodeagent", "-n", NAMESPACE)
    assert fleet.kubectl(*ask, "list", "pods").strip() == "yes"
    answer = fleet.cluster.kubectl(*ask, verb, resource, check=False)
    assert answer.stdout.strip() == "no"


def test_a_pod_reads_all_of_its_nodes_store_and_writes_none_of_it(
    fleet: Fleet, users: Users
) -> None:
    users.pod("user", "node1")
    users.until_running("user")
    run = ("exec", "-n", USERS, "user", "--")
    assert fleet.path("part1").rpartition("/")[2] in fleet.kubectl(*run, "ls", names.STORE_DIR)
    for place in (names.STORE_DIR, f"{names.POD_PROFILES_DIR}/ds", fleet.path("part1")):
        with pytest.raises(ClusterError, match="Read-only file system"):
            fleet.kubectl(*run, "touch", f"{place}/new")
    with pytest.raises(ClusterError, match="Read-only file system"):
        fleet.kubectl(*run, "rm", "-r", fleet.path("part1"))
    assert fleet.is_ready("node1", fleet.first)
