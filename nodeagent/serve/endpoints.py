"""Endpoints for probes and Prometheus: an application on a port, for as long as somebody runs."""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

SHUTDOWN_SECONDS: Final = 2.0


@contextlib.asynccontextmanager
async def listening(application: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Answer at a port, and give it: 0 takes any that is free; raises SettingInvalid."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise NodeAgentError(
                Reason.SETTING_INVALID,
                f"cannot listen on {host}:{port}: {error.strerror}; give another --port",
            ) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
