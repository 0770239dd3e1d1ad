"""Faults of the API server that last: what they cost, and what goes on all the same."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from nodeagent.agent import announce, patience
from nodeagent.names import Phase, Reason
from nodeagent.report import clock, utc_now
from tests.announcing import NODE, STATUS, STORE, World, labels, poured, problem, published
from tests.handmade import digest

pytestmark = pytest.mark.looptime
MINUTE: Final = 60.0
HEARTBEAT: Final = announce.HEARTBEAT.total_seconds()
STORES: Final = STORE.rpartition("/")[0]
# Of one try: the Node, whether a policy guards it, what the NodeStore says.
TRY: Final = 3


@pytest.fixture
async def world() -> World:
    return World()


@pytest.mark.parametrize(("where", "status"), [(STORES, 404), (STORES, 403), (STORE, 422)])
async def test_without_nodestores_the_node_is_told_all_the_same(
    world: World, where: str, status: int
) -> None:
    world.api.faults[where] = status
    async with world.agent():
        assert world.labels == labels("ds")
        assert world.condition["status"] == "True"
        before = world.api.asked
        await asyncio.sleep(10 * MINUTE)
        assert world.api.asked - before <= TRY * (10 * MINUTE / patience.RETRY_MAX_SECONDS + 6)
        await world.lose("ds")
        assert world.condition["reason"] == Reason.PATH_DAMAGED
        await world.lose()
        assert world.condition["status"] == "True"
        assert f": {status} " in world.warnings[0]
        world.api.faults.clear()
        await asyncio.sleep(patience.RETRY_MAX_SECONDS + 1)
        assert world.told["ready"] is True
    assert len(world.warnings) == 1
    assert world.announcer.metrics.render().count(b'reason="ApiRefused"') > 0


async def test_a_server_that_asks_for_patience_gets_it(world: World) -> None:
    async with world.agent():
        world.api.faults["/"], world.api.retry_after = 429, 100
        await world.show(**published(8))
        before = world.api.asked
        for _ in range(9):
            await asyncio.sleep(10)
            await world.announcer.labels()
            world.announcer.wake()
        assert world.api.asked == before
        world.api.faults.clear()
        await asyncio.sleep(20)
        assert world.told["published"]["serial"] == 8
    assert len(world.warnings) == 1


@pytest.mark.parametrize("fault", [0, 401, 500])
async def test_what_loop_and_announcement_are_refused_by_turns_is_told_once(
    world: World, fault: int
) -> None:
    """The loop reads labels while there is nothing to announce, or only the NodeStore's."""
    async with world.agent():
        world.api.faults |= {"/": fault} if fault else {}
        world.api.away = not fault
        for serial in (8, 9):
            for _ in range(5):
                await world.announcer.labels()
                await asyncio.sleep(patience.RETRY_MAX_SECONDS)
            await world.show(**published(serial))
        assert len(world.warnings) == 1
        world.api.faults.clear()
        world.api.away = False
        await asyncio.sleep(patience.RETRY_MAX_SECONDS + 1)
        assert world.told["published"]["serial"] == 9
        world.api.away = True
        await world.announcer.labels()
    assert len(world.warnings) == 2  # it was well in between


async def test_an_agent_asks_for_no_version_that_could_be_too_old(world: World) -> None:
    """Neither a watch nor the rest of a list: so nothing can be answered by 410."""
    async with world.agent():
        await world.lose("ds")
        await world.show(phase=Phase.RETRYING)  # now it asks who uses the node
        await world.announcer.labels()
        world.announcer.hear(problem(Reason.PATH_DAMAGED, "it vanished"))
        await asyncio.sleep(2 * HEARTBEAT)
    assert world.labels == set()
    assert world.api.queries == {"fieldSelector", "fieldManager", "force", "dryRun"}


async def test_a_node_that_registered_anew_is_told_when_its_labels_are_read(world: World) -> None:
    async with world.agent():
        world.api.delete(NODE)
        world.api.delete(STORE)
        world.register()
        assert set(await world.announcer.labels() or ()) == {"zone"}
        await asyncio.sleep(1)
        assert (world.labels, world.condition["status"]) == (labels("ds"), "True")
        (owner,) = world.api.read(STORE)["metadata"]["ownerReferences"]
        assert owner["uid"] == world.api.read(NODE)["metadata"]["uid"]
        assert world.told["ready"] is True


async def test_what_others_took_off_is_back_when_the_labels_are_read(world: World) -> None:
    async with world.agent():
        world.api.write(NODE, {"metadata": {"labels": {"nodeagent.dev/ready": None}}})
        await world.announcer.labels()
        await asyncio.sleep(1)
        assert world.labels == labels("ds")
        assert world.writes
        await world.announcer.labels()
        await asyncio.sleep(1)
        assert world.writes == {}


async def test_a_look_that_a_write_overtook_undoes_nothing(world: World) -> None:
    async with world.agent():
        assert world.writes
        world.api.slow = 0.5
        looking = asyncio.create_task(world.announcer.labels())
        await asyncio.sleep(0.4)
        await world.lose("ds")
        await looking
        await asyncio.sleep(5)
        assert world.writes == {STATUS: 1, f"{STORE}/status": 1}


DAY: Final = timedelta(days=1)


@pytest.mark.parametrize("skew", [DAY, -DAY], ids=["ahead", "behind"])
async def test_a_clock_that_is_a_day_off_costs_no_more_heartbeats(
    world: World, skew: timedelta
) -> None:
    async with world.agent():
        assert world.writes
    world.skew = skew
    async with world.agent(seconds=1):
        assert world.writes == {STATUS: 1}  # told by another clock
        await asyncio.sleep(2 * HEARTBEAT)
        assert world.writes == {STATUS: 2}
        told = datetime.fromisoformat(world.condition["lastHeartbeatTime"])
        assert abs(told - world.clock()) <= announce.HEARTBEAT
    assert world.condition["lastTransitionTime"] == "2026-06-01T12:00:00Z"


async def test_a_clock_that_is_set_back_stops_no_report_of_work(world: World) -> None:
    async with world.agent() as announcer:
        await world.show(phase=Phase.POURING, progress=poured(0.1), seconds=20)
        announcer.hear(problem(Reason.CACHE_UNREACHABLE, "down"))
        await asyncio.sleep(1)
        world.skew = -DAY
        await world.show(progress=poured(0.5), seconds=20)
        assert world.told["progress"]["bytesDone"] == poured(0.5).bytes_done
        for number in range(20):
            announcer.hear(problem(Reason.NAR_CORRUPT, f"path {number}"))
        await asyncio.sleep(1)
        assert len(world.events) == 1 + 10
        assert world.told["published"]["release"] == digest(7)


async def test_a_skew_shifts_the_clock() -> None:
    for seconds in (0.0, 86400.0, -86400.0):
        off = clock(seconds)() - utc_now()
        assert off.total_seconds() == pytest.approx(seconds, abs=60)
    assert clock(0)().tzinfo is UTC
