"""The controller's endpoints for probes and Prometheus: /livez /readyz /metrics."""

from collections.abc import Mapping
from typing import Protocol

from aiohttp import web

from nodeagent import metrics


class View(Protocol):
    """What the endpoints show; each call looks anew."""

    def missing(self) -> Mapping[str, str]:
        """Say what stands against being asked, by what it concerns; empty if nothing does."""

    def metrics(self) -> bytes:
        """Give the text exposition."""


def app(view: View) -> web.Application:
    """Build the application."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        missing = view.missing()
        text = "".join(f"{what}: {why}\n" for what, why in missing.items())
        return web.Response(status=503 if missing else 200, text=text or "ok\n")

    async def metrics_(_: web.Request) -> web.Response:
        return web.Response(body=view.metrics(), headers={"Content-Type": metrics.CONTENT_TYPE})

    routes = {"/livez": livez, "/readyz": readyz, "/metrics": metrics_}
    application = web.Application()
    application.add_routes([web.get(path, handler) for path, handler in routes.items()])
    return application
