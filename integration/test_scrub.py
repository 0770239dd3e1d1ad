"""Contents that go bad while pods use them: found in time, exchanged under their readers, told."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from integration import closures
from integration.closures import Closure
from integration.site import Node, Site
from integration.test_verify import flip, kill, metric
from nodeagent.ledger import State
from nodeagent.names import Metric, Reason
from nodeagent.report import Status

SECONDS: Final = 1.7  # a period: as much as a repair may take, and more
DAYS: Final = str(SECONDS / 86_400)
REPAIRS: Final = 3

# Each tells `ready` when it has begun, works until its stdin ends, and then tells how often.
# What is mapped may go bad, as the disk does, but never be mended: that is another inode.
MAPPER: Final = """
import mmap, select, sys
path, whole, spoilt = sys.argv[1], *map(bytes.fromhex, sys.argv[2:])
held, count = [], 0
print("ready", flush=True)
while not select.select([0], [], [], 0.005)[0]:
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    held = [*held[-200:], (mapped, bytes(mapped))]
    for old, was in held:
        if bytes(old) not in ({spoilt} if was == spoilt else {whole, spoilt}):
            sys.exit(f"a mixture after {count} reads")
    count += 1
print(count, flush=True)
"""
STARTER: Final = """
import select, subprocess, sys
program, said, count = sys.argv[1], sys.argv[2].encode() + b"\\n", 0
print("ready", flush=True)
while not select.select([0], [], [], 0.005)[0]:
    done = subprocess.run([program], capture_output=True)
    if done.returncode or done.stdout != said:
        sys.exit(f"{done} after {count} starts")
    count += 1
print(count, flush=True)
"""


@contextlib.asynccontextmanager
async def busy(program: str, *arguments: str) -> AsyncIterator[None]:
    """Run a program all the while; it must have done its work often, and never failed."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-S", "-c", program, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    assert (await child.stdout.readline()).strip() == b"ready"
    try:
        yield
    finally:
        stdout, stderr = await child.communicate(b"")  # closes its stdin
    assert child.returncode == 0, stderr.decode()
    assert int(stdout) > 0


async def published(tmp_path: Path, **settings: str) -> tuple[Node, Closure, bytes]:
    """Make a node, and promote a release that it is to publish."""
    site = Site(tmp_path)
    node, closure = Node(site, tmp_path / "node1"), site.closure()
    node.settings = {"workers": "1", "scrub-bytes-per-second": "0"} | settings
    manifest = await site.release(closure)
    site.promote(manifest)
    return node, closure, manifest


def spoil(file: Path) -> bytes:
    """Flip a bit under a running scrub: as root without a moment of another mode."""
    if os.geteuid() != 0:
        return flip(file)
    whole = file.read_bytes()
    with file.open("r+b") as out:
        out.write(bytes([whole[0] ^ 1]))
    return whole


async def until_repaired(node: Node, count: int) -> Status:
    """Wait until so many paths were exchanged, and all is well again."""
    return await node.until(
        f"repaired, {count} paths",
        lambda now: len(now.repairs) == count and now.problem is None and now.ready,
    )


async def test_a_path_is_exchanged_under_processes_that_map_and_execute_it(tmp_path: Path) -> None:
    node, closure, manifest = await published(tmp_path, **{"scrub-days": DAYS})
    part, hello = node.real(closure.paths[1]) / "file0", node.real(closure.root) / "bin/hello"
    async with node.agent():
        await node.until_published(manifest)
        whole = part.read_bytes()
        spoilt = bytes([whole[0] ^ 1]) + whole[1:]
        said = f"hello 1 from {closure.root}"
        async with (
            busy(MAPPER, str(part), whole.hex(), spoilt.hex()),
            busy(STARTER, str(hello), said),
        ):
            for number in range(1, REPAIRS + 1):
                spoil(part)
                # A program that runs must not fail for its own damage: the disk took a link.
                hello.parent.chmod(0o755)
                hello.with_name("again").unlink()
                hello.parent.chmod(0o555)
                await until_repaired(node, 2 * number)
                assert part.read_bytes() == whole
                assert hello.with_name("again").is_symlink()
    closures.nix_store(node.store_root, "--verify", "--check-contents")


