"""What an agent tells the API server, and when: hours of simulated time against the fake."""

import asyncio
from typing import Final

import pytest

from nodeagent.agent import announce
from nodeagent.names import Phase, Reason
from tests.announcing import (
    NODE,
    NOTHING,
    STATUS,
    STORE,
    World,
    labels,
    poured,
    problem,
    published,
)

pytestmark = pytest.mark.looptime
MINUTE: Final = 60.0
HEARTBEAT: Final = announce.HEARTBEAT.total_seconds()


@pytest.fixture
async def world() -> World:
    return World()


async def test_the_first_announcement_says_it_all(world: World) -> None:
    async with world.agent():
        assert world.writes == {NODE: 1, STATUS: 1, STORE: 1, f"{STORE}/status": 1}
    assert world.labels == labels("ds")
    assert world.condition["status"] == "True"
    assert world.condition["reason"] == "Published"
    assert world.condition["lastTransitionTime"] == "2026-06-01T12:00:00Z"
    assert (world.told["ready"], world.told["phase"]) == (True, "Idle")
    assert world.api.read(STORE)["metadata"]["ownerReferences"][0]["name"] == "node-1"


async def test_an_agent_with_nothing_says_why_and_sets_no_label(world: World) -> None:
    world.view.shown = NOTHING
    async with world.agent():
        pass
    assert world.labels == set()
    assert (world.condition["status"], world.condition["reason"]) == ("False", "NothingPublished")
    assert (world.told["ready"], world.told["message"]) == (False, "nothing is published yet")


async def test_an_idle_agent_writes_nothing_but_a_heartbeat(world: World) -> None:
    async with world.agent():
        assert world.writes
        await asyncio.sleep(2 * HEARTBEAT)
        assert world.writes == {STATUS: 2}
    assert world.condition["lastTransitionTime"] == "2026-06-01T12:00:00Z"
    assert world.condition["lastHeartbeatTime"] >= "2026-06-01T12:10:00Z"


async def test_a_pass_that_finds_nothing_to_do_writes_nothing(world: World) -> None:
    async with world.agent():
        assert world.writes
        for _ in range(20):
            for phase in (Phase.PLANNING, Phase.VERIFYING, Phase.PUBLISHING, Phase.IDLE):
                await world.show(phase=phase, seconds=0.025)
            await asyncio.sleep(5)
        assert world.writes == {}


async def test_passes_that_fail_again_and_again_write_nothing_new(world: World) -> None:
    failed = problem(Reason.CACHE_UNREACHABLE, "cache main is down")
    async with world.agent():
        await world.show(phase=Phase.RETRYING, problem=failed, seconds=2 * MINUTE)
        assert world.told["problem"]["reason"] == "CacheUnreachable"
        assert world.writes
        for _ in range(5):
            await world.show(phase=Phase.PLANNING, seconds=1.5)
            await world.show(phase=Phase.RETRYING, seconds=25)
        assert world.writes == {}


async def test_work_of_minutes_is_told_every_quarter_of_a_minute(world: World) -> None:
    async with world.agent():
        assert world.writes
        for step in range(300):
            phase = Phase.POURING if step else Phase.PLANNING
            await world.show(phase=phase, progress=poured(step / 300))
        assert 290 / 15 - 2 <= world.writes.pop(f"{STORE}/status") <= 300 / 15 + 1
        assert world.told["progress"]["bytesDone"] >= poured(280 / 300).bytes_done


async def test_work_is_told_even_if_nobody_wakes_us(world: World) -> None:
    async with world.agent():
        await world.show(phase=Phase.POURING, progress=poured(0.0), seconds=20)
        await world.show(seconds=20)  # a look while nothing changes
        world.view.shown = world.view.shown.model_copy(update={"progress": poured(0.5)})
        await asyncio.sleep(20)
        assert world.told["progress"]["bytesDone"] == poured(0.5).bytes_done


async def test_a_new_release_is_told_at_once(world: World) -> None:
    async with world.agent():
        await world.show(wanted=published(8)["wanted"], phase=Phase.FETCHING_MANIFEST)
        assert world.told["wanted"]["serial"] == 8
        await world.show(phase=Phase.POURING, progress=poured(0.5), seconds=5)
        await world.show(**published(8), progress=None)
        assert (world.told["published"]["serial"], world.told["phase"]) == (8, "Idle")
        await asyncio.sleep(MINUTE)
        assert "serial 8" in world.condition["message"]


async def test_the_condition_follows_the_truth_at_once(world: World) -> None:
    async with world.agent(seconds=100):
        await world.lose("ds")
        assert (world.condition["status"], world.condition["reason"]) == ("False", "PathDamaged")
        assert world.condition["lastTransitionTime"] == "2026-06-01T12:01:40Z"
        assert world.told["ready"] is False
        await asyncio.sleep(9)
        await world.lose()
        assert world.condition["status"] == "True"
        assert world.condition["lastTransitionTime"] == "2026-06-01T12:01:50Z"


