"""The fleet as admission sees it: what a snapshot says of each node and namespace, and how old.

Times are unix seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nodeagent.names import Kind


@dataclass(frozen=True, slots=True)
class Taint:
    """A node's taint; a cordoned node has `node.kubernetes.io/unschedulable:NoSchedule`, too."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Node:
    """A Node, its NodeStore and its agent's pod.

    `ready` is the kubelet's condition, `store_ready` ours, `told` its heartbeat; `profiles` are
    those that its NodeStore publishes with an open gate.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    ready: bool = False
    store_ready: bool = False
    told: float | None = None
    agent_ready: bool = False
    profiles: Mapping[str, Kind] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fleet:
    """A snapshot; `heard` is when each watched resource last gave a sign of life.

    `namespaces` maps names to labels; in those of `broken`, injected pods stayed unschedulable.
    """

    nodes: Mapping[str, Node] = field(default_factory=dict)
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    heard: Mapping[str, float] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
