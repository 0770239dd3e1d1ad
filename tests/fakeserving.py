"""Two ways to the fake API server: a client without a socket, and a server on loopback."""

import asyncio
import contextlib
import copy
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from tests.fakeapi import FakeApi, Request


class Direct(ApiClient):
    """The library's client with the fake at its other end: for tests in simulated time."""

    def __init__(self, server: FakeApi) -> None:
        super().__init__(Configuration(host="http://api"))
        self.server = server

    async def call_api(  # type: ignore[override] # it gives what is needed of an answer
        self,
        method: str,
        url: str,
        header_params: Mapping[str, str],
        body: object = None,
        post_params: object = None,
        _request_timeout: object = None,
    ) -> "Reply":
        """Answer as the library's own transport would."""
        self.server.asked += 1
        await asyncio.sleep(self.server.slow)
        if self.server.away:
            raise aiohttp.ClientConnectionError("told to be away")
        parts = urlsplit(url)
        request = Request(
            method, parts.path, dict(parse_qsl(parts.query)), header_params["Content-Type"], body
        )
        status, answer = self.server.answer(copy.deepcopy(request))
        return Reply(status, answer, self.server.headers(status))


class Reply:
    """Both what the library's transport gives and the response inside."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str]) -> None:  # noqa: ANN401 any JSON
        self.status, self.reason, self.data = status, str(status), json.dumps(body).encode()
        self.response, self.headers = self, headers

    async def read(self) -> bytes:
        return self.data

    async def json(self) -> Any:  # noqa: ANN401 any JSON
        return json.loads(self.data)


@contextlib.asynccontextmanager
async def serving(server: FakeApi) -> AsyncIterator[str]:
    """Serve on loopback; give the address."""

    async def handle(http: web.Request) -> web.StreamResponse:
        server.asked += 1
        await asyncio.sleep(server.slow)
        if server.away:
            assert http.transport is not None
            http.transport.abort()
        text = await http.text()
        request = Request(
            http.method,
            http.path,
            dict(http.query),
            http.content_type,
            json.loads(text) if text else None,
            http.headers.get("Authorization", ""),
        )
        status, body = server.answer(request)
        return web.json_response(body, status=status, headers=server.headers(status))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
