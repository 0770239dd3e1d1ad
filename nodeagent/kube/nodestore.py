"""The NodeStore of this node: what its agent says of it, in the cluster's fleet table."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from nodeagent.kube.api import Api
from nodeagent.names import NODE_STORE_VERSION
from nodeagent.readiness import Condition
from nodeagent.release import digest12
from nodeagent.report import Status, Target

_SEEN: Final = "observedAt"


@dataclass(frozen=True)
class NodeStore:
    """The NodeStore of a node; both have the same name."""

    api: Api
    name: str

    @property
    def path(self) -> str:
        """Where it lies."""
        return f"/apis/{NODE_STORE_VERSION}/nodestores/{self.name}"

    async def look(self, node_uid: str) -> dict[str, Any] | None:
        """Read what was told; None if it is not there or belongs to an earlier Node."""
        found = await self.api.find(self.path)
        if found is None:
            return None
        owners = {owner["uid"] for owner in found["metadata"].get("ownerReferences", ())}
        if node_uid not in owners:
            return None
        return {key: value for key, value in found.get("status", {}).items() if key != _SEEN}

    async def own(self, node_uid: str) -> None:
        """Make it if it is not there: it goes when its Node goes."""
        owner = {"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": node_uid}
        await self.api.apply(self.path, self._object(metadata={"ownerReferences": [owner]}))

    async def tell(self, status: dict[str, Any], now: datetime) -> None:
        """Write the status, seen now."""
        told = status | {_SEEN: now.strftime("%Y-%m-%dT%H:%M:%SZ")}
        await self.api.apply(f"{self.path}/status", self._object(status=told))

    async def remove(self) -> bool:
        """Remove it, also an earlier Node's; tell whether it was there."""
        there = await self.api.find(self.path) is not None
        if there:
            await self.api.delete(self.path)
        return there

    def _object(self, metadata: dict[str, Any] | None = None, **fields: object) -> dict[str, Any]:
        named = {"name": self.name} | (metadata or {})
        return {"apiVersion": NODE_STORE_VERSION, "kind": "NodeStore", "metadata": named, **fields}


def describe(status: Status, condition: Condition) -> dict[str, Any]:
    """Put the NodeStore's status together; what is not known is left out."""
    progress = status.progress
    told = {
        "ready": condition.ready,
        "phase": status.phase,
        "reason": "" if condition.ready else condition.reason,
        "message": "" if condition.ready else condition.message,
        "channel": status.channel,
        "system": status.system,
        "agentVersion": status.version,
        "wanted": _target(status.wanted),
        "published": _target(status.published),
        "profiles": [
            {"name": name, "kind": one.kind, "root": one.root, "gate": one.published}
            for name, one in sorted(status.profiles.items())
        ],
        "elsewhere": [
            {"name": name, "systems": list(systems)} for name, systems in status.elsewhere.items()
        ],
        "progress": progress
        and {"bytesDone": progress.bytes_done, "bytesTotal": progress.bytes_total},
        "problem": status.problem and status.problem.model_dump(mode="json"),
    }
    return {key: value for key, value in told.items() if value not in (None, [])}


def _target(target: Target | None) -> dict[str, Any] | None:
    if target is None:
        return None
    return {**target.model_dump(), "digest12": digest12(target.release)}
