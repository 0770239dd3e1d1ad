"""The agent end to end, on a real Nix store: from pins to open gates, and through changes."""

import asyncio
import json
import os
import shutil
import signal
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from integration import closures
from integration.site import Node, Site
from nodeagent import names, promote, release
from nodeagent.names import Metric, Phase, Reason


def site_and_node(tmp_path: Path) -> tuple[Site, Node]:
    site = Site(tmp_path)
    return site, Node(site, tmp_path / "node1")


async def test_an_empty_store_becomes_a_published_profile(tmp_path: Path) -> None:
    site, node = site_and_node(tmp_path)
    closure = site.closure(count=8)
    manifest = await site.release(closure)
    site.promote(manifest)
    async with node.agent():
        status = await node.until_published(manifest)
        assert status.profiles["ds"].root == closure.root
        assert (await node.get("/readyz")) == (200, "ok\n")
        assert (await node.get("/livez")) == (200, "ok\n")
        assert (await node.get("/healthz"))[0] == 200
    assert closure.root in node.hello()
    facts = json.loads((node.run_dir / "profiles/ds/release.json").read_text())
    assert facts["release"] == release.digest_of(manifest)
    assert (node.run_dir / "store").readlink() == node.store_root / "nix/store"
    closures.nix_store(node.store_root, "--verify", "--check-contents")
    assert closures.nix_store(node.store_root, "--check-validity", *closure.paths) == ""


async def test_a_published_generation_is_rooted_by_direct_links_and_nothing_pends(
    tmp_path: Path,
) -> None:
    site, node = site_and_node(tmp_path)
    closure = site.closure()
    manifest = await site.release(closure)
    site.promote(manifest)
    assert await node.once() == 0
    roots = node.store_root / "nix/var/nix/gcroots/nodeagent"
    generation = roots / release.digest12(release.digest_of(manifest))
    assert str((generation / "ds").readlink()) == closure.root
    assert not any((roots / "pending").iterdir())
    live = closures.nix_store(node.store_root, "--gc", "--print-live").split()
    assert set(closure.paths) <= set(live)


async def test_metrics_come_from_the_vocabulary_and_tell_the_state(tmp_path: Path) -> None:
    site, node = site_and_node(tmp_path)
    closure = site.closure()
    manifest = await site.release(closure)
    record = site.promote(manifest)
    async with node.agent():
        await node.until_published(manifest)
        await node.until("idle", lambda now: now.phase is Phase.IDLE)
        text = (await node.get("/metrics"))[1]
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples[(Metric.READY,)] == 1
    assert samples[(Metric.PHASE, "Idle")] == 1
    assert samples[(Metric.SERIAL,)] == record.serial
    assert samples[(Metric.PATHS_POURED,)] == len(closure.paths)
    assert samples[(Metric.PASSES, "published")] == 1


async def test_new_pins_bring_a_new_generation_and_only_what_changed(tmp_path: Path) -> None:
    site, node = site_and_node(tmp_path)
    first = await site.release(site.closure("1", count=8))
    second = await site.release(site.closure("2", count=8, changed=2))
    site.promote(first)
    async with node.agent():
        await node.until_published(first)
        site.promote(second)
        await node.until_published(second)
        assert "hello 2" in node.hello()
    assert [entry["fetched"] for entry in node.log if entry["event"] == "pass"] == [8, 2]


async def test_rollback_is_one_number_and_fetches_nothing(tmp_path: Path) -> None:
    site, node = site_and_node(tmp_path)
    first = await site.release(site.closure("1"))
    second = await site.release(site.closure("2"))
    site.promote(first)
    async with node.agent():
        await node.until_published(first)
        site.promote(second)
        await node.until_published(second)
        shutil.rmtree(site.cache)

        promote.set_percent(site.pins, names.DEFAULT_CHANNEL, 0)
        await node.until_published(first)
        assert "hello 1" in node.hello()


async def test_pins_appear_by_the_swap_of_a_configmap(tmp_path: Path) -> None:
    site, node = site_and_node(tmp_path)
    manifest = await site.release(site.closure())
    site.promote(manifest)
    mount = tmp_path / "mount"
    (mount / "..one").mkdir(parents=True)
    (mount / "..data").symlink_to("..one")
    (mount / "pins.json").symlink_to("..data/pins.json")
    node.settings = {"pins": str(mount / "pins.json")}
    async with node.agent():
        await node.until_problem(Reason.PINS_MISSING)
        (mount / "..two").mkdir()
        shutil.copy(site.pins, mount / "..two/pins.json")
        (mount / "..next").symlink_to("..two")
        (mount / "..next").rename(mount / "..data")
        await node.until_published(manifest)


async def test_after_a_reboot_the_gates_open_by_themselves_without_pins_or_cache(
    tmp_path: Path,
) -> None:
    site, node = site_and_node(tmp_path)
    manifest = await site.release(site.closure())
    site.promote(manifest)
    assert await node.once() == 0
    node.boot("boot-2")
    shutil.rmtree(node.run_dir)
    shutil.rmtree(site.cache)
    site.pins.unlink()
    async with node.agent():
        status = await node.until_published(manifest)
        assert status.problem is not None
        assert status.problem.reason is Reason.PINS_MISSING


