"""A fault that stays: told once, however many passes it fails, and nothing grows meanwhile.

Passes follow each other at once here; on a node they are up to two minutes apart.
"""

import asyncio
import contextlib
import re
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from integration import closures, usage
from integration.closures import Closure
from integration.site import Node, Site
from integration.test_refusals import strip_signatures
from nodeagent import keys, names
from nodeagent.names import Reason
from tests import hostile

SLACK_KIB: Final = 12 * 1024  # threads come one by one, each with memory of its own
HURRY: Final = {
    "retry-seconds": "0.02",
    "retry-max-seconds": "0.02",
    "resync-seconds": "0.02",
    "connect-seconds": "1",
    "stall-seconds": "1",
    "workers": "1",
}


@dataclass
class Case:
    """A node with `old` published, whose `new` release is baked."""

    site: Site
    node: Node
    server: hostile.Hostile
    old: bytes
    new: bytes
    closure: Closure

    def promote(self) -> None:
        self.site.promote(self.new)


Fault = Callable[[Case], object]


def cache_away(case: Case) -> None:
    case.server.misbehave, case.server.where = hostile.hang, lambda _: True
    case.promote()


def cache_hangs_up(case: Case) -> None:
    case.server.misbehave, case.server.where = hostile.hang_up, lambda _: True
    case.promote()


def cache_shut(case: Case) -> None:
    """Have the cache refuse at once: it is asked only once a pass."""
    case.server.misbehave = hostile.status("401 Unauthorized")
    case.server.where = lambda _: True


def manifest_gone(case: Case) -> None:
    shutil.rmtree(case.site.cache / "releases")
    case.promote()


def nars_corrupt(case: Case) -> None:
    for file in (case.site.cache / "nar").iterdir():
        file.write_bytes(b"no archive")
    case.promote()


def signatures_gone(case: Case) -> None:
    strip_signatures(case.site.cache)
    case.promote()


def pins_refused(case: Case) -> None:
    secret, _ = closures.make_key(case.site.root / "stranger", "release-1")
    case.site.pin(case.new, key=keys.load_secret(secret))


def pins_unreadable(case: Case) -> None:
    case.site.write_pins(b"{")


def path_lost_and_cache_shut(case: Case) -> None:
    shutil.rmtree(case.node.real(case.closure.paths[1]))
    cache_shut(case)
    case.promote()


def path_lost_and_pins_refused(case: Case) -> None:
    """Two faults at a time: what is held cannot be mended, and what is wanted is not trusted."""
    shutil.rmtree(case.node.real(case.closure.paths[1]))
    cache_shut(case)
    pins_refused(case)


@dataclass(frozen=True)
class Expected:
    """What a fault has told, and how many passes fail until the first look and to the second."""

    told: frozenset[Reason]
    few: int = 5
    more: int = 16
    settings: Mapping[str, str] = field(default_factory=dict)


def telling(*reasons: Reason) -> Expected:
    return Expected(frozenset(reasons))


FAULTS: Final[dict[Fault, Expected]] = {
    cache_away: Expected(frozenset({Reason.CACHE_UNREACHABLE}), settings={"stall-seconds": "0.2"}),
    # Each of these passes asks three times, with pauses: a few of them are enough.
    cache_hangs_up: Expected(frozenset({Reason.CACHE_UNREACHABLE}), few=2, more=5),
    manifest_gone: telling(Reason.MANIFEST_MISSING),
    nars_corrupt: telling(Reason.NAR_CORRUPT),
    signatures_gone: telling(Reason.PATH_UNTRUSTED),
    pins_refused: telling(Reason.SIGNATURE_INVALID),
    pins_unreadable: telling(Reason.PINS_INVALID),
    path_lost_and_cache_shut: telling(Reason.PATH_DAMAGED, Reason.CACHE_UNREACHABLE),
    path_lost_and_pins_refused: telling(
        Reason.PATH_DAMAGED, Reason.CACHE_UNREACHABLE, Reason.SIGNATURE_INVALID
    ),
}


@contextlib.asynccontextmanager
async def running(tmp_path: Path, settings: Mapping[str, str]) -> AsyncIterator[Case]:
    site = Site(tmp_path)
    old = await site.release(site.closure("1"))
    closure = site.closure("2", changed=3)
    new = await site.release(closure)
    site.promote(old)
    with hostile.serving(site.cache) as server:
        node = Node(site, tmp_path / "node1", server.url, {**HURRY, **settings})
        async with node.agent():
            await node.until_published(old)
            yield Case(site, node, server, old, new, closure)


async def passes(node: Node) -> int:
    text = (await node.get("/metrics"))[1]
    return int(sum(map(float, re.findall(rf"(?m)^{names.Metric.PASSES}{{.*}} (.*)$", text))))


async def let_pass(node: Node, count: int) -> None:
    until = await passes(node) + count
    async with asyncio.timeout(100):
        while await passes(node) < until:  # noqa: ASYNC110 the agent knows no event of ours
            await asyncio.sleep(0.05)


def lasting(node: Node) -> dict[str, int]:
    """Give what stays of a pass: all but what is being unpacked and the database's journal."""
    return {
        name: size
        for name, size in usage.of_directory(node.root).items()
        if "/staging/" not in name and "/db/" not in name and not name.endswith((".new", ".lock"))
    }


@pytest.mark.parametrize("fault", FAULTS, ids=lambda one: one.__name__)
async def test_a_fault_that_stays_is_told_once_and_costs_nothing(
    fault: Fault, tmp_path: Path
) -> None:
    expected = FAULTS[fault]
    async with running(tmp_path, expected.settings) as case:
        node, begin = case.node, len(case.node.log)
        assert node.process is not None
        fault(case)
        await node.until("in trouble", lambda now: now.problem is not None)
        await let_pass(node, expected.few)
        lines, files, before = len(node.log), lasting(node), await usage.lasting(node.process.pid)
        await let_pass(node, expected.more)
        after = await usage.lasting(node.process.pid)
        assert node.log[lines:] == []
        assert lasting(node) == files
        assert after.files <= before.files + 2  # of 16 passes each would leave its own
        assert after.rss < before.rss + SLACK_KIB
        told = {one["reason"] for one in node.log[begin:] if one["level"] == "warning"}
        assert told == expected.told
        staging = node.store_root / "nix/var/nodeagent/staging"
        assert len(list(staging.iterdir())) <= len(case.closure.paths)
