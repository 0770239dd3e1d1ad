"""What the other tests take for granted about their cluster: nodes are machines, and they go."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from integration.cluster import Cluster, ClusterError, archive

SPARE = 9  # The number of another cluster, of one node, for the tests of up and down.
NAMESPACE = "cluster-test"
NODES = ("node1", "node2", "node3")
CURL = ("curl", "--silent", "--show-error", "--fail", "--max-time", "5")
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
HOLDER = f"""
import time
from integration.cluster import Cluster
Cluster({SPARE}).up(1)
print("up", flush=True)
time.sleep(600)
"""
# On each node a web server that writes the node's name into /nix, and serves /nix.
OBJECTS = """
apiVersion: v1
kind: Namespace
metadata: {name: cluster-test}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: filler, namespace: cluster-test}
spec:
  selector: {matchLabels: {app: filler}}
  template:
    metadata: {labels: {app: filler}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: filler
        image: localhost/base:1
        command: [sh, -c, 'echo $NODE >/nix/whoami; exec python3 -m http.server -d /nix 8080']
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        readinessProbe: {httpGet: {path: /whoami, port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: nix, mountPath: /nix}]
      volumes: [{name: nix, hostPath: {path: /nix, type: Directory}}]
---
apiVersion: v1
kind: Service
metadata: {name: filler, namespace: cluster-test}
spec: {selector: {app: filler}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: cluster-test}
rules: [{apiGroups: [""], resources: [nodes], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: cluster-test}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-test}
subjects: [{kind: ServiceAccount, name: default, namespace: cluster-test}]
"""


@pytest.fixture(scope="module")
def filled(cluster: Cluster) -> Iterator[Cluster]:
    """Give the shared cluster with a web server on each node."""
    cluster.kubectl("apply", "-f", "-", stdin=OBJECTS)
    cluster.until_rolled_out("daemonset/filler", namespace=NAMESPACE)
    yield cluster
    cluster.kubectl("delete", "--wait=false", "-f", "-", stdin=OBJECTS)
    for node in NODES:
        cluster.sh(node, ["rm", "/nix/whoami"])


@pytest.fixture
def spare(cluster_host: None) -> Iterator[Cluster]:
    """Give another cluster that is down, and see to it that it is down in the end."""
    cluster = Cluster(SPARE)
    assert not cluster.is_kept, f"somebody left up number {SPARE}, which is these tests'"
    cluster.down()
    yield cluster
    cluster.down()


def pod(cluster: Cluster, node: str, field: str) -> str:
    return cluster.kubectl(
        *("get", "pods", f"--namespace={NAMESPACE}", "--selector=app=filler"),
        *(f"--field-selector=spec.nodeName={node}", "-o", f"jsonpath={{.items[0].{field}}}"),
    ).stdout


def in_pod(cluster: Cluster, node: str, *argv: str) -> str:
    name = pod(cluster, node, "metadata.name")
    return cluster.kubectl("exec", f"--namespace={NAMESPACE}", name, "--", *argv).stdout


def boot_id(cluster: Cluster, node: str) -> str:
    return cluster.kubectl("get", "node", node, "-o", "jsonpath={.status.nodeInfo.bootID}").stdout


def processes(cluster: Cluster) -> list[psutil.Process]:
    """List all processes of a cluster, as the host sees them."""
    inits = [psutil.Process(machine.pid) for machine in cluster.machines() if machine.pid]
    return [*inits, *(one for init in inits for one in init.children(recursive=True))]


def alive(family: Iterable[psutil.Process]) -> list[str]:
    """Name those that still run; a dead one that nobody has waited for does not."""
    found = []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.name())
    return found


def traces(cluster: Cluster) -> list[str]:
    """List what a cluster has left on the host, but its processes."""
    name = cluster.lan.name
    found = [*Path("/sys/class/net").glob(f"{name}*"), *Path("/sys/fs/cgroup").glob(f"*/{name}")]
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if f"/{name}/" in line]
    directory = [cluster.directory] if cluster.directory.exists() else []
    return [str(one) for one in (*found, *mounts, *directory)]


@pytest.mark.parametrize("node", NODES)
def test_each_node_has_a_nix_of_its_own_that_pods_mount(filled: Cluster, node: str) -> None:
    assert in_pod(filled, node, "cat", "/nix/whoami").strip() == node
    assert filled.sh(node, ["cat", "/nix/whoami"]).stdout.strip() == node
    assert not Path("/nix/whoami").exists()


@pytest.mark.parametrize("node", NODES)
def test_a_pod_and_the_host_reach_the_pods_of_every_node(filled: Cluster, node: str) -> None:
    address = f"http://{pod(filled, node, 'status.podIP')}:8080/whoami"
    assert in_pod(filled, "node1", *CURL, address).strip() == node
    assert subprocess.check_output([*CURL, address], text=True).strip() == node


def test_a_service_has_a_name_and_leads_to_all_its_pods(filled: Cluster) -> None:
    urls = [f"http://filler.{NAMESPACE}.svc.cluster.local/whoami"] * 40
    assert set(in_pod(filled, "node2", *CURL, *urls).split()) == set(NODES)
    assert in_pod(filled, "node3", *CURL, "http://filler/whoami").strip() in NODES


def test_a_pods_service_account_lists_the_nodes(filled: Cluster) -> None:
    token = in_pod(filled, "node3", "cat", f"{ACCOUNT}/token")
    told = in_pod(
        *(filled, "node3", *CURL, "--cacert", f"{ACCOUNT}/ca.crt"),
        *("--header", f"Authorization: Bearer {token}"),
        "https://kubernetes.default.svc/api/v1/nodes",
    )
    assert '"name": "node1"' in told


def test_a_node_that_reboots_has_a_new_boot_id_and_keeps_its_disk(filled: Cluster) -> None:
    before = boot_id(filled, "node1")
    name = pod(filled, "node1", "metadata.name")
    filled.sh("node1", ["touch", "/run/until-reboot", "/nix/for-ever"])
    filled.reboot("node1")
    filled.until("seen: a new boot id", lambda: boot_id(filled, "node1") != before)
    filled.until(
        "restarted: the pod on node1",
        lambda: pod(filled, "node1", "status.containerStatuses[0].restartCount") == "1",
    )
    filled.until_rolled_out("daemonset/filler", namespace=NAMESPACE)
    assert pod(filled, "node1", "metadata.name") == name
    assert filled.sh("node1", ["test", "-e", "/run/until-reboot"], check=False).returncode == 1
    filled.sh("node1", ["rm", "/nix/for-ever"])


def test_a_node_that_is_off_is_missed_and_comes_back(filled: Cluster) -> None:
    filled.stop("node2")
    filled.until_lost("node2")
    with pytest.raises(ClusterError, match="node2 is off; start it first"):
        filled.sh("node2", ["true"])
    filled.start("node2")
    filled.until_ready("node2")


def test_an_image_that_is_loaded_is_on_every_node(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    archive.pack(tmp_path / "rootfs", "localhost/late:1", tmp_path / "late.tar", ["/none"])
    cluster.load([tmp_path / "late.tar"])
    ctr = ["ctr", "--namespace", "k8s.io", "images"]
    for node in NODES:
        assert "localhost/late:1" in cluster.sh(node, [*ctr, "ls", "--quiet"]).stdout.split()
        cluster.sh(node, [*ctr, "rm", "localhost/late:1"])


def test_what_fails_in_a_node_says_what_and_why(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match=r"cat /no-such-file: exit code 1: .*No such file"):
        cluster.sh("node1", ["cat", "/no-such-file"])
    with pytest.raises(ClusterError, match="no machine node9 in nodeagent0; there are: cp node1"):
        cluster.sh("node9", ["true"])
    with pytest.raises(ClusterError, match=r"not there: a miracle after 0 s; logs: .*var/log"):
        cluster.until("there: a miracle", lambda: False, seconds=0)


def test_a_cluster_in_use_is_not_taken_down_by_others(cluster: Cluster) -> None:
    argv = [sys.executable, "-m", "integration.cluster", "down"]
    other = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert f"process {os.getpid()} holds it" in other.stderr
    cluster.sh("node1", ["true"])


def test_down_leaves_nothing_but_the_logs(spare: Cluster) -> None:
    spare.up(1)
    family = processes(spare)
    assert {"kubelet", "containerd", "etcd"} <= set(alive(family))
    assert traces(spare)
    spare.down()
    assert alive(family) == []
    assert traces(spare) == []
    assert "Started kubelet" in (spare.logs / "node1/log/kubelet.log").read_text()


def test_what_a_killed_process_left_is_removed_by_the_next(spare: Cluster) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        family = processes(spare)
        holder.send_signal(signal.SIGKILL)
    assert {"kubelet", "etcd"} <= set(alive(family))
    spare.up(1)
    assert alive(family) == []
    assert spare.answers("node", "node1")
    spare.down()
    assert traces(spare) == []


def test_what_somebody_left_up_on_purpose_stays_up(spare: Cluster) -> None:
    argv = [sys.executable, "-m", "integration.cluster", f"--number={SPARE}"]
    subprocess.run([*argv, "up", "1"], check=True, capture_output=True)
    with pytest.raises(ClusterError, match="left up on purpose"):
        spare.up(1)
    assert spare.answers("node", "node1")
    subprocess.run([*argv, "down"], check=True)
    assert traces(spare) == []


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_where_it_cannot_run_tests_are_skipped_but_never_in_ci(ci: str, outcome: str) -> None:
    test = f"{__file__}::{test_what_fails_in_a_node_says_what_and_why.__name__}"
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test]
    env = os.environ | {"CI": ci, "PATH": "/nowhere"}
    told = subprocess.run(argv, env=env, capture_output=True, text=True, check=False).stdout
    assert f"{outcome} in" in told
    assert "no test cluster here: `make setup` installs" in told