async def test_gates_of_an_earlier_boot_are_not_believed(tmp_path: Path) -> None:
    site, node = site_and_node(tmp_path)
    closure = site.closure()
    manifest = await site.release(closure)
    site.promote(manifest)
    assert await node.once() == 0
    node.boot("boot-2")
    hello = node.real(closure.root) / "bin/hello"
    hello.chmod(0o644)
    hello.write_text("cut")
    shutil.rmtree(site.cache)
    async with node.agent():
        await node.until_problem(Reason.NAR_MISSING)
        assert not (node.run_dir / "profiles/ds").exists()
        assert (await node.get("/readyz"))[0] == 503


async def test_damage_found_after_a_boot_is_fetched_anew(tmp_path: Path) -> None:
    site, node = site_and_node(tmp_path)
    closure = site.closure()
    manifest = await site.release(closure)
    site.promote(manifest)
    assert await node.once() == 0
    node.boot("boot-2")
    hello = node.real(closure.root) / "bin/hello"
    hello.chmod(0o644)
    hello.write_text("cut")
    assert await node.once() == 0
    assert closure.root in node.hello()
    closures.nix_store(node.store_root, "--verify", "--check-contents")


async def test_readyz_sees_that_a_published_path_vanished_and_the_agent_heals_it(
    tmp_path: Path,
) -> None:
    site, node = site_and_node(tmp_path)
    closure = site.closure()
    manifest = await site.release(closure)
    site.promote(manifest)
    async with node.agent():
        await node.until_published(manifest)
        lost = node.real(closure.paths[1])
        lost.rename(tmp_path / "lost")
        code, text = await node.get("/readyz")
        assert code == 503
        assert closure.paths[1] in text
        os.utime(site.pins)
        await node.until_published(manifest)
        assert lost.exists()
    assert any(entry.get("reason") == Reason.PATH_DAMAGED for entry in node.log)


async def test_while_a_lost_path_cannot_be_had_its_gate_stays_shut(tmp_path: Path) -> None:
    site, node = site_and_node(tmp_path)
    closure = site.closure()
    manifest = await site.release(closure)
    site.promote(manifest)
    async with node.agent():
        await node.until_published(manifest)
        shutil.rmtree(site.cache)
        node.real(closure.paths[1]).rename(tmp_path / "lost")
        os.utime(site.pins)
        await node.until_problem(Reason.NAR_MISSING)
        assert not (node.run_dir / "profiles/ds").exists()


async def test_a_path_lost_while_no_agent_ran_shuts_the_gates_of_its_generation(
    tmp_path: Path,
) -> None:
    site, node = site_and_node(tmp_path)
    closure = site.closure()
    site.promote(await site.release(closure))
    assert await node.once() == 0
    node.real(closure.paths[1]).rename(tmp_path / "lost")
    shutil.rmtree(site.cache)
    async with node.agent():
        await node.until_problem(Reason.NAR_MISSING)
        assert not (node.run_dir / "profiles/ds").exists()
        assert (await node.get("/readyz"))[0] == 503


async def test_a_second_agent_on_the_same_state_waits_and_says_so(tmp_path: Path) -> None:
    site, node = site_and_node(tmp_path)
    manifest = await site.release(site.closure())
    site.promote(manifest)
    other = Node(site, tmp_path / "node1")
    async with node.agent():
        await node.until_published(manifest)
        async with other.agent():
            await other.until("starting", lambda now: now.phase is Phase.STARTING)
            await other.until_logged("waiting for another agent")
            assert node.process is not None
            node.process.send_signal(signal.SIGTERM)
            await node.process.wait()
            await other.until_published(manifest)


async def test_a_port_that_is_taken_is_told_and_the_next_step_with_it(tmp_path: Path) -> None:
    site, node = site_and_node(tmp_path)
    other = Node(site, tmp_path / "node2", port=node.port)
    async with node.agent():
        await node.until("up", lambda now: now.phase is Phase.WAITING)
        assert await other.once() == 1
    assert f"cannot listen on 127.0.0.1:{node.port}" in other.log[-1]["event"]
    assert "--port" in other.log[-1]["event"]


async def test_keys_that_are_missing_are_named(tmp_path: Path) -> None:
    _, node = site_and_node(tmp_path)
    node.settings = {"cache-keys": str(tmp_path / "nowhere.pub")}
    assert await node.once() == 1
    assert "nowhere.pub" in node.log[-1]["event"]


async def test_a_store_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    site, node = site_and_node(tmp_path)
    site.promote(await site.release(site.closure()))
    closures.add_file(node.store_root, "theirs", b"theirs")
    before = sorted(node.store_root.rglob("*"))
    assert await node.once() == 1
    assert any("ForeignStore" in entry["event"] for entry in node.log)
    assert sorted(node.store_root.rglob("*")) == before


async def test_a_store_of_somebody_else_can_be_shared(tmp_path: Path) -> None:
    site, node = site_and_node(tmp_path)
    manifest = await site.release(site.closure())
    site.promote(manifest)
    closures.add_file(node.store_root, "theirs", b"theirs")
    assert await node.once("--share-store") == 0


async def test_a_killed_agent_converges_at_the_next_start(tmp_path: Path) -> None:
    site, node = site_and_node(tmp_path)
    manifest = await site.release(site.closure(count=40, file_bytes=100_000))
    site.promote(manifest)
    for seconds in (0.4, 0.5, 0.6, 0.7):
        async with node.agent():
            await asyncio.sleep(seconds)
            assert node.process is not None
            node.process.kill()
    assert await node.once() == 0
    assert not any((node.store_root / "nix/var/nodeagent/staging").iterdir())
    closures.nix_store(node.store_root, "--verify", "--check-contents")
