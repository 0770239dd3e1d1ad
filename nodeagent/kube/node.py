"""This agent's Node: its labels, its condition, its start-up taint, and who uses them.

Labels and condition are applied server-side and apart (an owner is known per subresource), so
that other conditions and labels stay untouched. Taints are one list for every patch but a JSON
patch: only our own is taken out, with a test that it still is where it was.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from nodeagent.errors import NodeAgentError
from nodeagent.kube import use
from nodeagent.kube.api import Api
from nodeagent.names import (
    CONDITION,
    CONDITION_DISK,
    GROUP,
    LABEL_PROFILE_PREFIX,
    LABEL_READY,
    RUN_DIR,
    TAINT,
    Reason,
)
from nodeagent.readiness import Condition

FORBIDDEN: Final = f"{GROUP}/forbidden"
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_LIVE: Final = "status.phase!=Succeeded,status.phase!=Failed"


@dataclass(frozen=True)
class Seen:
    """What the Node says: its uid, all its labels, and our condition.

    `since` is when the condition changed, `told` when it was last written. `disk` is the condition
    that is there only while the disk is suspect, `disk_since` from when on.
    """

    uid: str
    labels: Mapping[str, str]
    condition: Condition | None
    since: datetime | None
    told: datetime
    taints: tuple[Mapping[str, str], ...]
    disk: Condition | None = None
    disk_since: datetime | None = None

    @property
    def is_tainted(self) -> bool:
        """Tell whether our start-up taint is on."""
        return any(taint["key"] == TAINT for taint in self.taints)

    @property
    def ours(self) -> frozenset[str]:
        """List the labels that only agents set, and that are as they set them."""
        return frozenset(
            key for key, value in self.labels.items() if value == "true" and _is_ours(key)
        )


@dataclass(frozen=True)
class Node:
    """The Node of this name."""

    api: Api
    name: str

    @property
    def path(self) -> str:
        """Where it lies."""
        return f"/api/v1/nodes/{self.name}"

    async def look(self) -> Seen:
        """Read the Node."""
        node = await self.api.get(self.path)
        conditions = {one["type"]: one for one in node.get("status", {}).get("conditions", ())}
        known, disk = conditions.get(CONDITION), conditions.get(CONDITION_DISK)
        return Seen(
            uid=node["metadata"]["uid"],
            labels=node["metadata"].get("labels", {}),
            condition=known and _condition(known),
            since=_time(known, "lastTransitionTime"),
            told=_time(known, "lastHeartbeatTime") or datetime.fromtimestamp(0, UTC),
            taints=tuple(node.get("spec", {}).get("taints", ())),
            disk=disk and _condition(disk),
            disk_since=_time(disk, "lastTransitionTime"),
        )

    async def label(self, labels: Iterable[str]) -> None:
        """Have exactly these labels of ours; those of others stay."""
        await self.api.apply(
            self.path, self._object(metadata={"labels": dict.fromkeys(sorted(labels), "true")})
        )

    async def is_guarded(self) -> bool:
        """Tell whether a policy refuses what we may not write, by asking for it without effect."""
        forbidden = {"metadata": {"labels": {FORBIDDEN: "true"}}}
        try:
            await self.api.apply(self.path, self._object(**forbidden), dry=True)
        except NodeAgentError as error:
            if error.reason is Reason.API_REFUSED:
                return True
            raise
        return False

    async def tell(
        self,
        condition: Condition,
        since: datetime,
        now: datetime,
        disk: Condition | None = None,
        disk_since: datetime | None = None,
    ) -> None:
        """Write our conditions, true since then and seen now; one that is None is taken off."""
        told = [_told(CONDITION, condition, since, now)]
        if disk is not None:
            told.append(_told(CONDITION_DISK, disk, disk_since or now, now))
        await self.api.apply(f"{self.path}/status", self._object(status={"conditions": told}))

    async def untaint(self, seen: Seen) -> None:
        """Take our start-up taint off, if it is on."""
        for number, taint in enumerate(seen.taints):
            if taint["key"] == TAINT:
                place = f"/spec/taints/{number}"
                operations: list[dict[str, Any]] = [
                    {"op": "test", "path": place, "value": taint},
                    {"op": "remove", "path": place},
                ]
                await self.api.json_patch(self.path, operations)
                return

    async def in_use(self) -> bool:
        """Tell whether a pod on this node asks for one of our labels or mounts a gate."""
        return bool(await self.users((RUN_DIR,)))

    async def users(self, directories: Sequence[str]) -> list[str]:
        """Name the pods here that ask for our labels or mount what is in these directories."""
        return use.users(await self._pods(), directories, use.own_namespace())

    async def containers(self, directories: Sequence[str]) -> list[tuple[str, datetime | None]]:
        """List the containers of such pods, with their starts; None for one that is being made."""
        return use.containers(await self._pods(), directories, use.own_namespace())

    async def _pods(self) -> list[use.Pod]:
        """List the pods here that are not over."""
        query = f"spec.nodeName={self.name},{_LIVE}"
        return list((await self.api.get("/api/v1/pods", field_selector=query))["items"])

    async def unlabel(self) -> list[str]:
        """Take all labels off that only agents set, whoever set them; give those that were on."""
        labels = (await self.look()).labels
        ours = sorted(key for key in labels if _is_ours(key))
        if ours:
            places = (f"/metadata/labels/{key.replace('/', '~1')}" for key in ours)
            await self.api.json_patch(
                self.path, [{"op": "remove", "path": place} for place in places]
            )
        return ours

    async def untell(self) -> bool:
        """Take our conditions off, whoever wrote them last; tell whether there were any."""
        node = await self.api.get(self.path)
        conditions = list(enumerate(node.get("status", {}).get("conditions", ())))
        operations: list[dict[str, Any]] = []
        for number, one in reversed(conditions):  # what comes later stays where it is
            if one["type"] in {CONDITION, CONDITION_DISK}:
                place = f"/status/conditions/{number}"
                operations += [
                    {"op": "test", "path": f"{place}/type", "value": one["type"]},
                    {"op": "remove", "path": place},
                ]
        if operations:
            await self.api.json_patch(f"{self.path}/status", operations)
        return bool(operations)

    def _object(self, **fields: object) -> dict[str, object]:
        metadata = {"name": self.name}
        extra = fields.pop("metadata", {})
        assert isinstance(extra, dict)  # noqa: S101 for the type checker
        return {"apiVersion": "v1", "kind": "Node", "metadata": metadata | extra, **fields}


def _is_ours(label: str) -> bool:
    return label == LABEL_READY or label.startswith(LABEL_PROFILE_PREFIX)


def _condition(found: Mapping[str, str]) -> Condition:
    return Condition(
        ready=found["status"] == "True",
        reason=found.get("reason", ""),
        message=found.get("message", ""),
    )


def _told(kind: str, condition: Condition, since: datetime, now: datetime) -> dict[str, str]:
    return {
        "type": kind,
        "status": "True" if condition.ready else "False",
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": since.strftime(_TIME),
        "lastHeartbeatTime": now.strftime(_TIME),
    }


def _time(found: Mapping[str, str] | None, key: str) -> datetime | None:
    text = found and found.get(key)
    return datetime.fromisoformat(text) if text else None
