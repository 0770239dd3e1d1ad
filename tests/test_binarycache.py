"""A cache directory over HTTP: what is served, how, and what never is."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient
from yarl import URL

from nodeagent.errors import NodeAgentError
from nodeagent.serve import binarycache

Client = TestClient[Any, Any]
NAR = "nar/0abc.nar.zst"
BODY = bytes(range(256)) * 1000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Give a cache directory with a secret beside it."""
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "cache"
    for name in ("nar", "releases"):
        (root / name).mkdir(parents=True)
    (root / "nix-cache-info").write_text("StoreDir: /nix/store\n")
    (root / "abc.narinfo").write_text("StorePath: x\n")
    (root / NAR).write_bytes(BODY)
    (root / "releases/1.json").write_text("{}")
    (root / "releases/1.index").write_text("{}")
    return root


@pytest.fixture
async def client(directory: Path, aiohttp_client: Callable[..., Awaitable[Client]]) -> Client:
    return await aiohttp_client(binarycache.app(directory))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nix-cache-info", "text/x-nix-cache-info"),
        ("abc.narinfo", "text/x-nix-narinfo"),
        (NAR, "application/x-nix-nar"),
        ("releases/1.json", "application/json"),
        ("releases/1.index", "application/json"),
    ],
)
async def test_each_file_is_served_whole_with_its_type(
    client: Client, directory: Path, name: str, kind: str
) -> None:
    answer = await client.get(f"/{name}")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == kind
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert await answer.read() == (directory / name).read_bytes()


async def test_head_tells_the_size_and_sends_nothing(client: Client) -> None:
    answer = await client.head(f"/{NAR}")
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(BODY)))
    assert await answer.read() == b""


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        ("bytes=1000-", 206, BODY[1000:]),
        ("bytes=10-19", 206, BODY[10:20]),
        ("bytes=-5", 206, BODY[-5:]),
        (f"bytes={len(BODY)}-", 416, b""),
    ],
)
async def test_a_broken_download_is_resumed_where_it_broke(
    client: Client, wanted: str, status: int, part: bytes
) -> None:
    answer = await client.get(f"/{NAR}", headers={"Range": wanted})
    assert answer.status == status
    if status == 206:
        assert await answer.read() == part


async def test_nothing_is_ever_encoded_even_with_a_packed_sibling(
    directory: Path, client: Client
) -> None:
    for suffix in (".gz", ".br"):
        (directory / f"{NAR}{suffix}").write_bytes(b"packed")
    answer = await client.get(f"/{NAR}", headers={"Accept-Encoding": "gzip, br, deflate, zstd"})
    assert "Content-Encoding" not in answer.headers
    assert await answer.read() == BODY
    packed = await client.get(f"/{NAR}.gz", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in packed.headers
    assert await packed.read() == b"packed"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nar",
        "nar/",
        "nope.narinfo",
        "nar/nope.nar.zst",
        f"/{NAR}",
        "../secret",
        "nar/../../secret",
        "%2e%2e/secret",
        "..%2fsecret",
        "nar/%00",
        "n" * 300,
        "/".join(["d"] * 3000),
        ".lock",
        "nar/.123.part",
        "abc.narinfo.tmp.123.0",
        "out",
        "out-of-nar/secret",
        "circle",
        "pipe",
        "abc.narinfo/x",
    ],
)
async def test_what_is_not_there_or_not_to_be_seen_is_404(
    directory: Path, client: Client, name: str
) -> None:
    for hidden in (".lock", "nar/.123.part", "abc.narinfo.tmp.123.0"):
        (directory / hidden).write_text("hidden")
    (directory / "out").symlink_to("../secret")
    (directory / "out-of-nar").symlink_to("..")
    (directory / "circle").symlink_to("circle")
    os.mkfifo(directory / "pipe")
    address = str(client.make_url("/")) + name
    answer = await client.session.get(URL(address, encoded=True))
    assert answer.status == 404
    assert b"hidden" not in await answer.read()


async def test_a_link_within_the_directory_is_followed(directory: Path, client: Client) -> None:
    (directory / "nar/link.nar.zst").symlink_to("0abc.nar.zst")
    answer = await client.get("/nar/link.nar.zst")
    assert await answer.read() == BODY


async def test_a_file_that_may_not_be_read_is_404(
    directory: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(binarycache, "_readable", refuse)  # root may read everything
    assert (await client.get("/abc.narinfo")).status == 404


async def test_nothing_can_be_written(client: Client) -> None:
    for method in ("PUT", "POST", "DELETE"):
        assert (await client.request(method, "/abc.narinfo", data=b"x")).status == 405


async def test_what_appears_while_serving_is_served(directory: Path, client: Client) -> None:
    (directory / "new.narinfo").write_text("new")
    assert await (await client.get("/new.narinfo")).text() == "new"


async def test_serving_ends_when_cancelled_and_gives_the_port_back(
    directory: Path, unused_tcp_port: int
) -> None:
    for _ in range(2):
        serving = asyncio.create_task(binarycache.serve(directory, "127.0.0.1", unused_tcp_port))
        assert await _got(f"http://127.0.0.1:{unused_tcp_port}/abc.narinfo") == "StorePath: x\n"
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving


async def _got(address: str) -> str:
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(address) as answer:
                    return await answer.text()
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.01)


async def test_a_port_that_is_taken_is_named(directory: Path, client: Client) -> None:
    assert client.port is not None
    with pytest.raises(NodeAgentError, match="give another --host or --port"):
        await binarycache.serve(directory, "127.0.0.1", client.port)


async def test_a_directory_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NodeAgentError, match="is no binary cache"):
        await binarycache.serve(tmp_path, "127.0.0.1", 0)
