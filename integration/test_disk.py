"""Disks that are full, run full, lack inodes, are read-only or say no: real file systems.

Each is a small one of its own, mounted under the node's store root and unmounted in any case.
"""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from integration import closures
from integration.site import Node, Site
from nodeagent import process
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.nix import Nix
from nodeagent.report import Status
from nodeagent.serve import binarycache

MIB = 1 << 20
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount file systems")


@contextlib.contextmanager
def mounted(place: Path, *argv: str) -> Iterator[Path]:
    """Mount a file system for the time of a test."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *argv, str(place)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextlib.contextmanager
def ext4(place: Path, size: int, *options: str) -> Iterator[Path]:
    """Mount an ext4 in a file; its reserve for root is none, so that numbers are exact."""
    image = place.with_name(f"{place.name}.img")
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", *options, str(image)], check=True)
    with mounted(place, "-o", "loop", str(image)):
        yield place


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def node(site: Site) -> Node:
    return Node(site, site.root / "node1")


def fill(place: Path, *, leave: int) -> Path:
    """Be somebody else who takes the room."""
    ballast = place / "ballast"
    told = os.statvfs(place)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(told.f_bavail * told.f_frsize - leave, 1))
    return ballast


def use_up_inodes(place: Path, *, leave: int) -> None:
    directory = place / "crumbs"
    directory.mkdir()
    for number in range(os.statvfs(place).f_favail - leave):
        (directory / str(number)).touch()


def staging(node: Node) -> list[str]:
    return sorted(os.listdir(node.store_root / "nix/var/nodeagent/staging"))  # noqa: PTH208 names


def said(status: Status) -> str:
    assert status.problem is not None
    return status.problem.message


async def test_too_little_room_is_told_with_numbers_before_anything_is_fetched(
    site: Site, node: Node
) -> None:
    first = await site.release(site.closure("1"))
    second = await site.release(site.closure("2", count=6, changed=3, file_bytes=8 * MIB))
    site.promote(first)
    with ext4(node.store_root, 64 * MIB):
        async with node.agent():
            await node.until_published(first)
            site.promote(second)
            status = await node.until_problem(Reason.DISK_SHORT)
            assert "MiB" in said(status)
            assert str(node.store_root) in said(status)
            assert "hello 1" in node.hello()
            assert (await node.get("/readyz"))[0] == 200
        assert staging(node) == []
        assert node.log[-1]["event"] != "bug"


async def test_what_lacks_room_goes_on_by_itself_when_there_is_some(site: Site, node: Node) -> None:
    manifest = await site.release(site.closure(file_bytes=MIB))
    site.promote(manifest)
    with ext4(node.store_root, 128 * MIB):
        ballast = fill(node.store_root, leave=16 * MIB)
        async with node.agent():
            await node.until_problem(Reason.DISK_SHORT)
            ballast.unlink()
            await node.until_published(manifest)


async def test_too_few_inodes_are_told_before_anything_is_fetched(site: Site, node: Node) -> None:
    site.promote(await site.release(site.closure(count=40)))
    with mounted(node.store_root, "-t", "tmpfs", "-o", "size=64m,nr_inodes=70", "tmpfs"):
        async with node.agent():
            status = await node.until_problem(Reason.DISK_SHORT)
            assert "80 inodes" in said(status)
        assert staging(node) == []


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
async def test_inodes_that_run_out_in_the_middle_are_told_apart_from_bytes(
    site: Site, node: Node, kind: str
) -> None:
    manifest = await site.release(site.closure(count=30))
    site.promote(manifest)
    node.settings = {"retry-seconds": "3", "retry-max-seconds": "3"}  # time to look in between
    file_system = (
        ext4(node.store_root, 64 * MIB, "-N", "400")
        if kind == "ext4"
        else mounted(node.store_root, "-t", "tmpfs", "-o", "size=64m,nr_inodes=400", "tmpfs")
    )
    with file_system as place:
        use_up_inodes(place, leave=100)
        async with node.agent():
            status = await node.until_problem(Reason.DISK_SHORT)
            assert "inodes" in said(status)
            assert not any(name.endswith(".part") for name in staging(node))
            for crumb in (place / "crumbs").iterdir():
                crumb.unlink()
            await node.until_published(manifest)
        closures.nix_store(node.store_root, "--verify", "--check-contents")


async def test_inodes_that_nix_itself_lacks_are_told_as_such(site: Site, node: Node) -> None:
    closure = site.closure()
    site.promote(await site.release(closure))
    with mounted(node.store_root, "-t", "tmpfs", "-o", "size=64m,nr_inodes=400", "tmpfs") as place:
        assert await node.once() == 0
        nix = Nix(node.store_root)
        known = nix.registered(closure.paths)
        use_up_inodes(place, leave=1)  # for what is registered
        with pytest.raises(NodeAgentError) as caught:  # SQLite cannot even make its journal
            await nix.register(known)
        assert caught.value.reason is Reason.DISK_SHORT
        assert "inodes" in caught.value.message


@contextlib.asynccontextmanager
async def cache_that(
    site: Site, node: Node, harm: Callable[[], object]
) -> AsyncIterator[asyncio.Event]:
    """Serve the cache to the node; once armed, harm is done before the third NAR is sent."""
    asked: list[str] = []
    armed = asyncio.Event()

    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        if armed.is_set() and request.path.startswith("/nar/"):
            asked.append(request.path)
            if len(asked) == 3:
                harm()
        return await handler(request)

    app = binarycache.app(site.cache)
    app.middlewares.append(watch)
    async with TestServer(app) as server:
        node.cache_address = str(server.make_url("/")).rstrip("/")
        yield armed


async def test_a_disk_that_somebody_fills_in_the_middle_keeps_what_was_finished(
    site: Site, node: Node
) -> None:
    first = await site.release(site.closure("1"))
    second = await site.release(site.closure("2", count=12, changed=10, file_bytes=MIB))
    site.promote(first)
    with ext4(node.store_root, 128 * MIB) as place:
        async with (
            cache_that(site, node, lambda: fill(place, leave=4 * MIB)) as armed,
            node.agent(),
        ):
            await node.until_published(first)
            armed.set()
            site.promote(second)
            await node.until_problem(Reason.DISK_SHORT)
            assert not any(name.endswith(".part") for name in staging(node))
            assert "hello 1" in node.hello()
            assert (await node.get("/readyz"))[0] == 200
            (place / "ballast").unlink()
            await node.until_published(second)
        told = [one["event"] for one in node.log if one.get("reason") == Reason.DISK_SHORT]
        assert "No space left on device" in told[0]
        closures.nix_store(node.store_root, "--verify", "--check-contents")


async def test_a_store_that_turns_read_only_in_the_middle_is_told_and_healed(
    site: Site, node: Node
) -> None:
    first = await site.release(site.closure("1"))
    second = await site.release(site.closure("2", count=12, changed=10, file_bytes=MIB))
    site.promote(first)
    with ext4(node.store_root, 128 * MIB) as place:
        async with (
            # An emergency remount, as the kernel does after an error: open files do not matter.
            cache_that(site, node, lambda: remount(place, "ro")) as armed,
            node.agent(),
        ):
            await node.until_published(first)
            armed.set()
            site.promote(second)
            status = await node.until_problem(Reason.STORE_UNUSABLE)
            assert "mount it read-write" in said(status)
            assert (await node.get("/readyz"))[0] == 200
            remount(place, "rw")
            await node.until_published(second)


def remount(place: Path, how: str) -> None:
    argv = ["mount", "-o", f"remount,{how}", str(place)]  # refused while a file is being written
    assert any(subprocess.run(argv, check=False).returncode == 0 for _ in range(1000))


async def test_a_store_that_is_read_only_from_the_start_is_refused_with_the_fix(
    site: Site, node: Node
) -> None:
    site.promote(await site.release(site.closure()))
    with mounted(node.store_root, "-t", "tmpfs", "-o", "ro", "tmpfs"):
        assert await node.once() == 1
    assert "StoreUnusable" in node.log[-1]["event"]
    assert "mount it read-write" in node.log[-1]["event"]


async def test_staging_on_another_file_system_is_refused_with_the_fix(
    site: Site, node: Node
) -> None:
    site.promote(await site.release(site.closure()))
    (node.store_root / "nix/store").mkdir(parents=True)
    with mounted(node.store_root / "nix/store", "-t", "tmpfs", "tmpfs"):
        assert await node.once() == 1
    assert f"mount {node.store_root / 'nix'} as one" in node.log[-1]["event"]


@pytest.mark.parametrize(
    "place",
    ["host/nix/store", "host/nix/var/nodeagent/staging", "state", "run/releases", "run/profiles"],
)
async def test_permission_that_is_lost_is_told_and_healed(
    site: Site, node: Node, place: str
) -> None:
    first, second = [await site.release(site.closure(version)) for version in ("1", "2")]
    site.promote(first)
    with ext4(node.root, 64 * MIB):
        node.boot("boot-1")
        async with node.agent():
            await node.until_published(first)
            closures.run("chattr", "+i", str(node.root / place))
            site.promote(second)
            status = await node.until_problem(Reason.STORE_UNUSABLE)
            assert str(node.root / place) in said(status)
            assert "run the agent as root" in said(status)
            assert "lsattr" in said(status)
            assert (await node.get("/readyz"))[0] == 200
            assert "hello 1" in node.hello()
            closures.run("chattr", "-i", str(node.root / place))
            await node.until_published(second)


async def test_an_agent_without_capabilities_says_what_it_lacks(site: Site, node: Node) -> None:
    site.promote(await site.release(site.closure()))
    node.store_root.mkdir()
    node.store_root.chmod(0o555)
    os.chown(node.store_root, 1, 1)
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    done = await process.run([*bare, *node.argv("--once")], timeout=60)
    assert done.code == 1
    assert "run the agent as root with CAP_DAC_OVERRIDE" in done.complaint
