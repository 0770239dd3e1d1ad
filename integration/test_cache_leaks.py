"""A cache that misbehaves again and again costs an agent and its workers no memory and no file."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Final

from integration import usage
from integration.site import Node, Site
from integration.test_hostile_caches import AT_ONCE, CONTINUED, QUICK, SLOW, STAGES
from integration.usage import Usage
from nodeagent.cache import Access
from nodeagent.messages import encode
from nodeagent.names import Reason
from nodeagent.realise.jobs import Failed, Setup, read_event
from tests import hostile
from tests.handmade import CACHE_KEY, Item, path
from tests.hostile import Hostile, Misbehaviour

SLACK_KIB: Final = 8 * 1024
WARM, ROUNDS = 30, 100  # threads and pools are there after the first


def rotating(kinds: tuple[Misbehaviour, ...]) -> Misbehaviour:
    turns = cycle(kinds)
    return lambda wire: next(turns)(wire)  # noqa: PLW0108 a turn for each request


async def test_an_agent_leaks_nothing_however_often_its_cache_misbehaves(tmp_path: Path) -> None:
    site = Site(tmp_path)
    old = await site.release(site.closure("1"))
    new = await site.release(site.closure("2"))
    site.promote(old)
    hurry = {"stall-seconds": "0.1", "retry-seconds": "0.01", "retry-max-seconds": "0.02"}
    with hostile.serving(site.cache) as server:
        node = Node(site, tmp_path / "node1", server.url, {**QUICK, **hurry})
        async with node.agent():
            await node.until_published(old)
            server.where = STAGES["manifest"].where
            server.misbehave = rotating((*SLOW, *AT_ONCE, hostile.hang_up))
            site.promote(new)
            assert node.process is not None
            await until(lambda: server.misbehaved >= WARM)
            before = await usage.lasting(node.process.pid)
            await until(lambda: server.misbehaved >= WARM + ROUNDS)
            later = await usage.lasting(node.process.pid)
            assert later.files <= before.files + 3  # one more connection
            assert later.rss < before.rss + SLACK_KIB
            assert (await node.status()).ready
            server.misbehave = None
            await node.until_published(new)


async def until(test: Callable[[], bool]) -> None:
    async with asyncio.timeout(100):
        while not test():  # noqa: ASYNC110 the server's threads know no event of ours
            await asyncio.sleep(0.01)


async def test_a_worker_leaks_nothing_however_many_caches_misbehave(tmp_path: Path) -> None:
    kinds = (*SLOW, *AT_ONCE, *CONTINUED, hostile.content_encoding, hostile.rubbish)
    (tmp_path / "cache/nar").mkdir(parents=True)
    (tmp_path / "cache/nar/item.nar").write_bytes(os.urandom(50_000))
    with hostile.serving(tmp_path / "cache") as server:
        server.misbehave = rotating(kinds)
        few = await asyncio.to_thread(poured_from, server, len(kinds), tmp_path)
        assert server.misbehaved >= len(kinds)
        many = await asyncio.to_thread(poured_from, server, ROUNDS, tmp_path)
        assert server.misbehaved >= ROUNDS
    assert many.files <= few.files + 1
    assert many.rss < few.rss + SLACK_KIB


def poured_from(server: Hostile, count: int, scratch: Path) -> Usage:
    """Have a worker ask as many caches, all of them this server, for one path; give its usage."""
    item = Item(path("item"))
    where = {"url": "nar/item.nar", "compression": "none", "sigs": [item.sign()]}
    job = json.loads(encode(item.job())) | {"where": where}
    staging = scratch / "staging"
    staging.mkdir(exist_ok=True)
    setup = Setup(
        [(f"c{number}", server.url) for number in range(count)],
        [CACHE_KEY.public],
        str(staging),
        Access(connect_seconds=1.0, stall_seconds=0.1),
    )
    with subprocess.Popen(
        [sys.executable, "-m", "nodeagent.realise.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(encode(setup) + json.dumps(job).encode() + b"\n")
        worker.stdin.flush()
        while not isinstance(event := read_event(worker.stdout.readline()), Failed):
            pass
        # Missing: where the archive was wrong, the narinfo is asked for, and here is none.
        assert Reason(event.reason) in {Reason.NAR_MISSING, Reason.CACHE_UNREACHABLE}
        used = usage.of_process(worker.pid)
        worker.stdin.close()
    assert worker.returncode == 0
    assert list(staging.iterdir()) == []
    return used
