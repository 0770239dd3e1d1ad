"""When a Node's labels and its taint come and go, and that nothing else moves them."""

import asyncio
from collections.abc import Callable
from typing import Final

import pytest

from nodeagent.agent import announce
from nodeagent.names import TAINT, Phase, Reason
from tests.announcing import (
    NODE,
    NOTHING,
    PODS,
    STATUS,
    World,
    labels,
    pod,
    problem,
    published,
)

pytestmark = pytest.mark.looptime
MINUTE: Final = 60.0
HEARTBEAT: Final = announce.HEARTBEAT.total_seconds()


@pytest.fixture
async def world() -> World:
    return World()


async def nothing(world: World) -> None:
    await world.show(**NOTHING.model_dump(include={"published", "wanted", "phase"}), profiles={})


async def release_without_profile(world: World) -> None:
    await world.show(**published(8, "other"))


async def away(world: World) -> None:
    world.api.away = True
    await world.show(phase=Phase.RETRYING, seconds=MINUTE)
    world.api.away = False
    await asyncio.sleep(MINUTE)


async def broken_cache(world: World) -> None:
    await world.show(phase=Phase.RETRYING, problem=problem(Reason.CACHE_UNREACHABLE, "down"))


@pytest.mark.parametrize("trouble", [nothing, release_without_profile, away, broken_cache])
async def test_labels_stay_whatever_comes_but_loss(
    world: World, trouble: Callable[[World], object]
) -> None:
    async with world.agent():
        pass
    assert world.labels >= labels("ds")
    async with world.agent():
        done = trouble(world)
        assert asyncio.iscoroutine(done)
        await done
        await asyncio.sleep(2 * HEARTBEAT)
    assert world.labels >= labels("ds")


async def test_a_label_of_an_earlier_agent_stays(world: World) -> None:
    async with world.agent():
        pass
    world.view.shown = NOTHING
    async with world.agent(seconds=2 * HEARTBEAT):
        assert world.condition["status"] == "False"
    assert world.labels == labels("ds")


async def test_a_new_profile_gets_its_label(world: World) -> None:
    async with world.agent():
        await world.show(**published(8, "ds", "torch"))
        assert world.labels == labels("ds", "torch")


async def test_at_a_loss_the_condition_falls_and_the_label_stays_while_it_is_mended(
    world: World,
) -> None:
    async with world.agent():
        await world.lose("ds")
        await world.show(phase=Phase.POURING, seconds=2 * HEARTBEAT)
        assert (world.condition["status"], world.labels) == ("False", labels("ds"))


async def test_at_a_loss_the_condition_is_written_before_the_label(world: World) -> None:
    async with world.agent():
        world.api.writes.clear()
        await world.show(phase=Phase.RETRYING, seconds=0)
        await world.lose("ds")
        order = [request for request in world.api.writes if NODE in request]
        assert order == [f"PATCH {STATUS}", f"PATCH {NODE}"]


async def test_a_label_goes_after_a_failed_repair_once_no_pod_needs_it(world: World) -> None:
    world.api.create(PODS.rstrip("/"), pod("task", nodeSelector={"nodeagent.dev/ready": "true"}))
    world.view.shown = world.view.shown.model_copy(update=published(7, "ds", "torch"))
    async with world.agent():
        await world.show(phase=Phase.RETRYING)
        await world.lose("ds")
        await asyncio.sleep(2 * HEARTBEAT)
        assert world.labels == labels("ds", "torch")
        world.api.write(f"{PODS}/task/status", {"status": {"phase": "Succeeded"}})
        await world.show()
        assert world.labels == labels("torch")
        await world.lose("ds", "torch")
        assert world.labels == set()
        await world.lose()
        assert world.labels == labels("ds", "torch")
        assert world.condition["status"] == "True"


async def test_the_startup_taint_comes_off_when_the_node_is_ready(world: World) -> None:
    others, ours = {"key": "gpu", "effect": "NoSchedule"}, {"key": TAINT, "effect": "NoSchedule"}
    world.api.write(NODE, {"spec": {"taints": [ours, others]}})
    world.taint, world.view.shown = True, NOTHING
    async with world.agent(seconds=HEARTBEAT):
        assert world.api.read(NODE)["spec"]["taints"] == [ours, others]
        await world.show(**published(7))
        assert world.api.read(NODE)["spec"]["taints"] == [others]
        world.api.write(NODE, {"spec": {"taints": [ours, others]}})  # it registered anew
        await asyncio.sleep(2 * HEARTBEAT)
        assert world.api.read(NODE)["spec"]["taints"] == [others]


async def test_without_the_flag_the_taint_stays(world: World) -> None:
    world.api.write(NODE, {"spec": {"taints": [{"key": TAINT, "effect": "NoSchedule"}]}})
    async with world.agent():
        assert len(world.api.read(NODE)["spec"]["taints"]) == 1
