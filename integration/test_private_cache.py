"""A cache behind a private authority and a password: the agent and its workers have both."""

import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import trustme
from aiohttp import web

from integration.site import Node, Site, free_port
from nodeagent.names import Reason


@contextlib.asynccontextmanager
async def private(directory: Path, port: int, authority: trustme.CA) -> AsyncIterator[set[str]]:
    """Serve a directory over TLS to whoever has the password; give the passwords tried."""
    tried = set[str]()

    async def serve(request: web.Request) -> web.StreamResponse:
        text = request.headers.get("Authorization")
        password = aiohttp.BasicAuth.decode(text).password if text else ""
        tried.add(password)
        if password != "right":
            return web.Response(status=401)
        file = directory / request.path.lstrip("/")
        return web.FileResponse(file) if file.is_file() else web.Response(status=404)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    application = web.Application()
    application.add_routes([web.get("/{path:.*}", serve)])
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    try:
        yield tried
    finally:
        await runner.cleanup()


async def test_a_private_cache_is_used_once_its_password_is_right(tmp_path: Path) -> None:
    site, authority, port = Site(tmp_path), trustme.CA(), free_port()
    manifest = await site.release(site.closure())
    site.promote(manifest)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login agent password wrong\n")
    files = {"netrc": str(netrc), "ca-file": str(tmp_path / "ca.pem")}
    node = Node(site, tmp_path / "node1", f"https://localhost:{port}", files)
    async with private(site.cache, port, authority) as tried, node.agent():
        shown = await node.until_problem(Reason.CACHE_UNREACHABLE)
        assert shown.problem is not None
        assert "HTTP 401" in shown.problem.message
        netrc.write_text("machine localhost login agent password right\n")
        await node.until_published(manifest)
        assert tried == {"wrong", "right"}
    assert not [entry for entry in node.log if "wrong" in str(entry) or "right" in str(entry)]


async def test_an_authority_that_is_not_named_is_not_believed(tmp_path: Path) -> None:
    site, port = Site(tmp_path), free_port()
    site.promote(await site.release(site.closure()))
    node = Node(site, tmp_path / "node1", f"https://localhost:{port}")
    async with private(site.cache, port, trustme.CA()), node.agent():
        shown = await node.until_problem(Reason.CACHE_UNREACHABLE)
        assert shown.problem is not None
        assert "certificate" in shown.problem.message


async def test_a_file_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.promote(await site.release(site.closure()))
    for flag in ("netrc", "ca-file"):
        node = Node(site, tmp_path / flag, settings={flag: str(tmp_path / "absent")})
        assert await node.once() == 1
        assert "SettingInvalid" in str(node.log)
        assert f"--{flag}" in str(node.log)
