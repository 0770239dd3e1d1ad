"""An agent whose cache misbehaves: it says so, keeps what it has, leaks nothing, and recovers.

One agent goes through all misbehaviours of a stage, each with a release of its own.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Final

import pytest

from integration.site import FLEET, Node, Site, free_port
from nodeagent import names, promote, release
from nodeagent.cache import REDIRECTS, Access
from nodeagent.names import Reason
from nodeagent.realise.jobs import Failed, Setup, encode, read_event
from tests import hostile
from tests.handmade import CACHE_KEY, Item, path
from tests.hostile import Hostile, Misbehaviour, Wire, status

QUICK: Final = {"connect-seconds": "1", "stall-seconds": "0.6", "workers": "2"}
SLACK_KIB: Final = 8 * 1024
ROUNDS: Final = 200

SLOW: Final[tuple[Misbehaviour, ...]] = (
    hostile.hang,
    hostile.hang_in_head,
    hostile.hang_in_body,
    hostile.drip_head,
    hostile.drip_body,
    hostile.drip_chunk_sizes,
    hostile.continue_for_ever,
)
BROKEN: Final[tuple[Misbehaviour, ...]] = (
    status("500 Oops"),
    status("503 Busy", Retry_After="1"),
    status("401 Unauthorized"),
    hostile.circle,
    hostile.hang_up,
    hostile.rubbish,
    hostile.cut,
    hostile.header_without_end,
)

AT_ONCE: Final = (  # what is not waited for before the next attempt
    status("401 Unauthorized"),
    hostile.circle,
    hostile.cut,
)


@dataclass(frozen=True)
class Stage:
    """Which requests are answered badly and how; what missing and wrong files are called there."""

    kinds: tuple[Misbehaviour, ...]
    where: Callable[[str], bool]
    missing: Reason
    wrong: Reason


STAGES: Final = {
    "manifest": Stage(
        (*SLOW, *AT_ONCE),
        lambda path: path.endswith(".json"),
        Reason.MANIFEST_MISSING,
        Reason.MANIFEST_MISMATCH,
    ),
    "archive": Stage(
        (*SLOW, *BROKEN),
        lambda path: path.startswith("/nar/"),
        Reason.NAR_MISSING,
        Reason.NAR_CORRUPT,
    ),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("stage", STAGES)
async def test_each_misbehaviour_is_told_and_outlived(stage: str, tmp_path: Path) -> None:
    at = STAGES[stage]
    expected = [
        *((one, Reason.CACHE_UNREACHABLE) for one in at.kinds),
        (status("404 Not Found"), at.missing),
        (status("429 Slow Down", Retry_After="6"), Reason.CACHE_UNREACHABLE),
        (hostile.content_encoding, at.wrong),
    ]
    site = Site(tmp_path)
    old = await site.release(site.closure("0"))
    site.promote(old)
    with hostile.serving(site.cache) as server:
        server.where = at.where
        node = Node(site, tmp_path / "node1", server.url, QUICK)
        async with node.agent():
            await node.until_published(old)
            for number, (misbehaviour, reason) in enumerate(expected, 1):
                new = await site.release(site.closure(f"{number}"))
                await suffer(node, server, new, misbehaviour, reason)
            assert node.process is not None
            assert node.process.returncode is None


async def suffer(
    node: Node, server: Hostile, new: bytes, misbehaviour: Misbehaviour, reason: Reason
) -> None:
    """Have a release wanted while the cache misbehaves, then let the cache behave."""
    before = (await node.status()).published
    server.misbehave = misbehaviour
    node.site.promote(new)
    shown = await node.until_problem(reason)
    assert shown.ready
    assert shown.published == before
    assert (await node.get("/readyz"))[0] == 200
    assert reason in (await node.get("/healthz"))[1]
    server.misbehave = None
    await node.until_published(new)
    await node.until("mended", lambda now: now.problem is None)


@pytest.mark.parametrize(
    "misbehaviour",
    [hostile.hang, hostile.drip_body, hostile.cut, hostile.content_encoding, hostile.circle],
    ids=lambda one: one.__name__,
)
async def test_an_index_that_cannot_be_had_is_no_problem(
    misbehaviour: Misbehaviour, tmp_path: Path
) -> None:
    site = Site(tmp_path)
    manifest = await site.release(site.closure())
    site.promote(manifest)
    with hostile.serving(site.cache) as server:
        server.misbehave, server.where = misbehaviour, lambda path: path.endswith(".index")
        node = Node(site, tmp_path / "node1", server.url, QUICK)
        async with node.agent():
            await node.until_published(manifest)
        assert [entry["result"] for entry in node.log if entry["event"] == "pass"] == ["published"]
        assert server.misbehaved <= REDIRECTS + 1


CONTINUED: Final[tuple[Misbehaviour, ...]] = (
    hostile.cut_and_continue,
    hostile.change_in_silence,
    hostile.wrong_range,
    hostile.ignore_ranges,
    hostile.change_between_ranges,
)


@pytest.mark.parametrize("misbehaviour", CONTINUED, ids=lambda one: one.__name__)
async def test_an_archive_that_breaks_off_once_is_no_problem(
    misbehaviour: Misbehaviour, tmp_path: Path
) -> None:
    first = set[str]()

    def at_first(wire: Wire) -> None:
        if wire.path not in first or wire.start:
            first.add(wire.path)
            misbehaviour(wire)
        else:
            wire.write(wire.head_of_file())

    site = Site(tmp_path)
    manifest = await site.release(site.closure())
    site.promote(manifest)
    with hostile.serving(site.cache) as server:
        server.misbehave = at_first
        node = Node(site, tmp_path / "node1", server.url, QUICK)
        async with node.agent():
            await node.until_published(manifest)
        assert [entry["result"] for entry in node.log if entry["event"] == "pass"] == ["published"]
        assert any(server.starts)


@pytest.mark.parametrize("kind", ["hangs", "refuses"])
async def test_a_dead_first_cache_costs_one_time_out_not_one_per_path(
    kind: str, tmp_path: Path
) -> None:
    site = Site(tmp_path)
    manifest = await site.release(site.closure(count=60))
    promotion = promote.Promotion(
        manifest, FLEET, names.DEFAULT_CHANNEL, ["dead", "main"], timedelta(days=1), 100
    )
    promote.promote(site.pins, promotion, site.release_key, datetime.now(UTC))
    with hostile.serving(site.root / "nothing") as dead:
        dead.misbehave, dead.where = hostile.hang, lambda _: True
        address = dead.url if kind == "hangs" else f"http://127.0.0.1:{free_port()}"
        caches = f"dead={address},main={site.cache.as_uri()}"
        node = Node(site, tmp_path / "node1", settings={**QUICK, "caches": caches})
        async with node.agent():
            await node.until_published(manifest)
        [done] = [entry for entry in node.log if entry["event"] == "pass"]
        assert (done["result"], done["fetched"]) == ("published", 60)
        assert dead.connections == (1 if kind == "hangs" else 0)


def rotating(kinds: tuple[Misbehaviour, ...]) -> Misbehaviour:
    turns = cycle(kinds)
    return lambda wire: next(turns)(wire)  # noqa: PLW0108 a turn for each request


def usage(pid: int) -> tuple[int, int]:
    """Give a process's open files and its RSS in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [rss] = [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
    return len(os.listdir(f"/proc/{pid}/fd")), rss  # noqa: PTH208 it is counted only


