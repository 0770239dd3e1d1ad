"""Nix's own lock on a store path, held by another process: waited for, but not for ever."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from integration.site import Node, Site
from nodeagent import store
from nodeagent.names import Reason


@contextlib.asynccontextmanager
async def held(lock: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Have another process hold a lock, as one does that makes the path, until it is killed."""
    holder = await asyncio.create_subprocess_exec(
        *("flock", "--no-fork", str(lock), "sh", "-c", "echo locked; exec sleep 600"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"locked\n"
    try:
        yield holder
    finally:
        with contextlib.suppress(ProcessLookupError):
            holder.send_signal(signal.SIGKILL)
        await holder.wait()


async def test_a_lock_that_somebody_keeps_fails_the_pass_and_nothing_else(tmp_path: Path) -> None:
    site = Site(tmp_path)
    node = Node(site, tmp_path / "node1")
    closure = site.closure("2", changed=3)
    first, second = await site.release(site.closure("1")), await site.release(closure)
    site.promote(first)
    lock = Path(f"{node.real(closure.root)}.lock")
    async with node.agent():
        await node.until_published(first)
        async with held(lock) as holder:
            site.promote(second)
            status = await node.until_problem(Reason.STORE_UNUSABLE)
            assert status.problem is not None
            assert f"{lock} for {store.LOCK_SECONDS:g} s" in status.problem.message
            assert "fuser" in status.problem.message
            assert status.ready
            assert (await node.get("/readyz"))[0] == 200
            assert not os.path.lexists(node.real(closure.root))
            assert all(os.path.lexists(node.real(path)) for path in closure.paths[:-1])
            holder.kill()
        await node.until_published(second)
    assert not lock.exists()
    assert "hello 2" in node.hello()


async def test_a_lock_file_that_a_killed_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    site = Site(tmp_path)
    node = Node(site, tmp_path / "node1")
    closure = site.closure()
    manifest = await site.release(closure)
    site.promote(manifest)
    lock = Path(f"{node.real(closure.root)}.lock")
    lock.parent.mkdir(parents=True)
    async with held(lock):
        pass
    assert lock.exists()
    assert await node.once() == 0
    assert not lock.exists()
