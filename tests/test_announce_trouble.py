"""The announcement while the API server has bad times, or others undo it."""

import asyncio
from typing import Final

import pytest

from nodeagent.agent import announce, patience
from nodeagent.names import Reason
from tests import announcing
from tests.announcing import (
    EVENTS,
    NODE,
    PODS,
    STATUS,
    STORE,
    World,
    labels,
    problem,
    published,
)
from tests.handmade import digest

pytestmark = pytest.mark.looptime
MINUTE: Final = 60.0
HEARTBEAT: Final = announce.HEARTBEAT.total_seconds()


@pytest.fixture
async def world() -> World:
    return World()


async def test_an_api_server_that_is_away_is_tried_ever_more_rarely_and_told_once(
    world: World,
) -> None:
    async with world.agent():
        world.api.away = True
        await world.show(seconds=0, **published(8, "ds", "torch"))
        world.announcer.hear(problem(Reason.PATH_DAMAGED, "it vanished"))
        before = world.api.asked
        await asyncio.sleep(10 * MINUTE)
        assert 10 <= world.api.asked - before <= 30
        assert len(world.warnings) == 1
        world.api.away = False
        await asyncio.sleep(patience.RETRY_MAX_SECONDS + 1)
        assert world.labels == labels("ds", "torch")
        assert "serial 8" in world.condition["message"]
        assert world.told["published"]["release"] == digest(8)
        assert {reason for reason, _ in world.events} == {"PathDamaged", "Published"}
        world.api.away = True
        await world.lose("ds")
        assert len(world.warnings) == 2


@pytest.mark.parametrize("path", [NODE, STATUS, STORE, EVENTS, PODS.rpartition("/namespaces")[0]])
@pytest.mark.parametrize("status", [403, 429, 500])
async def test_whatever_request_fails_is_made_again(world: World, path: str, status: int) -> None:
    world.view.shown = world.view.shown.model_copy(update={"published": None, "profiles": {}})
    async with world.agent():
        world.api.faults[path] = status
        await world.show(seconds=MINUTE, **published(8))
        assert f": {status} " in world.warnings[0]
        del world.api.faults[path]
        await asyncio.sleep(patience.RETRY_MAX_SECONDS + 1)
        assert world.labels == labels("ds")
        assert (world.condition["status"], world.told["published"]["serial"]) == ("True", 8)
        assert [reason for reason, _ in world.events] == ["Published"]


async def test_a_slow_api_server_is_given_up_and_tried_again(world: World) -> None:
    world.api.slow = 30.0
    async with world.agent(seconds=MINUTE):
        assert any("TimeoutError" in warning for warning in world.warnings)
        world.api.slow = 0.1
        await asyncio.sleep(MINUTE)
        assert world.labels == labels("ds")


async def test_what_was_undone_by_hand_is_back_at_the_next_heartbeat(world: World) -> None:
    async with world.agent():
        world.api.write(NODE, {"metadata": {"labels": {"nodeagent.dev/ready": None}}})
        world.api.write(STATUS, {"status": {"conditions": [announcing.KUBELETS]}})
        world.api.write(f"{STORE}/status", {"status": {"ready": False}})
        await asyncio.sleep(HEARTBEAT + 1)
        assert world.labels == labels("ds")
        assert (world.condition["status"], world.told["ready"]) == ("True", True)


async def test_a_nodestore_that_somebody_deleted_is_made_anew(world: World) -> None:
    async with world.agent():
        world.api.delete(STORE)
        await asyncio.sleep(HEARTBEAT + 1)
        assert world.told["ready"] is True


async def test_a_nodestore_that_is_gone_when_it_is_written_is_made_anew(world: World) -> None:
    async with world.agent():
        world.api.delete(STORE)
        await world.show(**published(8), seconds=5)
        assert world.told["published"]["serial"] == 8


async def test_a_node_made_anew_is_told_everything(world: World) -> None:
    async with world.agent():
        world.api.delete(NODE)
        await asyncio.sleep(HEARTBEAT + 1)
        assert '"node-1" not found' in world.warnings[0]
        world.register()
        await asyncio.sleep(patience.RETRY_MAX_SECONDS + 1)
        (owner,) = world.api.read(STORE)["metadata"]["ownerReferences"]
        assert owner["uid"] == world.api.read(NODE)["metadata"]["uid"]
        assert (world.labels, world.condition["status"]) == (labels("ds"), "True")


async def test_without_a_policy_that_guards_it_the_condition_says_so(world: World) -> None:
    world.api.guarded = False
    async with world.agent(seconds=1):
        assert world.condition["status"] == "True"
        assert Reason.POLICY_NOT_ENFORCED in world.condition["message"]
    world.api.guarded = True
    async with world.agent(seconds=2 * HEARTBEAT):
        assert Reason.POLICY_NOT_ENFORCED not in world.condition["message"]


async def test_whether_a_policy_guards_it_is_asked_again_after_trouble_alone(world: World) -> None:
    async with world.agent(seconds=3 * HEARTBEAT):
        world.api.guarded = False
        await asyncio.sleep(3 * HEARTBEAT)
        assert not world.view.unguarded
        world.api.away = True
        await world.show(**published(8))
        world.api.away = False
        await asyncio.sleep(2 * HEARTBEAT)
        assert world.view.unguarded