@pytest.mark.timeout(300)
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
            await until(lambda: server.misbehaved >= 50)
            files, rss = usage(node.process.pid)
            await until(lambda: server.misbehaved >= 50 + ROUNDS)
            later_files, later_rss = usage(node.process.pid)
            assert later_files <= files + 3  # one more connection, or a request of ours
            assert later_rss < rss + SLACK_KIB
            assert (await node.status()).ready
            server.misbehave = None
            await node.until_published(new)


async def until(test: Callable[[], bool]) -> None:
    async with asyncio.timeout(200):
        while not test():  # noqa: ASYNC110 the server's threads know no event of ours
            await asyncio.sleep(0.01)


@pytest.mark.timeout(300)
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
    assert many[0] <= few[0] + 1
    assert many[1] < few[1] + SLACK_KIB


def poured_from(server: Hostile, count: int, scratch: Path) -> tuple[int, int]:
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
        used = usage(worker.pid)
        worker.stdin.close()
    assert worker.returncode == 0
    assert list(staging.iterdir()) == []
    return used


def test_a_release_is_named_by_what_the_stages_pick() -> None:
    assert STAGES["manifest"].where(release.manifest_file("sha256:" + "0" * 64))
    assert not STAGES["manifest"].where(release.index_file("sha256:" + "0" * 64))
