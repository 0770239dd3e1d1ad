"""Contents that went bad where no walk sees it, and paths that lie in the store unregistered."""

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from integration import closures
from integration.closures import Closure
from integration.site import Node, Site
from integration.test_conflicts import publish_and_change
from nodeagent.names import Metric, Reason
from nodeagent.report import Status

WAIT: Final = """
import os, select, sys
if "nodeagent.verify.worker" in sys.orig_argv:
    agent = select.poll()
    agent.register(0, select.POLLHUP)
    while not os.path.exists({file!r}):
        if agent.poll(10):
            os._exit(0)
"""


async def published(tmp_path: Path, *, clean: bool) -> tuple[Site, Node, Closure, bytes]:
    """Publish a closure in one boot, end the agent in order or by a kill, and boot again."""
    site = Site(tmp_path)
    node, closure = Node(site, tmp_path / "node1"), site.closure()
    node.settings = {"workers": "1", "scrub-days": "0"}  # nothing but what is owed
    manifest = await site.release(closure)
    site.promote(manifest)
    async with node.agent():
        await node.until_published(manifest)
        if not clean:
            kill(node)
    reboot(node)
    return site, node, closure, manifest


def kill(node: Node) -> None:
    assert node.process is not None
    node.process.kill()


def reboot(node: Node) -> None:
    node.boot("boot-2")
    shutil.rmtree(node.run_dir)


