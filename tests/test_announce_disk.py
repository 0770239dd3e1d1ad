"""A disk under suspicion: a condition of its own, while it lasts."""

from typing import Final

import pytest

from nodeagent.names import CONDITION_DISK, Reason
from tests.announcing import NODE, STATUS, World
from tests.handmade import path

SPOILT: Final = {path(name): 1_780_000_000 for name in ("a", "b", "c")}

pytestmark = pytest.mark.looptime


@pytest.fixture
async def world() -> World:
    return World()


async def spoil(world: World, spoilt: dict[str, int], seconds: float = 1.0) -> None:
    world.view.spoilt = spoilt
    await world.show(seconds=seconds)


async def test_a_disk_that_spoils_paths_gets_a_condition_and_loses_it_again(world: World) -> None:
    async with world.agent():
        assert CONDITION_DISK not in world.conditions
        await spoil(world, SPOILT, seconds=100)
        told = world.conditions[CONDITION_DISK]
        assert (told["status"], told["reason"]) == ("True", Reason.REPEATED_DAMAGE)
        assert "3 store paths" in told["message"]
        assert told["lastTransitionTime"] == "2026-06-01T12:00:01Z"
        assert world.condition["status"] == "True"  # what the node holds is whole
        await spoil(world, SPOILT | {path("d"): 1_780_000_001}, seconds=100)
        told = world.conditions[CONDITION_DISK]
        assert "4 store paths" in told["message"]
        assert told["lastTransitionTime"] == "2026-06-01T12:00:01Z"
        await spoil(world, {})
        assert CONDITION_DISK not in world.conditions


async def test_a_suspicion_that_is_as_old_as_the_last_agent_keeps_its_time(world: World) -> None:
    world.view.spoilt = SPOILT
    async with world.agent():
        told = world.conditions[CONDITION_DISK]
    async with world.agent(seconds=400):
        again = world.conditions[CONDITION_DISK]
        assert again["lastTransitionTime"] == told["lastTransitionTime"]
        assert again["lastHeartbeatTime"] > told["lastHeartbeatTime"]


async def test_a_condition_that_somebody_took_off_comes_back(world: World) -> None:
    world.view.spoilt = SPOILT
    async with world.agent():
        kept = [
            one
            for one in world.api.read(NODE)["status"]["conditions"]
            if one["type"] != CONDITION_DISK
        ]
        world.api.write(STATUS, {"status": {"conditions": kept}})
        await world.announcer.labels()  # as each pass does
        await spoil(world, SPOILT)
        assert CONDITION_DISK in world.conditions
