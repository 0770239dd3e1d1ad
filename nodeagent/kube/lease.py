"""A Lease: which of several replicas writes now. It is taken to write and given back at once.

So nobody renews anything while there is nothing to write. No two machines' clocks are compared:
a holder is gone when its Lease stayed as it is for the whole of its time, by the watcher's own
clock. Writers must still check versions: one may be stopped while it holds the Lease.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from nodeagent.errors import NodeAgentError
from nodeagent.kube.api import Api
from nodeagent.kube.secrets import replace, there

LEASE_SECONDS: Final = 60


@dataclass
class Lease:
    """A Lease that is there already, as one replica sees it; `holder` names that replica."""

    api: Api
    namespace: str
    name: str
    holder: str
    seconds: int = LEASE_SECONDS
    _seen: str = ""
    _seen_at: float = 0.0

    @property
    def path(self) -> str:
        """Where it lies."""
        collection = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"
        return f"{collection}/{self.name}"

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[bool]:
        """Try to hold it for the block; tell whether it is held."""
        taken = await self._take()
        try:
            yield taken
        finally:
            if taken:
                with contextlib.suppress(NodeAgentError):  # then it runs out
                    await self._give_back()

    async def _take(self) -> bool:
        lease = await self._read()
        version = lease["metadata"]["resourceVersion"]
        if not self._is_free(lease.get("spec") or {}, version):
            return False
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": self.seconds,
            "acquireTime": now,  # for people: nothing is decided by it
            "renewTime": now,
        }
        return await replace(self.api, self.path, "spec", spec, version)

    async def _give_back(self) -> None:
        lease = await self._read()
        if (lease.get("spec") or {}).get("holderIdentity") == self.holder:
            await replace(self.api, self.path, "spec", {}, lease["metadata"]["resourceVersion"])

    async def _read(self) -> Any:  # noqa: ANN401 any JSON
        return await there(self.api, self.path, f"the Lease {self.namespace}/{self.name}")

    def _is_free(self, spec: dict[str, Any], version: str) -> bool:
        holder = spec.get("holderIdentity")
        if not holder or holder == self.holder:
            return True
        now = asyncio.get_running_loop().time()
        if version != self._seen:
            self._seen, self._seen_at = version, now
        seconds: int = spec.get("leaseDurationSeconds", self.seconds)
        return now - self._seen_at >= seconds
