"""Clocks that are far off, and one that jumps by years while the agent runs.

What a wrong clock makes of a record is got by records dated relative to now; a jump by a
library that shifts the clock of one agent, its workers and its Nix. The machine's stays as it is.
"""

import asyncio
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from integration.site import Node, Site, free_port
from nodeagent import release
from nodeagent.names import Reason

NOW: Final = datetime.now(UTC)
YEARS: Final = timedelta(days=3650)
SHIFT: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
static const volatile long *shift;
__attribute__((constructor)) static void find(void) {
    int fd = open(getenv("CLOCK_SHIFT"), O_RDONLY | O_CLOEXEC);
    if (fd < 0) abort();
    shift = mmap(0, sizeof *shift, PROT_READ, MAP_SHARED, fd, 0);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, now);
    if (!code && clock == CLOCK_REALTIME && shift) now->tv_sec += *shift;
    return code;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""


@pytest.mark.parametrize(
    ("dates", "reason", "advice"),
    [
        # A clock that is fast sees records of today so, one that is slow as the second.
        ((-YEARS, -YEARS + timedelta(days=1), None), Reason.RECORD_EXPIRED, "or set the clock"),
        ((YEARS, YEARS + timedelta(days=1), YEARS), Reason.RECORD_NOT_YET_VALID, "set the clock"),
    ],
    ids=["fast", "slow"],
)
async def test_a_record_that_a_wrong_clock_refuses_names_the_clock_and_hurts_nothing(
    dates: tuple[timedelta, timedelta, timedelta | None],
    reason: Reason,
    advice: str,
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    node = Node(site, tmp_path / "node1", settings={"resync-seconds": "0.1"})
    first, second = [await site.release(site.closure(version)) for version in ("1", "2")]
    site.promote(first)
    async with node.agent():
        await node.until_published(first)
        now = datetime.now(UTC)
        created, expires, valid = (None if one is None else now + one for one in dates)
        site.pin(second, created_at=created, expires_at=expires, not_before=valid)
        status = await node.until_problem(reason)
        assert status.problem is not None
        assert f"this node's clock says {now:%Y-%m-%d}" in status.problem.message
        assert advice in status.problem.message
        assert status.published is not None
        assert status.published.release == release.digest_of(first)
        assert (await node.get("/readyz"))[0] == 200
        site.pin(second)
        await node.until_published(second)
    assert sum(one.get("reason") == reason for one in node.log) == 1


@dataclass
class Shifted(Node):
    """A node whose agent has a clock of its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        (self.root / "shift.c").write_text(SHIFT)
        self.jump(timedelta())
        library, source = self.root / "shift.so", self.root / "shift.c"
        build = ["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
        subprocess.run(build, check=True)

    def jump(self, by: timedelta) -> None:
        """Set the agent's clock, at once also of one that runs."""
        with (self.root / "shift").open("r+b" if (self.root / "shift").exists() else "wb") as file:
            file.write(struct.pack("l", int(by.total_seconds())))

    def argv(self, *more: str) -> Sequence[str]:
        shift = [f"LD_PRELOAD={self.root / 'shift.so'}", f"CLOCK_SHIFT={self.root / 'shift'}"]
        return ["env", *shift, *super().argv(*more)]

    def last(self, event: str) -> dict[str, Any]:
        return [one for one in self.log if one["event"] == event][-1]


needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to shift a clock")


@needs_cc
@pytest.mark.parametrize("by", [-YEARS, YEARS], ids=["back", "ahead"])
async def test_a_clock_that_jumps_by_years_breaks_neither_passes_nor_retries(
    by: timedelta, tmp_path: Path
) -> None:
    site = Site(tmp_path)
    node = Shifted(site, tmp_path / "node1", settings={"resync-seconds": "0.2"})
    first, second = [await site.release(site.closure(version)) for version in ("1", "2")]
    site.promote(first)
    nar = site.nar_file(second, closure_root(second))
    whole = nar.read_bytes()
    nar.write_bytes(b"no archive")
    async with node.agent():
        await node.until_published(first)
        node.jump(by)
        os.utime(site.pins)
        await asyncio.sleep(1)  # what was accepted is selected again, whatever the clock says
        assert (await node.status()).problem is None
        site.pin(second, created_at=NOW + by, expires_at=NOW + by + timedelta(days=1))
        await node.until_problem(Reason.NAR_CORRUPT)
        told = datetime.fromisoformat(node.last("pass")["timestamp"])
        assert abs(told - (NOW + by)) < timedelta(days=1)  # the agent did see the jump
        nar.write_bytes(whole)
        await node.until_published(second)
        node.jump(timedelta())
        site.pin(first)
        await node.until_published(first)
        assert all(0 <= one["seconds"] < 60 for one in node.log if one["event"] == "pass")


def closure_root(manifest: bytes) -> str:
    parsed = release.parse(manifest, release.digest_of(manifest))
    return parsed.systems["x86_64-linux"].profiles["ds"].root


@needs_cc
async def test_a_scrub_is_owed_and_ends_whatever_the_clock_says(tmp_path: Path) -> None:
    site = Site(tmp_path)
    node = Shifted(site, tmp_path / "node1")
    manifest = await site.release(site.closure())
    site.promote(manifest)
    async with node.agent():
        await node.until_published(manifest)
        assert node.process is not None
        node.process.kill()
        await node.process.wait()
    node.boot("boot-2")
    node.jump(-YEARS)  # a node whose clock lost its battery
    async with node.agent():
        await node.until("scrubbed", lambda now: now.scrub is not None and not now.scrub.running)
        assert (await node.status()).ready
    node.jump(timedelta())
    node.boot("boot-3")
    async with node.agent():
        await node.until_published(manifest)
        assert (await node.status()).scrub is None  # the end was in order: none is owed


@dataclass
class Aged(Node):
    """A node that booted so many seconds ago, as the monotonic clocks of its agent say."""

    uptime: int = 0

    def argv(self, *more: str) -> Sequence[str]:
        shift = self.uptime - int(time.clock_gettime(time.CLOCK_BOOTTIME))
        own = ["unshare", "--time", "--monotonic", str(shift), "--boottime", str(shift), "--fork"]
        return [*own, *super().argv(*more)]


@pytest.mark.skipif(
    not Path("/proc/self/ns/time").exists() or os.geteuid() != 0, reason="no time namespaces here"
)
@pytest.mark.parametrize("uptime", [1, 3_000_000_000], ids=["just booted", "up for a century"])
async def test_how_long_the_node_has_been_up_makes_no_difference(
    uptime: int, tmp_path: Path
) -> None:
    site = Site(tmp_path)
    dead = f"dead=http://127.0.0.1:{free_port()}"
    caches = {"caches": f"{dead},main={site.cache.as_uri()}"}
    node = Aged(site, tmp_path / "node1", settings=caches, uptime=uptime)
    site.promote(await site.release(site.closure()))
    document = site.pins.read_bytes().replace(b'"main"', b'"dead","main"')
    site.write_pins(document)
    assert await node.once() == 0
    [done] = [one for one in node.log if one["event"] == "pass"]
    assert 0 <= done["seconds"] < 60
    assert "hello 1" in node.hello()