async def test_damage_without_any_boot_is_found_kept_told_and_held_against_the_disk(
    tmp_path: Path,
) -> None:
    node, closure, manifest = await published(tmp_path, **{"scrub-days": DAYS})
    bad = [node.real(path) / "file0" for path in closure.paths[1:4]]
    async with node.agent():
        await node.until_published(manifest)
        whole = [spoil(file) for file in bad]
        status = await until_repaired(node, 3)
        assert [file.read_bytes() for file in bad] == whole
        assert await metric(node, Metric.SCRUB_DAMAGED) == 3
        assert {one.path for one in status.repairs} == set(closure.paths[1:4])
        for one in status.repairs:
            assert one.profiles == ("ds",)
            assert "contents hash to" in one.fault
            note = json.loads(Path(f"{one.kept}.json").read_text())
            assert (note["path"], note["fault"]) == (one.path, one.fault)
            spoilt = Path(one.kept) / "file0"
            assert spoilt.read_bytes() not in whole
            assert any(one.kept in entry["event"] for entry in node.log)
        (suspect,) = [one for one in status.failed_checks if one.name == "disk"]
        assert (suspect.reason, suspect.needed) == (Reason.REPEATED_DAMAGE, False)
        assert all(path in suspect.message for path in closure.paths[1:4])
        assert any(entry.get("reason") == Reason.REPEATED_DAMAGE for entry in node.log)
        code, text = await node.get("/healthz")
        assert (code, json.loads(text)["ready"]) == (503, True)
        await node.until("a round further", lambda _: scrubbed_at(node) is not None)
        assert await metric(node, Metric.SCRUB_OLDEST) > 0
    node.boot("boot-2")
    async with node.agent():
        status = await node.until_published(manifest)
        assert status.repairs == ()  # no container is as old
        assert all(Path(f"{one}.json").exists() for one in kept(node))
        assert len(kept(node)) == 3  # evidence stays
        assert any(one.name == "disk" for one in status.failed_checks)


def kept(node: Node) -> list[Path]:
    """List the trees of evidence."""
    displaced = node.store_root / "nix/var/nodeagent/displaced"
    return [one for one in displaced.iterdir() if one.suffix != ".json"]


def scrubbed_at(node: Node) -> int | None:
    """Say when the last full round ended."""
    return State.model_validate_json((node.root / "state/state.json").read_bytes()).scrubbed_at


def damages() -> dict[str, str]:
    """Name kinds of damage, each as a shell command in the directory of a store path."""
    return {
        "other bytes": "chmod u+w file0 && printf X 1<>file0 && chmod 444 file0",
        "truncation": "chmod u+w file0 && truncate -s 9 file0 && chmod 444 file0",
        "a mode": "chmod 666 file0",
        "setuid": "chmod u+s file0",
        "a missing file": "rm file0",
        "an extra file": "touch extra && chmod 444 extra",
        "an extra directory": "mkdir -m 555 extra",
    }


@pytest.mark.parametrize("kind", damages())
async def test_each_kind_of_damage_is_mended_while_the_node_runs(tmp_path: Path, kind: str) -> None:
    node, closure, manifest = await published(tmp_path, **{"scrub-days": DAYS})
    place = node.real(closure.paths[1])
    async with node.agent():
        await node.until_published(manifest)
        script = f"chmod 755 . && {damages()[kind]} && chmod 555 ."
        closures.run("sh", "-c", f"cd {place} && {script}")
        status = await until_repaired(node, 1)
    assert [one.path for one in status.repairs] == [closure.paths[1]]
    assert sorted(one.name for one in place.iterdir()) == ["file0", "file1", "file2", "needs"]
    assert place.stat().st_mode & 0o7777 == 0o555
    assert (place / "file0").stat().st_mode & 0o7777 == 0o444
    closures.nix_store(node.store_root, "--verify", "--check-contents")


async def test_a_top_directory_that_lost_its_mode_alone_is_mended_where_it_is(
    tmp_path: Path,
) -> None:
    node, closure, manifest = await published(tmp_path, **{"scrub-days": DAYS})
    place = node.real(closure.paths[1])
    async with node.agent():
        await node.until_published(manifest)
        inode = place.stat().st_ino
        place.chmod(0o777)
        await node.until("mended", lambda _: place.stat().st_mode & 0o7777 == 0o555)
        status = await until_repaired(node, 0)
    assert place.stat().st_ino == inode
    assert status.failed_checks == ()
    assert any(entry.get("reason") == Reason.PATH_DAMAGED for entry in node.log)


async def test_an_idle_node_reads_nothing_before_its_time_and_remembers_when_that_is(
    tmp_path: Path,
) -> None:
    node, closure, manifest = await published(tmp_path)
    memory = node.root / "state/scrub.txt"
    async with node.agent():
        await node.until_published(manifest)
        await node.until("rested", lambda _: memory.exists() and "rests" in memory.read_text())
        assert await metric(node, Metric.BYTES_SCRUBBED) == 0
        assert await metric(node, Metric.SCRUB_PATHS_DUE) == 0
        before = memory.read_text()
        kill(node)
    async with node.agent():
        await node.until_published(manifest)
        await node.until("looked", lambda _: memory.read_text().count("\n") >= len(closure.paths))
        assert memory.read_text().startswith(before)
        assert await metric(node, Metric.BYTES_SCRUBBED) == 0


async def test_a_node_that_is_told_never_to_read_again_does_not(tmp_path: Path) -> None:
    node, _, manifest = await published(tmp_path, **{"scrub-days": "0"})
    async with node.agent():
        await node.until_published(manifest)
        await node.until("idle", lambda now: now.phase == "Idle")
    assert (node.root / "state/scrub.txt").exists() is False
