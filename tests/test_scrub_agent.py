"""What an agent makes of the scrub: when it reads, what it remembers, what becomes of findings."""

import asyncio
import contextlib
import os
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from nodeagent.agent import scrub as scrubbing
from nodeagent.agent.scrub import Pace, Scrubbing
from nodeagent.errors import NodeAgentError
from nodeagent.names import Metric, Reason
from nodeagent.report import Problem
from tests import nars
from tests.handmade import NOW, TREE, path
from tests.scrubbing import (
    CONTENTS,
    ITEMS,
    MORTAL,
    Bench,
    StandInFlow,
    flow_of,
    memory_of,
    of,
    stocked,
)

DAY: Final = 86_400
MONTH: Final = Pace(30 * DAY)


@pytest.fixture
def bench(scratch: Path) -> Bench:
    return stocked(scratch)


@pytest.fixture
def flow(bench: Bench, tmp_path: Path) -> StandInFlow:
    return flow_of(bench, tmp_path)


async def once(one: Scrubbing) -> float:
    """Let it sit once, and give the seconds until the next time."""
    wait = await one._attempt(one._sit())  # noqa: SLF001 `run` sleeps for days between two
    assert wait is not None
    return wait


def value(flow: StandInFlow, name: Metric) -> float:
    found = flow.metrics.registry.get_sample_value(name)
    assert found is not None
    return found


def clean(flow: StandInFlow) -> None:
    """Have the boot before end in order."""
    flow.ledger.scrubbed("boot-1", 1)


async def test_what_an_owed_scrub_finds_wakes_the_loop(bench: Bench, flow: StandInFlow) -> None:
    bench.flip(ITEMS[0])
    woken: list[bool] = []
    one = of(flow, lambda: woken.append(True))
    with one.owed():
        assert one.due
        assert one.progress() is None
        await one.run()
    assert flow.damaged.keys() == {ITEMS[0].path}
    assert woken == [True]
    progress = one.progress()
    assert progress is not None
    assert (progress.running, progress.paths_done, progress.damaged) == (False, 3, 1)
    assert flow.ledger.state.scrubbed_boot == flow.ledger.state.clean_end == "boot-1"
    assert flow.ledger.state.spoilt.keys() == {ITEMS[0].path}


async def test_nothing_is_scrubbed_where_nothing_is_owed(flow: StandInFlow) -> None:
    clean(flow)
    one = of(flow, worker=["/nowhere"])
    with one.owed():
        await one.run()
    assert one.progress() is None


async def test_a_path_that_was_exchanged_meanwhile_is_not_blamed(
    bench: Bench, flow: StandInFlow
) -> None:
    bench.flip(ITEMS[0])
    one = of(flow, lambda: pytest.fail("woken"))
    with one.owed():
        async with bench.pause:
            task = asyncio.create_task(one.run())
            await asyncio.sleep(0.2)
            nars.write(TREE, os.fsencode(bench.files.staged(ITEMS[0].path)))
            bench.files.place([ITEMS[0].path])
        await task
    assert flow.damaged == {}


async def test_a_path_that_was_collected_meanwhile_is_not_blamed(
    bench: Bench, flow: StandInFlow
) -> None:
    bench.flip(ITEMS[0])
    one = of(flow, lambda: pytest.fail("woken"))
    with one.owed():
        async with bench.pause:
            task = asyncio.create_task(one.run())
            while one.progress() is None:  # noqa: ASYNC110 it knows no event of ours
                await asyncio.sleep(0.01)
            flow.valid.remove(ITEMS[0].path)
        await task
    assert flow.damaged == {}


async def test_a_scrub_whose_worker_died_is_told_and_goes_on_with_the_rest(
    flow: StandInFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubbing, "RETRY_SECONDS", 0.01)
    one = of(flow, worker=MORTAL)
    with one.owed():
        await one.run()
    assert flow.report.problem is not None
    assert flow.report.problem.reason is Reason.WORKER_DIED
    assert flow.damaged == {item.path: "read badly" for item in ITEMS}
    assert flow.ledger.state.scrubbed_boot == "boot-1"


async def test_an_agent_that_fails_before_its_scrub_ended_leaves_it_owed(flow: StandInFlow) -> None:
    one = of(flow)
    with pytest.raises(NodeAgentError), one.owed():
        raise NodeAgentError(Reason.NIX_FAILED, "no nix")
    assert flow.ledger.begin("boot-1")


async def test_an_owed_scrub_that_was_cut_off_goes_on_where_it_was(
    bench: Bench, flow: StandInFlow
) -> None:
    flow.valid = {ITEMS[0].path}
    one = of(flow)
    with one.owed():
        await one._through()  # noqa: SLF001 … and ends there, as if it were killed
    flow.ledger.state = flow.ledger.state.model_copy(
        update={"scrubbed_boot": None, "clean_end": None}
    )
    flow.valid, flow.hashed = {item.path for item in ITEMS}, set()
    flow.later(hours=1)
    again = of(flow)
    with again.owed():
        await again.run()
    progress = again.progress()
    assert progress is not None
    assert (progress.paths_done, progress.paths_total) == (2, 2)


