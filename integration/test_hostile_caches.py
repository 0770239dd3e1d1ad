"""An agent whose cache misbehaves: it says so, keeps what it has, leaks nothing, and recovers.

An agent goes through one misbehaviour after the other, each with a release of its own. Most of
that is waiting, so a few agents share them and wait at the same time.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from integration.site import FLEET, Node, Site, free_port
from nodeagent import names, promote, release
from nodeagent.cache import REDIRECTS
from nodeagent.names import Reason
from tests import hostile
from tests.hostile import Hostile, Misbehaviour, Wire, status

QUICK: Final = {"connect-seconds": "1", "stall-seconds": "0.6", "workers": "2"}
LANES: Final = 4

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


Bad = tuple[Misbehaviour, Reason]


@pytest.mark.parametrize("stage", STAGES)
async def test_each_misbehaviour_is_told_and_outlived(stage: str, tmp_path: Path) -> None:
    at = STAGES[stage]
    expected: list[Bad] = [
        (status("429 Slow Down", Retry_After="6"), Reason.CACHE_UNREACHABLE),
        (status("404 Not Found"), at.missing),
        (hostile.content_encoding, at.wrong),
        *((one, Reason.CACHE_UNREACHABLE) for one in at.kinds),
    ]
    async with asyncio.TaskGroup() as lanes:
        for lane in range(LANES):
            lanes.create_task(go_through(expected[lane::LANES], at, tmp_path / str(lane)))


async def go_through(expected: Sequence[Bad], at: Stage, root: Path) -> None:
    """Have one agent, with a site of its own, suffer one misbehaviour after the other."""
    site = Site(root)
    old = await site.release(site.closure("0"))
    site.promote(old)
    with hostile.serving(site.cache) as server:
        server.where = at.where
        node = Node(site, root / "node1", server.url, QUICK)
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


async def test_an_index_that_cannot_be_had_is_no_problem(tmp_path: Path) -> None:
    site = Site(tmp_path)
    kinds = (
        hostile.hang,
        hostile.drip_body,
        hostile.cut,
        hostile.content_encoding,
        hostile.circle,
    )
    with hostile.serving(site.cache) as server:
        server.where = lambda path: path.endswith(".index")
        node = Node(site, tmp_path / "node1", server.url, QUICK)
        async with node.agent():
            for kind in kinds:
                server.misbehave, server.misbehaved = kind, 0
                await take_one_more(node, kind.__name__)
                assert 1 <= server.misbehaved <= REDIRECTS + 1
            await node.until("through", lambda _: len(results(node)) == len(kinds))
        assert results(node) == ["published"] * len(kinds)


async def take_one_more(node: Node, version: str) -> None:
    manifest = await node.site.release(node.site.closure(version))
    node.site.promote(manifest)
    await node.until_published(manifest)


def results(node: Node) -> list[str]:
    return [entry["result"] for entry in node.log if entry["event"] == "pass"]


CONTINUED: Final[tuple[Misbehaviour, ...]] = (
    hostile.cut_and_continue,
    hostile.change_in_silence,
    hostile.wrong_range,
    hostile.ignore_ranges,
    hostile.change_between_ranges,
)


async def test_an_archive_that_breaks_off_once_is_no_problem(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with hostile.serving(site.cache) as server:
        node = Node(site, tmp_path / "node1", server.url, QUICK)
        async with node.agent():
            for kind in CONTINUED:
                server.misbehave = at_first(kind)
                server.starts.clear()
                await take_one_more(node, kind.__name__)
                assert any(server.starts)
            await node.until("through", lambda _: len(results(node)) == len(CONTINUED))
        assert results(node) == ["published"] * len(CONTINUED)


def at_first(misbehaviour: Misbehaviour) -> Misbehaviour:
    """Misbehave in the first answer for each file, and where it is gone on with."""
    seen = set[str]()

    def answer(wire: Wire) -> None:
        if wire.path not in seen or wire.start:
            seen.add(wire.path)
            misbehaviour(wire)
        else:
            wire.write(wire.head_of_file())

    return answer


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


def test_a_release_is_named_by_what_the_stages_pick() -> None:
    assert STAGES["manifest"].where(release.manifest_file("sha256:" + "0" * 64))
    assert not STAGES["manifest"].where(release.index_file("sha256:" + "0" * 64))
