"""What the webhook adds to real pods' creation, and what that takes while nobody answers.

`python -m integration.measure_webhook`, part of `make bench-cluster`: some minutes. The pods are
gated, so that neither scheduler nor kubelet works beside what is timed.
"""

import contextlib
import itertools
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import urllib3

from integration.cluster import Cluster, images
from integration.cluster.config import HERE
from integration.cluster.network import CONTROL_PLANE
from integration.fleet import NAMESPACE, Fleet
from integration.image import agent_image
from integration.site import Site
from integration.webhook import CONTROLLER, RULES, TABLE, Tree, Webhook, is_injected, pod
from nodeagent import names
from nodeagent.bench import document, figures
from nodeagent.bench.figures import Figure, figure

NODES: Final = 3
RUNS: Final = 3
PAIRS: Final = 250  # of each run: one pod that asks for the webhook, one that does not
WARMING: Final = 50
REFUSED: Final = 20
VANISHED: Final = 10
PLACE: Final = "webhook-bench"  # without the label: each pod says for itself whether it asks
POLL_SECONDS: Final = 0.02
TIMEOUT_SECONDS: Final = 10  # The webhook has two.
LONGEST_SECONDS: Final = 2.0
_REQUESTS: Final = re.compile(r"^nodeagent_webhook_requests_total\{.*\} (\S+)$", re.MULTILINE)
_RSS: Final = re.compile(r"VmRSS:\s+(\d+) kB")


def main() -> None:
    """Bring a cluster up, measure, take it down, write the document."""
    cluster = Cluster(8)
    cluster.up(NODES, [images.base_image(), agent_image()])
    try:
        with tempfile.TemporaryDirectory() as scratch:
            fleet = Fleet(cluster, Site(Path(scratch)))
            fleet.first = fleet.release(fleet.site.closure())
            with fleet.served():
                fleet.install()
                fleet.bring(fleet.first)
                found = measure(fleet)
    finally:
        cluster.down()
    figures.write("webhook-cluster", found)
    document.DOCUMENT.write_text(document.render(figures.read()))
    for one in found:
        sys.stdout.write(f"{one.name}: {one.value:g} {one.unit}, target {one.target}\n")
    sys.exit(any(one.ok is False for one in found))


@dataclass
class Pods:
    """Makes pods by one connection that stays open, and takes each away again."""

    line: urllib3.HTTPSConnectionPool
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def create(self, *, asking: bool = True) -> tuple[float, bool]:
        """Make one; give the seconds that it took, and whether it was injected."""
        name = f"pod{next(self.numbers)}"
        made = pod(
            name,
            labels={names.LABEL_INJECT: "true" if asking else "false"},
            schedulingGates=[{"name": "nodeagent.dev/bench"}],
        )
        body, where = json.dumps(made), f"/api/v1/namespaces/{PLACE}/pods"
        began = time.perf_counter()
        answer = self.line.request(
            "POST", where, body=body, headers={"Content-Type": "application/json"}
        )
        taken = time.perf_counter() - began
        assert answer.status == 201, answer.data.decode()
        gone = self.line.request("DELETE", f"{where}/{name}?gracePeriodSeconds=0")
        assert gone.status == 200, gone.data.decode()
        return taken, is_injected(answer.json())

    def in_turn(self, pairs: int) -> tuple[list[float], list[float]]:
        """Make pods that ask and pods that do not; give the milliseconds of each."""
        taken: dict[bool, list[float]] = {True: [], False: []}
        for number in range(pairs):
            for asking in (number % 2 == 0, number % 2 != 0):
                seconds, injected = self.create(asking=asking)
                assert injected == asking, "a pod was not injected as it asked"
                taken[asking].append(seconds * 1000)
        return taken[True], taken[False]

    def slowest(self, count: int) -> float:
        """Make so many while nobody answers; give the seconds that the slowest waited for that."""
        made = [(self.create(), self.create(asking=False)) for _ in range(count)]
        assert not any(ours[1] for ours, _ in made), "a pod was injected by nobody"
        return max(ours[0] for ours, _ in made) - p50([others[0] for _, others in made])

    def until_injected(self, since: float) -> float:
        """Make pods until one is injected; give the seconds since then."""
        while not self.create()[1]:
            assert time.monotonic() - since < 180, "no pod was injected again"
            time.sleep(POLL_SECONDS)
        return time.monotonic() - since


def measure(fleet: Fleet) -> list[Figure]:
    """Measure everything on a cluster whose agents are ready."""
    webhook = Webhook(fleet)
    webhook.install()
    webhook.namespace(PLACE, inject="")
    try:
        with connected(fleet.cluster) as line:
            pods = Pods(line)
            return [*latency(webhook, pods), *cut(webhook, pods), *gone(webhook, pods)]
    finally:
        fleet.kubectl("delete", "namespace", PLACE, "--ignore-not-found")
        webhook.remove()