def flip(file: Path) -> bytes:
    """Change one bit as a bad disk does: size, mode and times stay; give what was there."""
    was, whole = file.stat(), file.read_bytes()
    file.chmod(0o644)
    with file.open("r+b") as out:
        out.write(bytes([whole[0] ^ 1]))
    file.chmod(was.st_mode)
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    return whole


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a file without which no scrub worker goes on from its start."""
    file = tmp_path / "go"
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(WAIT.format(file=str(file)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return file


def scrubbed(status: Status) -> bool:
    return status.scrub is not None and not status.scrub.running


def scrubbing(status: Status) -> bool:
    return status.scrub is not None and status.scrub.running


async def metric(node: Node, name: Metric) -> float:
    families = text_string_to_metric_families((await node.get("/metrics"))[1])
    return next(one.value for family in families for one in family.samples if one.name == name)


async def test_after_an_unclean_boot_a_flipped_bit_shuts_the_gate_and_is_healed(
    tmp_path: Path,
) -> None:
    site, node, closure, manifest = await published(tmp_path, clean=False)
    bad = node.real(closure.paths[1]) / "file0"
    whole = flip(bad)
    inode = bad.parent.stat().st_ino
    cache = site.cache.rename(tmp_path / "away")
    async with node.agent():
        await node.until_logged(closure.paths[1])
        status = await node.until("in want of the NAR", lambda now: now.phase == "Retrying")
        assert not (node.run_dir / "profiles/ds").exists()
        code, text = await node.get("/readyz")
        assert code == 503
        assert f"1 published store paths are damaged: {closure.paths[1]}" in text
        assert not status.ready
        await node.until("scrubbed", scrubbed)
        kill(node)
    async with node.agent():  # what is known is not forgotten by a restart
        await node.until("in want of the NAR", lambda now: now.phase == "Retrying")
        assert not (node.run_dir / "profiles/ds").exists()
        cache.rename(site.cache)
        status = await node.until_published(manifest)
        assert bad.read_bytes() == whole
        assert bad.parent.stat().st_ino != inode  # exchanged, not written into
        assert status.scrub is None  # it ended before
        assert await metric(node, Metric.LAST_SCRUB) > 0
    closures.nix_store(node.store_root, "--verify", "--check-contents")


async def test_what_a_scrub_finds_is_told_and_healed_at_once(tmp_path: Path) -> None:
    _, node, closure, manifest = await published(tmp_path, clean=False)
    hello = node.real(closure.root) / "bin/hello"
    whole = flip(hello)
    async with node.agent():
        status = await node.until("scrubbed", scrubbed)
        await node.until_published(manifest)
        assert status.scrub is not None
        assert (status.scrub.paths_done, status.scrub.damaged) == (len(closure.paths), 1)
        assert status.scrub.bytes_done == status.scrub.bytes_total
        await node.until("healed", lambda _: hello.read_bytes() == whole)
        assert await metric(node, Metric.BYTES_SCRUBBED) == status.scrub.bytes_total
        assert await metric(node, Metric.SCRUB_DAMAGED) == 1
        await node.until("ready", lambda now: now.ready and now.problem is None)
    assert any(entry.get("reason") == Reason.PATH_DAMAGED for entry in node.log)
    (done,) = [entry for entry in node.log if entry["event"] == "scrub"]
    assert done["damaged"] == 1
    node.boot("boot-3")
    async with node.agent():  # that ended in order
        assert (await node.until_published(manifest)).scrub is None


async def test_after_a_clean_boot_nothing_is_scrubbed(tmp_path: Path) -> None:
    _, node, closure, manifest = await published(tmp_path, clean=True)
    flip(node.real(closure.root) / "bin/hello")
    async with node.agent():
        assert (await node.until_published(manifest)).scrub is None
        await node.until("idle", lambda now: now.phase == "Idle")
    assert not any(entry["event"].startswith("scrub") for entry in node.log)


async def test_a_scrub_that_was_cut_off_begins_again_and_needs_no_new_boot(
    tmp_path: Path, gate: Path
) -> None:
    _, node, closure, manifest = await published(tmp_path, clean=False)
    whole = flip(node.real(closure.root) / "bin/hello")
    for end in (signal.SIGKILL, signal.SIGTERM):
        async with node.agent():
            status = await node.until_published(manifest)  # the walk opens the gates
            assert not scrubbed(status)
            assert node.process is not None
            node.process.send_signal(end)
            await node.process.wait()
    gate.touch()
    async with node.agent():
        status = await node.until("scrubbed", scrubbed)
        assert status.scrub is not None
        assert status.scrub.damaged == 1
        await node.until_published(manifest)
    assert (node.real(closure.root) / "bin/hello").read_bytes() == whole


async def test_newer_pins_do_not_wait_for_a_scrub(tmp_path: Path, gate: Path) -> None:
    site, node, closure, manifest = await published(tmp_path, clean=False)
    second = await site.release(site.closure(version="2"))
    async with node.agent():
        await node.until_published(manifest)
        await node.until("scrubbing", scrubbing)
        site.promote(second)
        assert scrubbing(await node.until_published(second))
        gate.touch()
        status = await node.until("scrubbed", scrubbed)
        assert status.scrub is not None
        assert status.scrub.paths_done == len(closure.paths)


async def test_a_conflicting_path_is_walked_by_its_own_facts_and_told_once(
    tmp_path: Path,
) -> None:
    site, node, closure, rebuilt = await publish_and_change(tmp_path)
    site.promote(rebuilt)
    async with node.agent():
        conflicts = (await node.until_published(rebuilt)).conflicts
        assert closure.paths[1] in conflicts
        os.utime(site.pins)  # another pass
        await asyncio.sleep(0.5)
        assert (await node.until_published(rebuilt)).conflicts == conflicts
    told = [entry for entry in node.log if entry.get("reason") == Reason.PATH_CONFLICT]
    assert len(told) == 1
    reboot(node)
    file = node.real(closure.paths[1]) / "file0"
    file.chmod(0o644)
    os.truncate(file, 0)
    file.chmod(0o444)
    async with node.agent():  # what is no longer whole is not kept but fetched
        status = await node.until_published(rebuilt)
        assert status.conflicts == tuple(one for one in conflicts if one != closure.paths[1])
    closures.nix_store(node.store_root, "--verify", "--check-contents")


async def site_with_unregistered_path(tmp_path: Path) -> tuple[Site, Node, bytes, Path]:
    """Put one path of a release where it belongs without telling the database."""
    site = Site(tmp_path)
    node, closure = Node(site, tmp_path / "node1"), site.closure()
    manifest = await site.release(closure)
    site.promote(manifest)
    Path(node.real("/nix/store")).mkdir(parents=True)
    place = node.real(closure.paths[1])
    closures.run("cp", "-a", str(closure.real(closure.paths[1])), str(place))
    site.nar_file(manifest, closure.paths[1]).rename(tmp_path / "nar")
    return site, node, manifest, place


async def test_a_whole_path_that_is_not_registered_is_adopted_without_a_fetch(
    tmp_path: Path,
) -> None:
    _, node, _, place = await site_with_unregistered_path(tmp_path)
    inode = place.stat().st_ino
    assert await node.once("--share-store") == 0  # the cache could not have given it
    assert place.stat().st_ino == inode
    done = next(entry for entry in node.log if entry["event"] == "pass")
    assert done["fetched"] == done["paths"] - 1
    closures.nix_store(node.store_root, "--verify", "--check-contents")


async def test_a_damaged_path_that_is_not_registered_is_fetched(tmp_path: Path) -> None:
    site, node, manifest, place = await site_with_unregistered_path(tmp_path)
    whole = flip(place / "file0")
    assert await node.once("--share-store") == 1  # it is not adopted
    assert any(entry.get("reason") == Reason.NAR_MISSING for entry in node.log)
    name = f"/nix/store/{place.name}"
    (tmp_path / "nar").rename(site.nar_file(manifest, name))
    assert await node.once() == 0
    assert (place / "file0").read_bytes() == whole
    closures.nix_store(node.store_root, "--verify", "--check-contents")