async def test_in_the_next_unclean_boot_all_is_read_whatever_clock_the_last_one_had(
    flow: StandInFlow,
) -> None:
    flow.later(days=365)
    with (one := of(flow)).owed():
        await one.run()
    flow.ledger.state = flow.ledger.state.model_copy(update={"clean_end": None})
    flow.boot_id, flow.hashed = "boot-2", set()
    flow.later(days=-365)
    with (again := of(flow)).owed():
        await again.run()
    progress = again.progress()
    assert progress is not None
    assert progress.paths_done == 3


async def test_within_the_period_each_path_is_read_again(flow: StandInFlow) -> None:
    clean(flow)
    total, looks = sum(one.info.nar_size for one in CONTENTS), 0
    with (one := of(flow, pace=MONTH)).owed():
        flow.later(seconds=await once(one))
        assert value(flow, Metric.BYTES_SCRUBBED) == 0  # a new node rests first
        end = flow.now + timedelta(days=31)
        while flow.now < end:
            flow.later(seconds=await once(one))
            looks += 1
    assert total <= value(flow, Metric.BYTES_SCRUBBED) <= 3 * total
    assert looks < 50
    assert flow.ledger.state.scrubbed_at is not None
    assert flow.ledger.state.scrubbed_at > 1  # a round ended
    assert value(flow, Metric.SCRUB_RATE) == pytest.approx(total / (24 * DAY), rel=0.1)
    assert value(flow, Metric.SCRUB_OLDEST) > NOW.timestamp()


async def test_a_restart_goes_on_where_it_was(flow: StandInFlow) -> None:
    clean(flow)
    with (one := of(flow, pace=MONTH)).owed():
        flow.later(seconds=await once(one))
        wait = await once(one)
        assert value(flow, Metric.BYTES_SCRUBBED) > 0
    before = memory_of(flow)
    flow.metrics = type(flow.metrics)()
    with (again := of(flow, pace=MONTH)).owed():
        assert await once(again) == pytest.approx(wait, abs=2)
    assert value(flow, Metric.BYTES_SCRUBBED) == 0
    assert memory_of(flow) == before


async def test_what_is_read_again_and_found_damaged_is_told_and_not_read_over_and_over(
    bench: Bench, flow: StandInFlow
) -> None:
    clean(flow)
    with (one := of(flow, pace=MONTH)).owed():
        await once(one)
        for item in ITEMS[:2]:
            bench.flip(item)
        flow.later(days=31)
        flow.hashed = {item.path for item in ITEMS}  # poured in this run, and gone bad since
        await once(one)
        assert flow.damaged.keys() == {item.path for item in ITEMS[:2]}
        assert value(flow, Metric.SCRUB_DAMAGED) == 2
        flow.later(days=31)
        await once(one)
        assert value(flow, Metric.SCRUB_DAMAGED) == 2


async def test_three_spoilt_paths_make_the_disk_suspect_and_a_mode_makes_none(
    bench: Bench, flow: StandInFlow
) -> None:
    told: list[Problem] = []
    flow.report.on_problem = told.append
    bench.flip(ITEMS[0])
    bench.flip(ITEMS[1])
    bench.files.real(ITEMS[0].path).chmod(0o777)
    with (one := of(flow)).owed():
        await one.run()
        assert flow.damaged.keys() == {item.path for item in ITEMS[:2]}
        assert flow.ledger.state.spoilt.keys() == {ITEMS[1].path}
        for name in ("a", "b"):
            flow.ledger.spoil(path(name), int(flow.now.timestamp()))
        assert told == []
        flow.ledger.state = flow.ledger.state.model_copy(update={"scrubbed_boot": None})
        one.due, flow.damaged, flow.hashed = True, {}, set()
        bench.files.real(ITEMS[0].path).chmod(0o555)
        await one.run()
    assert [problem.reason for problem in told] == [Reason.REPEATED_DAMAGE] * 2
    assert "4 store paths" in told[1].message


async def test_a_sitting_whose_worker_dies_is_told_and_tried_again(
    flow: StandInFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean(flow)
    monkeypatch.setattr(scrubbing, "RETRY_SECONDS", 0.01)
    one = of(flow, worker=MORTAL, pace=Pace(0.02))
    with one.owed():
        task = asyncio.create_task(one.run())
        while flow.damaged.keys() != {item.path for item in ITEMS}:
            assert not task.done()
            await asyncio.sleep(0.01)
            flow.later(seconds=1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert flow.report.problem is not None
    assert flow.report.problem.reason is Reason.WORKER_DIED


async def test_what_is_left_is_told_while_it_is_read_and_nothing_after(
    bench: Bench, flow: StandInFlow
) -> None:
    with (one := of(flow)).owed():
        async with bench.pause:
            task = asyncio.create_task(one.run())
            while not one.left().paths_total:  # noqa: ASYNC110 as above
                await asyncio.sleep(0.01)
            left = one.left()
            assert left.bytes_total == sum(one.info.nar_size for one in CONTENTS)
        await task
    assert (one.left().paths_total, one.left().bytes_total) == (0, 0)
