"""The figures of a fleet on the test cluster, kept where `nodeagent bench` keeps its own.

`make bench-cluster`: a quarter of an hour, most of it watching agents idle.
"""

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import urllib3

from integration.cluster import Cluster, images
from integration.demo_profile import demo_closure
from integration.fleet import NAMESPACE, Fleet
from integration.image import agent_image
from integration.site import Site
from nodeagent import release
from nodeagent.bench import document, figures
from nodeagent.bench.figures import Figure, figure
from nodeagent.report import Status

RUNS: Final = 3
NODES: Final = 3
IDLE_SECONDS: Final = float(os.environ.get("IDLE_SECONDS", "600"))
SETTLE_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.02
HEARTBEAT_SECONDS: Final = 300.0
_REQUESTS: Final = re.compile(r"apiserver_request_total\{(.*)\} (\d+)")
_RESOURCE: Final = re.compile(r'resource="(\w+)"')
_PINS: Final = "/var/lib/kubelet/pods/{}/volumes/kubernetes.io~configmap/pins/..data"


def main() -> None:
    """Bring a cluster up, measure, take it down, write the document."""
    cluster = Cluster(8)
    cluster.up(NODES, [images.base_image(), agent_image()])
    try:
        with tempfile.TemporaryDirectory() as scratch:
            fleet = Fleet(cluster, Site(Path(scratch)))
            demo = fleet.release(demo_closure())
            small = [fleet.release(fleet.site.closure(version)) for version in ("1", "2")]
            with fleet.served():
                found = measure(fleet, demo, small)
    finally:
        cluster.down()
    figures.write("cluster", found)
    document.DOCUMENT.write_text(document.render(figures.read()))
    for one in found:
        sys.stdout.write(f"{one.name}: {one.value:g} {one.unit}, target {one.target}\n")
    sys.exit(any(one.ok is False for one in found))


def measure(fleet: Fleet, demo: bytes, small: Sequence[bytes]) -> list[Figure]:
    """Measure everything on one cluster, with the demo's release and two small ones."""
    ready = [from_nothing(fleet, demo) for _ in range(RUNS)]
    delays = [planned(fleet, small[run % 2]) for run in range(RUNS)]
    fleet.promote(demo)
    fleet.hurry()
    fleet.until_ready(demo)
    time.sleep(SETTLE_SECONDS)  # the last report of work
    before = applied(fleet)
    time.sleep(IDLE_SECONDS)
    made = {kind: count - before.get(kind, 0) for kind, count in applied(fleet).items()}
    beats = NODES * (IDLE_SECONDS // HEARTBEAT_SECONDS)
    idle = f"in {IDLE_SECONDS:.0f} s, {NODES} idle agents"
    rss = [resident(fleet, node) for node in fleet.nodes]
    return [
        figure("kubectl apply -k to three nodes ready, demo closure", ready, "s"),
        figure("new pins in the pod to planned, slowest of three agents", delays, "s", 2),
        figure("RSS of an idle agent in its pod, largest of three", [max(rss)], "MiB", 95),
        figure(f"writes to Nodes {idle}", [made.get("nodes", 0)], "writes", beats),
        figure(f"other writes {idle}", [made.get("nodestores", 0)], "writes", 2 * NODES),
    ]


def from_nothing(fleet: Fleet, manifest: bytes) -> float:
    """Install on nodes that never had an agent; give the seconds until all three are ready."""
    fleet.remove()
    fleet.name_image()
    fleet.site.promote(manifest)
    began = time.monotonic()
    fleet.apply()
    fleet.configure()
    fleet.pin()
    fleet.until_ready(manifest)
    return time.monotonic() - began


def planned(fleet: Fleet, manifest: bytes) -> float:
    """Change the pins; give the seconds from an agent's new file to its plan, of the slowest."""
    digest = release.digest_of(manifest)
    agents = "app.kubernetes.io/component=agent"
    pods = fleet.get("pods", "-n", NAMESPACE, "-l", agents)["items"]
    before = [_link(fleet, pod) for pod in pods]

    def delay(pod: dict[str, Any], old: str) -> float:
        _until(lambda: _link(fleet, pod) != old)
        came = time.monotonic()
        _until(lambda: _wanted(pod) == digest)
        return time.monotonic() - came

    with ThreadPoolExecutor() as pool:
        delays = pool.map(delay, pods, before)
        fleet.promote(manifest)
        fleet.hurry()
        return max(delays)


def applied(fleet: Fleet) -> dict[str, int]:
    """Count server-side applies by resource: on this cluster only our agents make them."""
    counts: dict[str, int] = {}
    for line in fleet.kubectl("get", "--raw", "/metrics").splitlines():
        match = _REQUESTS.fullmatch(line)
        resource = _RESOURCE.search(match[1]) if match and 'verb="APPLY"' in match[1] else None
        if match and resource:
            counts[resource[1]] = counts.get(resource[1], 0) + int(match[2])
    return counts


def resident(fleet: Fleet, node: str) -> float:
    """Give the agent's resident memory in MiB."""
    program = "print(open('/proc/1/status').read())"
    inside = ("exec", "-n", NAMESPACE, fleet.agent(node), "--", "python3", "-c", program)
    status = fleet.kubectl(*inside)
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert match, status
    return int(match[1]) / 1024


def _link(fleet: Fleet, pod: dict[str, Any]) -> str:
    """Say which version of the pins the kubelet has put into a pod."""
    place = _PINS.format(pod["metadata"]["uid"])
    return fleet.cluster.sh(pod["spec"]["nodeName"], ["readlink", place]).stdout


def _wanted(pod: dict[str, Any]) -> str | None:
    answer = urllib3.request("GET", f"http://{pod['status']['podIP']}:9741/v1/status", timeout=5)
    wanted = Status.model_validate_json(answer.data).wanted
    return wanted.release if wanted else None


def _until(test: Callable[[], bool], seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end, "an agent did not take the new pins up"
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
