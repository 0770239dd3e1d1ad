"""The power fails at any instant: whatever the database calls valid is whole on the disk.

The store lies on an ext4 of its own, in a file behind a loop device. What that file holds at an
instant is what a disk would hold after a cut: pages that the kernel has not written yet are
missing, and mounting a copy replays the journal. (No dm-flakey or dm-log-writes: few kernels that
tests run on have them. So a disk that lies about what it flushed is not simulated.)
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from integration import closures
from integration.site import Node, Site
from integration.test_crash import MARK, Server, baked, first_of, marked, serving
from nodeagent import nar, storepath
from nodeagent.names import STORE_DIR
from nodeagent.nix import Nix
from nodeagent.release import System

CUTS = 12
MOST_WAIT_SECONDS = 0.2
DISK_BYTES = 96 << 20
TRIES = 200


def can_mount() -> bool:
    """Tell whether this machine lets us have a disk in a file."""
    tools = all(shutil.which(tool) for tool in ("mkfs.ext4", "mount", "umount", "nix-store"))
    return tools and os.geteuid() == 0 and Path("/dev/loop-control").exists()


pytestmark = pytest.mark.skipif(not can_mount(), reason="no loop devices, mkfs.ext4 or root here")


def run(*argv: str | Path) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"


@contextlib.contextmanager
def mounted(disk: Path) -> Iterator[Path]:
    """Mount a disk beside its file."""
    place = disk.with_suffix(".mount")
    place.mkdir(exist_ok=True)
    run("mount", "-o", "loop", disk, place)
    try:
        yield place
    finally:
        run("umount", place)


@contextlib.contextmanager
def frozen(place: Path) -> Iterator[None]:
    """Have all of a file system on its disk: once unmounted here, it may live on elsewhere.

    A mount namespace that somebody made meanwhile has it mounted, too.
    """
    run("fsfreeze", "--freeze", place)
    try:
        yield
    finally:
        run("fsfreeze", "--unfreeze", place)


def make_disk(disk: Path) -> Path:
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    run("mkfs.ext4", "-q", disk)
    return disk


def cut(disk: Path, root: Path, copy: Path) -> None:
    """Copy a disk as it is at one instant, the agents on it stopped for the while.

    The kernel may write on. A disk that reads the same twice was that one between the readings.
    """
    stopped = marked(root)
    for process in stopped:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    try:
        before = disk.read_bytes()
        for _ in range(TRIES):
            after = disk.read_bytes()
            if before == after:
                break
            before = after
        else:
            raise AssertionError("the disk never came to rest")
        copy.write_bytes(before)
    finally:
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


@contextlib.asynccontextmanager
async def working(node: Node, server: Server, *more: str) -> AsyncIterator[asyncio.Task[int]]:
    """Run an agent, from its first word to the cache on."""
    server.busy.clear()
    child = await asyncio.create_subprocess_exec(
        *node.argv("--once", *more),
        env={**os.environ, MARK: str(node.root)},
        stderr=asyncio.subprocess.DEVNULL,
    )
    ending = asyncio.create_task(child.wait())
    await first_of(child.wait(), server.busy.wait())
    yield ending
    assert await ending == 0


async def cuts(tmp_path: Path, site: Site, count: int, *more: str) -> list[Path]:
    """Let agents fill stores on disks and copy these at random instants."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 shown when the test fails
    chance, copies = random.Random(seed), list[Path]()
    while len(copies) < count:
        disk = make_disk(tmp_path / "disk.img")
        async with serving(site.cache) as server:
            with mounted(disk) as place:
                node = Node(site, place / "node", server.address, {"workers": "2"})
                async with working(node, server, *more) as ending:
                    done: set[asyncio.Task[int]] = set()
                    while not done and len(copies) < count:
                        wait = chance.uniform(0, MOST_WAIT_SECONDS)
                        done, _ = await asyncio.wait([ending], timeout=wait)
                        copies.append(tmp_path / f"cut{len(copies)}.img")
                        cut(disk, node.root, copies[-1])
    return copies


def broken(node: Node, system: System) -> dict[str, set[str]]:
    """Tell which paths are not whole: of those that are valid, of those that are visible."""
    wrong = set()
    store = node.store_root / "nix/store"
    visible = {f"{STORE_DIR}/{name}" for name in os.listdir(store)} if store.is_dir() else set()  # noqa: PTH208
    for path in visible & system.paths.keys():
        with contextlib.suppress(OSError):
            digest, _ = nar.hash_tree(os.fsencode(node.real(path)))
            if storepath.nar_hash(digest) == system.paths[path].nar_hash:
                continue
        wrong.add(path)
    valid = registered(node)
    return {"valid": valid & wrong | valid - visible, "visible": wrong}


def registered(node: Node) -> set[str]:
    nix = Nix(node.store_root)
    if not nix.database.exists() or not nix.database.with_name("schema").exists():
        return set()
    return set(nix.valid())


async def test_after_a_power_cut_what_is_valid_is_whole_and_the_node_converges(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    system, _ = await baked(site)
    stages = []
    for copy in await cuts(tmp_path, site, CUTS):
        with mounted(copy) as place:
            node = Node(site, place / "node")
            assert broken(node, system) == {"valid": set(), "visible": set()}
            stages.append(len(registered(node)))
            node.boot("boot-2")
            shutil.rmtree(node.run_dir, ignore_errors=True)  # a tmpfs in production
            assert await node.once() == 0, node.log
            closures.nix_store(node.store_root, "--verify", "--check-contents")
            assert registered(node) == system.paths.keys()
            with frozen(place):
                run("e2fsck", "-fn", copy)
        copy.unlink()
    print(f"{len(stages)} cuts, with {stages} of {len(system.paths)} paths valid")  # noqa: T201


async def test_without_syncing_a_power_cut_leaves_valid_paths_that_are_not_whole(
    tmp_path: Path,
) -> None:
    """Show that the test above would notice."""
    site = Site(tmp_path)
    system, _ = await baked(site)
    found = []
    for copy in await cuts(tmp_path, site, CUTS, "--no-durable"):
        with mounted(copy) as place:
            found.append(len(broken(Node(site, place / "node"), system)["valid"]))
        copy.unlink()
    print(f"valid and broken after each cut: {found}")  # noqa: T201
    assert any(found)
