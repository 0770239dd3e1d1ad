"""The nodes of a fleet: which of them say that they are ready, and for which profiles. Pure.

Most of what is worked out for one snapshot holds for the next, too: a heartbeat changes neither
labels nor profiles.
"""

import math
import operator
from collections.abc import Mapping
from typing import Final

from nodeagent.admission.fleet import Fleet, Node
from nodeagent.admission.nodes import Nodes, bits
from nodeagent.names import Kind

MAX_AGE_SECONDS: Final = 900  # of what a condition says; it is told every five minutes

Publishing = dict[tuple[str, Kind], int]


class Ground:
    """A fleet's nodes; `land` is what they are by name, label and taint."""

    def __init__(self, nodes: tuple[Node, ...], land: Nodes, publishing: Publishing) -> None:
        self.nodes = nodes
        self.land = land
        self._publishing = publishing
        self._told = [
            node.told if node.ready and node.store_ready and node.agent_ready else None
            for node in nodes
        ]
        self._alive = bits([told is not None for told in self._told])
        self._oldest = min((told for told in self._told if told is not None), default=math.inf)

    def after(self, nodes: tuple[Node, ...]) -> "Ground":
        """Give the ground of other nodes; what has not changed is taken over."""
        changes = [
            (old, new) for old, new in zip(self.nodes, nodes, strict=False) if old is not new
        ]
        if len(nodes) != len(self.nodes) or any(old.name != new.name for old, new in changes):
            return Ground(nodes, Nodes(nodes), {})
        lies = all((old.labels, old.taints) == (new.labels, new.taints) for old, new in changes)
        publishes = all(old.profiles == new.profiles for old, new in changes)
        land = self.land if lies else Nodes(nodes)
        return Ground(nodes, land, self._publishing if publishes else {})

    def ready(self, profiles: Mapping[str, Kind], now: float) -> int:
        """Give the nodes that are ready for profiles, whatever their labels."""
        found, since = self._alive, now - MAX_AGE_SECONDS
        if self._oldest < since:
            found = bits([told is not None and told >= since for told in self._told])
        for published in profiles.items():
            if published not in self._publishing:
                name, kind = published
                flags = [node.profiles.get(name) == kind for node in self.nodes]
                self._publishing[published] = bits(flags)
            found &= self._publishing[published]
        return found


class Latest:
    """The ground of the fleet that was asked for last: many pods come while nothing changes.

    It is the same while its nodes are the same objects, which never change themselves.
    """

    def __init__(self) -> None:
        self._ground = Ground((), Nodes(()), {})

    def ground(self, fleet: Fleet) -> Ground:
        """Give a fleet's."""
        nodes, known = fleet.nodes.values(), self._ground.nodes
        if len(nodes) != len(known) or not all(map(operator.is_, nodes, known)):
            self._ground = self._ground.after(tuple(nodes))
        return self._ground
