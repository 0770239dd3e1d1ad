"""The addresses of a cluster, and its bridge on the host.

A cluster has a number, so that a second one can stand beside the first. Nothing has a default
route: no pod reaches the host's network.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from integration.cluster.commands import ClusterError, run

CONTROL_PLANE: Final = "cp"
MAX_NODES: Final = 9


def number_of(machine: str) -> int:
    """Count machines: the control plane is 0, node3 is 3."""
    every = [CONTROL_PLANE, *nodes(MAX_NODES)]
    if machine not in every:
        raise ClusterError(f"no such machine: {machine}; there may be {' '.join(every)}")
    return every.index(machine)


def nodes(count: int) -> list[str]:
    return [f"node{number}" for number in range(1, count + 1)]


@dataclass(frozen=True)
class Lan:
    """One cluster's names and addresses; its number is 0 to 9."""

    cluster: int = 0

    @property
    def name(self) -> str:
        """The name of the bridge, of the cgroup and of the state's directory."""
        return f"nodeagent{self.cluster}"

    @property
    def services(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"10.{220 + self.cluster}.0.0/16")

    @property
    def all_pods(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"10.{210 + self.cluster}.0.0/16")

    @property
    def gateway(self) -> str:
        """The host's address."""
        return f"10.200.{self.cluster}.1"

    def address(self, machine: str) -> str:
        number = number_of(machine)
        return f"10.200.{self.cluster}.{10 + number if number else 2}"

    def pods(self, node: str) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"10.{210 + self.cluster}.{number_of(node)}.0/24")

    def link(self, machine: str) -> str:
        """The host's end of a machine's cable."""
        return f"{self.name}-{number_of(machine)}"

    def make_bridge(self) -> None:
        batch(
            f"link add {self.name} type bridge",
            f"addr add {self.gateway}/24 dev {self.name}",
            f"link set {self.name} up",
            *self._pod_routes(nodes(MAX_NODES)),
        )

    def remove_bridge(self) -> None:
        run(["ip", "link", "del", self.name], check=False)

    def plug(self, machine: str, pid: int) -> None:
        """Give a process's network namespace its cable, address and routes."""
        # With a new MAC after each boot, the others would talk to the old one for half a minute.
        mac = f"02:00:00:00:00:{number_of(machine):02x}"
        batch(
            f"link add {self.link(machine)} type veth peer name eth0 address {mac} netns {pid}",
            f"link set {self.link(machine)} master {self.name} up",
        )
        batch(
            "link set lo up",
            f"addr add {self.address(machine)}/24 dev eth0",
            "link set eth0 up",
            *self._pod_routes(node for node in nodes(MAX_NODES) if node != machine),
            # For processes on the node: the kernel wants a route before it asks kube-proxy's rules.
            f"route add {self.services} via {self.gateway}",
            inside=pid,
        )

    def unplug(self, machine: str) -> None:
        run(["ip", "link", "del", self.link(machine)], check=False)

    def _pod_routes(self, through: Iterable[str]) -> list[str]:
        return [f"route add {self.pods(node)} via {self.address(node)}" for node in through]


def batch(*lines: str, inside: int | None = None) -> None:
    """Give ip(8) many commands at once, in the network namespace of a process."""
    enter = [] if inside is None else ["nsenter", "--target", str(inside), "--net"]
    run([*enter, "ip", "-batch", "-"], stdin="\n".join([*lines, ""]))
