"""An API server as the conformance suite sees it, fake or real."""

import json
import ssl
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import aiohttp

from nodeagent import kube
from nodeagent.kube import Api, Node

MERGE: Final = "application/merge-patch+json"


@dataclass(frozen=True)
class Server:
    """An API server: `kubeconfig` has an agent's rights, `stranger` none; we ask as an admin."""

    kubeconfig: Path
    stranger: Path
    url: str
    tls: ssl.SSLContext | None = None
    node: str = ""

    async def ask(
        self, method: str, where: str, body: object = None, kind: str = "application/json"
    ) -> Any:  # noqa: ANN401 any JSON
        """Do as somebody else, past the code under test."""
        data = None if body is None else json.dumps(body)
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method,
                self.url + where,
                data=data,
                headers={"Content-Type": kind},
                ssl=self.tls or False,
            ) as answer,
        ):
            assert answer.status < 300, await answer.text()
            return await answer.json()

    async def read(self) -> Any:  # noqa: ANN401 any JSON
        return await self.ask("GET", f"/api/v1/nodes/{self.node}")

    async def change(self, where: str = "", **fields: object) -> None:
        """Merge fields into the Node, or a subresource of it."""
        await self.ask("PATCH", f"/api/v1/nodes/{self.node}{where}", fields, MERGE)

    async def with_node(self) -> "Server":
        """Register a Node as a kubelet does."""
        made = replace(self, node=f"node-{uuid.uuid4().hex[:8]}")
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": made.node, "labels": {"zone": "b"}, "annotations": {"a": "1"}},
        }
        await made.ask("POST", "/api/v1/nodes", body)
        await made.change("/status", status={"conditions": [kubelets("Ready")]})
        return made


def kubelets(kind: str) -> dict[str, str]:
    at = {"lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    return {"type": kind, "status": "True", "reason": "Fine", "message": "it is", **at}


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[tuple[Api, Node]]:
    async with kube.connected(server.kubeconfig) as api:
        yield api, Node(api, server.node)
