"""A cache directory over HTTP, as static files that every Nix client reads.

What is not there is 404, never 5xx: one substituter that fails can fail a build. The
compression is the narinfo's business, never Content-Encoding's: a client resumes a broken
download only without it.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter

from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

GRACE_SECONDS: Final = 5.0
SMALL_BYTES: Final = 64 * 1024
_TYPES: Final = {
    ".narinfo": "text/x-nix-narinfo",
    ".json": "application/json",
    ".index": "application/json",
}
_CACHE_INFO: Final = "nix-cache-info"


def app(directory: Path) -> web.Application:
    """Build the application; it follows the directory as it changes."""
    root = directory.resolve()

    async def get(request: web.Request) -> web.StreamResponse:
        file = find(root, request.match_info["name"])
        if file is None:
            raise web.HTTPNotFound(text="not in this cache\n")
        headers: dict[str, str] = {hdrs.CONTENT_TYPE: content_type(file.name)}
        return _whole(request, file, headers) or _File(file, headers=headers)

    application = web.Application()
    application.add_routes([web.get("/{name:.*}", get)])
    return application


def find(root: Path, name: str) -> Path | None:
    """Give the file of that name, if it is one that may be seen: whole, and below `root`."""
    parts = name.split("/")
    if any(part.startswith(".") or ".tmp" in part or not part for part in parts):
        return None
    try:
        file = root.joinpath(*parts).resolve(strict=True)
        return file if file.is_relative_to(root) and file.is_file() and _readable(file) else None
    except (OSError, ValueError, RuntimeError):  # gone, too long, a NUL, a circle of links
        return None


def content_type(name: str) -> str:
    """Say what a file in a binary cache is."""
    if name == _CACHE_INFO:
        return "text/x-nix-cache-info"
    if ".nar" in Path(name).suffixes:
        return "application/x-nix-nar"
    return _TYPES.get(Path(name).suffix, "application/octet-stream")


async def serve(directory: Path, host: str, port: int) -> None:
    """Serve until cancelled; transfers under way get some seconds to end."""
    if not (directory / _CACHE_INFO).is_file():
        raise NodeAgentError(
            Reason.SETTING_INVALID,
            f"{directory} is no binary cache (it has no {_CACHE_INFO}); "
            "make one with `nodeagent release build --cache`",
        )
    runner = web.AppRunner(app(directory), access_log=None, shutdown_timeout=GRACE_SECONDS)
    await runner.setup()
    try:
        await _listen(runner, host, port)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _whole(
    request: web.Request, file: Path, headers: Mapping[str, str]
) -> web.StreamResponse | None:
    """Answer with a small file at once: a narinfo or small NAR costs one read, not three threads.

    The headers are those of a FileResponse; None where that is needed.
    """
    if hdrs.RANGE in request.headers or hdrs.IF_NONE_MATCH in request.headers:
        return None
    try:
        with file.open("rb") as source:
            info = os.fstat(source.fileno())
            body = source.read(SMALL_BYTES + 1)
    except OSError:
        return None
    if len(body) > SMALL_BYTES:
        return None
    answer = web.Response(body=body, headers={**headers, hdrs.ACCEPT_RANGES: "bytes"})
    answer.etag = f"{info.st_mtime_ns:x}-{info.st_size:x}"
    answer.last_modified = info.st_mtime
    return answer


class _File(web.FileResponse):
    """A file as it is, also where a compressed sibling lies beside it."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        plain = request.clone(headers=_without(request, hdrs.ACCEPT_ENCODING))
        return await super().prepare(plain)


def _without(request: web.BaseRequest, header: str) -> dict[str, str]:
    return {key: value for key, value in request.headers.items() if key != header}


def _readable(file: Path) -> bool:
    with file.open("rb"):
        return True


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise NodeAgentError(
            Reason.SETTING_INVALID,
            f"cannot listen on {host}:{port}: {error.strerror}; give another --host or --port",
        ) from None
