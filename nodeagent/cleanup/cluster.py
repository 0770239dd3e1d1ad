"""What others see of a node, taken off it. Each step says in words what it did."""

from dataclasses import dataclass
from typing import Final

from nodeagent import kube

NOTHING: Final = "nothing there"


@dataclass(frozen=True)
class Cluster:
    """This node's objects."""

    node: kube.Node
    store: kube.NodeStore

    async def labels(self) -> str:
        """No pod that asks for the node's store comes here any more."""
        gone = await self.node.unlabel()
        return f"{', '.join(gone)} taken off" if gone else NOTHING

    async def taint(self) -> str:
        """Without an agent nobody would take it off, and the node would stay empty."""
        seen = await self.node.look()
        if not seen.is_tainted:
            return NOTHING
        while seen.is_tainted:  # one a time: there may be several of the key
            await self.node.untaint(seen)
            seen = await self.node.look()
        return "taken off"

    async def condition(self) -> str:
        """Nobody would tell the truth in it, nor in that of the disk."""
        return "taken off" if await self.node.untell() else NOTHING

    async def nodestore(self) -> str:
        """The same."""
        return "removed" if await self.store.remove() else NOTHING
