"""What an agent refuses: the last good generation stays, the reason is told, it recovers.

Each case breaks one thing on disk or on the wire, and mends it; the agent runs all the while.
"""

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from integration import closures
from integration.closures import Closure
from integration.site import Node, Site, free_port
from nodeagent import keys, pins, release
from nodeagent.names import Reason

NOW = datetime.now(UTC)


@dataclass
class Case:
    """A site whose stable channel stands at `old`; `new` is baked and not promoted yet."""

    site: Site
    node: Node
    old: bytes
    new: bytes
    closure: Closure


Break = Callable[[Case], None]


def oversized(case: Case) -> None:
    case.site.write_pins(b" " * (pins.MAX_PINS_BYTES + 1))


def unknown_version(case: Case) -> None:
    text = case.site.pins.read_text()
    case.site.write_pins(text.replace("nodeagent.dev/v1", "nodeagent.dev/v2").encode())


def half_written(case: Case) -> None:
    case.site.write_pins(case.site.pins.read_bytes()[:200])


def gone(case: Case) -> None:
    case.site.pins.unlink()


def no_such_channel(case: Case) -> None:
    text = case.site.pins.read_text()
    case.site.write_pins(text.replace('"stable"', '"canary"').encode())


def unknown_key(case: Case) -> None:
    secret, _ = closures.make_key(case.site.root / "stranger", "release-1")
    case.site.pin(case.new, key=keys.load_secret(secret))


def changed_after_signing(case: Case) -> None:
    case.site.pin(case.new)
    document = json.loads(case.site.pins.read_bytes())
    envelope = document["channels"]["stable"]["current"]
    envelope["payload"] = flip(envelope["payload"])
    case.site.write_pins(json.dumps(document).encode())


def flip(text: str) -> str:
    return ("A" if text[20] != "A" else "B").join([text[:20], text[21:]])


def other_fleet(case: Case) -> None:
    case.site.pin(case.new, fleet="other")


def other_channel(case: Case) -> None:
    case.site.pin(case.new, channel="canary")


def older_serial(case: Case) -> None:
    case.site.pin(case.new, serial=1)


def expired(case: Case) -> None:
    case.site.pin(case.new, expires_at=NOW - timedelta(minutes=1))


def not_yet(case: Case) -> None:
    case.site.pin(case.new, not_before=NOW + timedelta(days=1))


def outside_the_rollout(case: Case) -> None:
    record = json.loads(case.site.pins.read_bytes())
    case.site.pin(case.new)
    changed = json.loads(case.site.pins.read_bytes())
    changed["channels"]["stable"]["percent"] = 0
    assert record != changed
    case.site.write_pins(json.dumps(changed).encode())


def foreign_cache(case: Case) -> None:
    case.site.pin(case.new)
    document = json.loads(case.site.pins.read_bytes()) | {"caches": ["elsewhere"]}
    case.site.write_pins(json.dumps(document).encode())


def manifest_changed(case: Case) -> None:
    file = case.site.cache / release.manifest_file(release.digest_of(case.new))
    file.write_bytes(case.new.replace(b"stable", b"stabel") + b" ")
    case.site.pin(case.new)


def manifest_missing(case: Case) -> None:
    (case.site.cache / release.manifest_file(release.digest_of(case.new))).unlink()
    case.site.pin(case.new)


def manifest_unreadable(case: Case) -> None:
    unreadable = b'{"apiVersion":"nodeagent.dev/v9"}'
    digest = release.digest_of(unreadable)
    (case.site.cache / release.manifest_file(digest)).write_bytes(unreadable)
    case.site.pin(unreadable)


def closure_incomplete(case: Case) -> None:
    lost = case.closure.paths[1]
    case.site.pin(unchecked(case, lambda data: data["systems"]["x86_64-linux"]["paths"].pop(lost)))


def other_system(case: Case) -> None:
    def rename(data: dict[str, Any]) -> None:
        data["systems"] = {"riscv64-linux": data["systems"]["x86_64-linux"]}

    case.site.pin(unchecked(case, rename))