async def test_another_reason_is_told_at_once(world: World) -> None:
    world.view.shown = NOTHING
    async with world.agent():
        for reason in (Reason.PINS_MISSING, Reason.CACHE_UNREACHABLE):
            await world.show(problem=problem(reason, "so it is"))
            assert (world.condition["status"], world.condition["reason"]) == ("False", reason)
    assert world.condition["lastTransitionTime"] == "2026-06-01T12:00:00Z"


async def test_what_only_reads_otherwise_is_told_once_a_minute(world: World) -> None:
    async with world.agent():
        assert world.writes
        for step in range(10 * 12):
            reason = (Reason.CACHE_UNREACHABLE, Reason.PINS_MISSING)[step % 2]
            await world.show(problem=problem(reason, "trouble"), seconds=5)
        assert 8 <= world.writes[STATUS] <= 10
    assert world.condition["lastTransitionTime"] == "2026-06-01T12:00:00Z"


async def test_the_last_wording_is_told_in_the_end(world: World) -> None:
    async with world.agent():
        await world.show(problem=problem(Reason.PINS_MISSING, "no pins"))
        assert "PinsMissing" not in world.condition["message"]
        await asyncio.sleep(MINUTE)
        assert "PinsMissing" in world.condition["message"]


async def test_a_restart_writes_nothing_new(world: World) -> None:
    async with world.agent():
        assert world.writes
    async with world.agent(seconds=30):
        assert world.writes == {}
        await asyncio.sleep(HEARTBEAT)
    assert world.condition["lastTransitionTime"] == "2026-06-01T12:00:00Z"
    assert world.events == []


async def test_a_restart_in_the_middle_of_work_goes_on_telling(world: World) -> None:
    async with world.agent():
        await world.show(phase=Phase.POURING, progress=poured(0.1), seconds=20)
        assert world.told["progress"]["bytesDone"] == poured(0.1).bytes_done
    world.view.shown = world.view.shown.model_copy(update={"progress": poured(0.2)})
    async with world.agent(seconds=announce.BRIEF.total_seconds() + 1):
        assert world.told["progress"]["bytesDone"] == poured(0.2).bytes_done


async def test_a_restart_into_a_loss_keeps_its_time(world: World) -> None:
    world.view.lost = frozenset({"ds"})
    async with world.agent(seconds=MINUTE):
        pass
    async with world.agent(seconds=2 * HEARTBEAT):
        assert world.condition["status"] == "False"
    assert world.condition["lastTransitionTime"] == "2026-06-01T12:00:00Z"


async def test_a_heartbeat_from_the_future_is_no_reason_for_silence(world: World) -> None:
    async with world.agent():
        pass
    condition = world.condition | {"lastHeartbeatTime": "2099-01-01T00:00:00Z"}
    world.api.write(STATUS, {"status": {"conditions": [condition]}})
    async with world.agent():
        assert world.condition["lastHeartbeatTime"] < "2027"


async def test_a_problem_is_an_event_once_an_hour(world: World) -> None:
    async with world.agent() as announcer:
        for minute in range(150):
            if minute % 10 == 0:
                announcer.hear(problem(Reason.CACHE_UNREACHABLE, "down"))
            await asyncio.sleep(MINUTE)
        assert world.events == [("CacheUnreachable", "down")] * 3


async def test_of_many_problems_ten_are_events_in_ten_minutes(world: World) -> None:
    async with world.agent() as announcer:
        for number in range(30):
            announcer.hear(problem(Reason.NAR_CORRUPT, f"path {number}"))
            await asyncio.sleep(1)
        assert len(world.events) == 10
        await asyncio.sleep(10 * MINUTE)
        announcer.hear(problem(Reason.NAR_CORRUPT, "path 99"))
        await asyncio.sleep(1)
        assert len(world.events) == 11


async def test_a_release_is_an_event_when_it_is_published(world: World) -> None:
    world.view.shown = NOTHING
    async with world.agent():
        for serial in (8, 9, 9):
            await world.show(**published(serial, "ds", "torch"))
    reasons, messages = zip(*world.events, strict=True)
    assert reasons == ("Published", "Published")
    assert "serial 8" in messages[0]
    assert "serial 9" in messages[1]
    assert "(profiles: ds, torch)" in messages[0]


async def test_the_nodes_labels_are_known_as_soon_as_they_were_seen(world: World) -> None:
    world.api.write(NODE, {"metadata": {"labels": {"nodeagent.dev/channel": "canary"}}})
    announcer = world.new()
    world.api.away = True
    assert await announcer.labels() is None
    assert len(world.warnings) == 1
    world.api.away = False
    seen = {"zone": "b", "nodeagent.dev/channel": "canary"}
    assert await announcer.labels() == seen
    world.api.away = True
    assert await announcer.labels() == seen
