"""Events about this agent's Node: what `kubectl describe node` shows of it.

Few on purpose: the same news is told once an hour, and never more than a handful a minute.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from nodeagent.kube.api import Api
from nodeagent.names import FIELD_MANAGER
from nodeagent.report import utc_now

NAMESPACE: Final = "default"  # where events about objects without a namespace belong
AGAIN: Final = timedelta(hours=1)
MOST: Final = 10  # of a kind, in any MINUTES: good news does not crowd out bad
MINUTES: Final = timedelta(minutes=10)
MAX_MESSAGE: Final = 1000  # characters: what is longer nobody reads in a list


@dataclass(frozen=True)
class Event:
    """One piece of news."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass
class Events:
    """Tells news about one Node."""

    api: Api
    node: str
    clock: Callable[[], datetime] = utc_now
    _told: dict[Event, datetime] = field(default_factory=dict)

    async def tell(self, event: Event, node_uid: str) -> None:
        """Post an event, unless it is no news or too many came before."""
        now = self.clock()  # which may have been set back: hence abs
        self._told = {one: at for one, at in self._told.items() if abs(now - at) < AGAIN}
        recent = sum(
            abs(now - at) < MINUTES for one, at in self._told.items() if one.kind == event.kind
        )
        if event in self._told or recent >= MOST:
            return
        await self.api.create(
            f"/api/v1/namespaces/{NAMESPACE}/events", self._object(event, now, node_uid)
        )
        self._told[event] = now

    def _object(self, event: Event, now: datetime, node_uid: str) -> dict[str, Any]:
        time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{self.node}.{uuid.uuid4().hex[:16]}", "namespace": NAMESPACE},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Node",
                "name": self.node,
                "uid": node_uid,
            },
            "type": event.kind,
            "reason": event.reason,
            "message": event.message[:MAX_MESSAGE],
            "source": {"component": FIELD_MANAGER, "host": self.node},
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self.node,
        }