@contextlib.contextmanager
def connected(cluster: Cluster) -> Iterator[urllib3.HTTPSConnectionPool]:
    """Give one connection to the API server, as the admin."""
    files = cluster.machine(CONTROL_PLANE).disk / HERE.lstrip("/")
    with urllib3.HTTPSConnectionPool(
        cluster.lan.address(CONTROL_PLANE),
        6443,
        timeout=TIMEOUT_SECONDS,
        retries=False,
        ca_certs=str(files / "ca.crt"),
        cert_file=str(files / "admin.crt"),
        key_file=str(files / "admin.key"),
    ) as line:
        yield line


def latency(webhook: Webhook, pods: Pods) -> list[Figure]:
    """Measure what it adds while all is well, and the memory that it has then."""
    pods.in_turn(WARMING)
    before = requests(webhook)
    runs = [pods.in_turn(PAIRS) for _ in range(RUNS)]
    each = (requests(webhook) - before) / (RUNS * PAIRS)
    asking, others = zip(*runs, strict=True)
    added = [p50(ours) - p50(theirs) for ours, theirs in runs]
    rss = [resident(webhook, one) for one in webhook.controllers()]
    return [
        figure("added to a pod's creation, difference of medians", added, "ms", 5),
        figure("creation of a pod with the webhook, p50", map(p50, asking), "ms"),
        figure("the same, p99", map(p99, asking), "ms"),
        figure("creation of a pod without, p50", map(p50, others), "ms"),
        figure("the same, p99", map(p99, others), "ms"),
        figure("requests to the webhooks for a pod", [each], "requests", 1),
        figure("RSS of a controller after that, larger of two", [max(rss)], "MiB", 90),
    ]


def cut(webhook: Webhook, pods: Pods) -> list[Figure]:
    """Measure what is added while the API server cannot reach the controllers that it knows."""
    found = []
    for what, verdict, count in (
        ("connections are refused", "reject with tcp reset", REFUSED),
        ("packets vanish", "drop", VANISHED),
    ):
        slowest, back = [], []
        for _ in range(RUNS):
            with ruled(webhook.fleet.cluster, verdict):
                slowest.append(pods.slowest(count))
            back.append(pods.until_injected(time.monotonic()))
        name = f"added while {what}, slowest of {count} creations"
        found += [
            figure(name, slowest, "s", LONGEST_SECONDS),
            figure("from the end of that to the next injected pod", back, "s"),
        ]
    return found


@contextlib.contextmanager
def ruled(cluster: Cluster, verdict: str) -> Iterator[None]:
    """Have the control plane's packets to controllers meet a verdict."""
    cluster.sh(CONTROL_PLANE, ["nft", "-f", "-"], stdin=RULES.replace("drop", verdict))
    try:
        yield
    finally:
        cluster.sh(CONTROL_PLANE, ["nft", "delete", "table", "ip", TABLE])


def gone(webhook: Webhook, pods: Pods) -> list[Figure]:
    """Measure what is added while there is no controller at all."""
    scale = ("scale", CONTROLLER, "-n", NAMESPACE)
    webhook.fleet.kubectl(*scale, "--replicas=0")
    webhook.fleet.until("gone: the controllers", lambda: webhook.controllers() == [])
    slowest = pods.slowest(REFUSED)
    webhook.fleet.kubectl(*scale, "--replicas=2")
    back = pods.until_injected(time.monotonic())
    name = f"added while there is no controller, slowest of {REFUSED} creations"
    return [
        figure(name, [slowest], "s", LONGEST_SECONDS),
        figure("from two replicas wanted to the next injected pod", [back], "s"),
    ]


def requests(webhook: Webhook) -> float:
    """Count what all controllers were asked."""
    texts = [
        urllib3.request(
            "GET", f"http://{one['status']['podIP']}:{names.CONTROLLER_PORT}/metrics", timeout=5
        ).data.decode()
        for one in webhook.controllers()
    ]
    return sum(float(count) for text in texts for count in _REQUESTS.findall(text))


def resident(webhook: Webhook, controller: Tree) -> float:
    """Give a controller's resident memory in MiB."""
    program = "print(open('/proc/1/status').read())"
    inside = ("exec", "-n", NAMESPACE, controller["metadata"]["name"], "--", "python3", "-c")
    status = webhook.fleet.kubectl(*inside, program)
    match = _RSS.search(status)
    assert match, status
    return int(match[1]) / 1024


def p50(taken: Sequence[float]) -> float:
    return statistics.median(taken)


def p99(taken: Sequence[float]) -> float:
    return statistics.quantiles(taken, n=100)[98]


if __name__ == "__main__":
    main()
