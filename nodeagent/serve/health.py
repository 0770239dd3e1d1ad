"""The agent's endpoints: /livez /readyz /healthz /v1/status /metrics, and POST /v1/collect.

Whoever reaches the agent may ask; only who is beside it, on loopback, may have it do something.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final, Protocol

from aiohttp import web

from nodeagent import metrics
from nodeagent.errors import NodeAgentError
from nodeagent.readiness import Check, is_ready
from nodeagent.report import Collection, Status

LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})


class View(Protocol):
    """What the endpoints show; each call looks anew."""

    async def checks(self) -> Sequence[Check]:
        """Look at the node and judge."""

    async def status(self) -> Status:
        """Tell what the agent is doing."""

    async def metrics(self) -> bytes:
        """Give the text exposition."""

    async def collect(self, *, dry: bool, paths: bool) -> Collection:
        """Collect, or only say what would become of each release."""


def app(view: View) -> web.Application:
    """Build the application; every answer is fresh and none is cached."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        checks = await view.checks()
        failed = [check for check in checks if check.needed and not check.ok]
        text = "".join(f"{check.name}: {check.reason}: {check.message}\n" for check in failed)
        return web.Response(status=503 if failed else 200, text=text or "ok\n")

    async def healthz(_: web.Request) -> web.Response:
        checks = await view.checks()
        body = {"ready": is_ready(checks), "checks": [asdict(check) for check in checks]}
        status = 200 if all(check.ok for check in checks) else 503
        return web.json_response(body, status=status, dumps=_pretty)

    async def status(_: web.Request) -> web.Response:
        document = await view.status()
        text = document.model_dump_json(by_alias=True, indent=1) + "\n"
        return web.Response(text=text, content_type="application/json")

    async def collect(request: web.Request) -> web.Response:
        if request.remote not in LOOPBACK:
            raise web.HTTPForbidden(text="only from within the agent's own network namespace\n")
        try:
            dry, paths = ("dryRun" in request.query, "paths" in request.query)
            done = await view.collect(dry=dry, paths=paths)
        except NodeAgentError as error:
            raise web.HTTPServiceUnavailable(text=f"{error.reason}: {error.message}\n") from None
        text = done.model_dump_json(by_alias=True, indent=1) + "\n"
        return web.Response(text=text, content_type="application/json")

    async def metrics_(_: web.Request) -> web.Response:
        return web.Response(
            body=await view.metrics(), headers={"Content-Type": metrics.CONTENT_TYPE}
        )

    routes = {
        "/livez": livez,
        "/readyz": readyz,
        "/healthz": healthz,
        "/v1/status": status,
        "/metrics": metrics_,
    }
    application = web.Application()
    application.add_routes([web.get(path, handler) for path, handler in routes.items()])
    application.add_routes([web.post("/v1/collect", collect)])
    return application


def _pretty(body: object) -> str:
    return json.dumps(body, indent=1) + "\n"
