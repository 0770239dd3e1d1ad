"""Kubelets that die: each comes back by itself, and judges its pods anew."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from integration.cluster import Cluster

# It has heard of all its pods, and refused those that its node no longer suits.
LOOKED: Final = b'"SyncLoop ADD" source="api"'


@dataclass(frozen=True)
class Killed:
    """Kubelets that were killed, with the lengths of their logs at that time."""

    cluster: Cluster
    logs: Mapping[Path, int]

    def until_back(self) -> None:
        """Wait until each was started anew and has judged its pods."""
        for log, length in self.logs.items():
            self.cluster.until(
                f"looking at its pods: the kubelet of {log}",
                lambda log=log, length=length: LOOKED in log.read_bytes()[length:],  # type: ignore[misc]
            )


def kill(cluster: Cluster) -> Killed:
    """Kill all kubelets at once."""
    logs = {}
    for node in cluster.nodes():
        node.sh(["sh", "-c", "kill -KILL $(pidof -s kubelet)"])
        log = node.disk / "var/log/kubelet.log"
        logs[log] = log.stat().st_size
    return Killed(cluster, logs)


def restart(cluster: Cluster) -> None:
    """Kill all kubelets; returns when each has judged its pods anew."""
    kill(cluster).until_back()