def unchecked(case: Case, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Publish a manifest that no `release build` would write."""
    data = json.loads(case.new)
    change(data)
    changed = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    digest = release.digest_of(changed)
    (case.site.cache / release.manifest_file(digest)).write_bytes(changed)
    return changed


def nar_missing(case: Case) -> None:
    case.site.nar_file(case.new, case.closure.root).unlink()
    case.site.pin(case.new)


def nar_truncated(case: Case) -> None:
    nar = case.site.nar_file(case.new, case.closure.root)
    nar.write_bytes(nar.read_bytes()[:-20])
    case.site.pin(case.new)


def nar_of_another_path(case: Case) -> None:
    other = case.site.nar_file(case.new, case.closure.paths[1])
    case.site.nar_file(case.new, case.closure.root).write_bytes(other.read_bytes())
    case.site.pin(case.new)


def signed_by_nobody_we_trust(case: Case) -> None:
    strip_signatures(case.site.cache)
    case.site.pin(case.new)


def strip_signatures(cache: Path) -> None:
    for index in (cache / "releases").glob("*.index"):
        data = json.loads(index.read_bytes())
        for location in data["paths"].values():
            location["sigs"] = []
        index.write_text(json.dumps(data))
    for file in cache.glob("*.narinfo"):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line for line in lines if not line.startswith("Sig:")))


CASES: dict[Break, Reason] = {
    oversized: Reason.PINS_INVALID,
    unknown_version: Reason.PINS_INVALID,
    half_written: Reason.PINS_INVALID,
    gone: Reason.PINS_MISSING,
    no_such_channel: Reason.CHANNEL_UNKNOWN,
    unknown_key: Reason.SIGNATURE_INVALID,
    changed_after_signing: Reason.SIGNATURE_INVALID,
    other_fleet: Reason.WRONG_FLEET,
    other_channel: Reason.WRONG_CHANNEL,
    older_serial: Reason.SERIAL_BELOW_FLOOR,
    expired: Reason.RECORD_EXPIRED,
    not_yet: Reason.RECORD_NOT_YET_VALID,
    outside_the_rollout: Reason.OUTSIDE_ROLLOUT,
    foreign_cache: Reason.CACHE_UNKNOWN,
    manifest_changed: Reason.MANIFEST_MISMATCH,
    manifest_missing: Reason.MANIFEST_MISSING,
    manifest_unreadable: Reason.MANIFEST_INVALID,
    closure_incomplete: Reason.CLOSURE_INCOMPLETE,
    other_system: Reason.SYSTEM_MISSING,
    nar_missing: Reason.NAR_MISSING,
    nar_truncated: Reason.NAR_CORRUPT,
    nar_of_another_path: Reason.NAR_CORRUPT,
    signed_by_nobody_we_trust: Reason.PATH_UNTRUSTED,
}


async def make_case(tmp_path: Path) -> Case:
    site = Site(tmp_path)
    old = await site.release(site.closure("1"))
    closure = site.closure("2")
    case = Case(site, Node(site, tmp_path / "node1"), old, await site.release(closure), closure)
    site.promote(old)
    return case


@pytest.mark.parametrize("broken", CASES, ids=lambda one: one.__name__)
async def test_it_is_refused_with_its_reason_and_mended(broken: Break, tmp_path: Path) -> None:
    case, reason = await make_case(tmp_path), CASES[broken]
    async with case.node.agent():
        await case.node.until_published(case.old)
        broken(case)
        status = await case.node.until_problem(reason)
        assert status.ready
        assert status.published is not None
        assert status.published.release == release.digest_of(case.old)
        assert (await case.node.get("/readyz"))[0] == 200
        assert f'reason="{reason}"' in (await case.node.get("/metrics"))[1]
        assert reason in (await case.node.get("/healthz"))[1]
        await mend(case)
        status = await case.node.until_published(case.new)
        await case.node.until("mended", lambda now: now.problem is None)
    assert any(entry.get("reason") == reason for entry in case.node.log)


async def mend(case: Case) -> None:
    """Bake anew what was broken in the cache, and promote as one should."""
    for file in case.site.cache.rglob("*"):
        if file.is_file():
            file.unlink()
    assert await case.site.release(case.closure) == case.new
    case.site.pins.unlink(missing_ok=True)
    case.site.promote(case.new)


async def test_an_unreachable_cache_is_told_and_found_again(tmp_path: Path) -> None:
    case = await make_case(tmp_path)
    port = free_port()
    case.node.cache_address = f"http://127.0.0.1:{port}"
    async with case.node.agent():
        status = await case.node.until_problem(Reason.CACHE_UNREACHABLE)
        assert not status.ready
        assert status.problem is not None
        assert str(port) in status.problem.message
        async with static(case.site.cache, port):
            await case.node.until_published(case.old)


async def test_a_serial_that_was_accepted_may_be_kept_after_it_expired(tmp_path: Path) -> None:
    case = await make_case(tmp_path)
    case.site.pin(case.old, expires_at=datetime.now(UTC) + timedelta(hours=1))
    async with case.node.agent():
        await case.node.until_published(case.old)
    case.node.settings = {"clock-skew-seconds": "7200"}
    async with case.node.agent():
        await case.node.until_published(case.old)
        os.utime(case.site.pins)
        await asyncio.sleep(0.6)
        assert (await case.node.status()).problem is None


async def test_newer_pins_preempt_a_pass_and_its_finished_paths_are_kept(tmp_path: Path) -> None:
    case = await make_case(tmp_path)
    slow = case.site.nar_file(case.old, closure_root(case.old)).name
    port = free_port()
    case.node.cache_address = f"http://127.0.0.1:{port}"
    async with static(case.site.cache, port, hang_on=slow), case.node.agent():
        await case.node.until(
            "pouring the last path",
            lambda now: now.progress is not None and now.progress.paths_done == 4,
        )
        case.site.promote(case.new)
        await case.node.until_published(case.new)
    passes = [entry for entry in case.node.log if entry["event"] == "pass"]
    assert [entry["result"] for entry in passes] == ["preempted", "published"]
    assert passes[1]["fetched"] == 1


def closure_root(manifest: bytes) -> str:
    return (
        release.parse(manifest, release.digest_of(manifest))
        .systems["x86_64-linux"]
        .profiles["ds"]
        .root
    )


def static(directory: Path, port: int, hang_on: str = "") -> "Served":
    return Served(directory, port, hang_on)


class Served:
    """A plain static server that never answers for one file."""

    def __init__(self, directory: Path, port: int, hang_on: str) -> None:
        self.directory, self.port, self.hang_on = directory, port, hang_on
        self.runner: web.AppRunner | None = None

    async def __aenter__(self) -> None:
        async def serve(request: web.Request) -> web.StreamResponse:
            if self.hang_on and request.path.endswith(self.hang_on):
                await asyncio.sleep(60)
            file = self.directory / request.path.lstrip("/")
            return web.FileResponse(file) if file.is_file() else web.Response(status=404)

        application = web.Application()
        application.add_routes([web.get("/{path:.*}", serve)])
        self.runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()

    async def __aexit__(self, *_: object) -> None:
        assert self.runner is not None
        await self.runner.cleanup()
