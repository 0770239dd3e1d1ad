import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nodeagent import log, promote
from nodeagent.agent.loop import Labels, Loop
from nodeagent.config import AgentSettings
from nodeagent.errors import NodeAgentError
from nodeagent.keys import parse_public
from nodeagent.ledger import Held, Ledger
from nodeagent.metrics import Metrics
from nodeagent.names import Phase, Reason
from nodeagent.promote import Promotion
from nodeagent.realise.run import Tally
from nodeagent.report import Report
from nodeagent.select import Node
from tests.handmade import NOW, RELEASE_KEY, Item, manifest, path


class StandInFlow:
    """A pass that does what the test says, a step each time it is called."""

    def __init__(self, directory: Path, *steps: Exception | None) -> None:
        self.ledger, self.report, self.metrics = Ledger(directory), Report(), Metrics()
        self.tally, self.steps, self.brought = Tally(), list(steps), list[Held]()

    async def bring(self, target: Held, _: int) -> None:
        self.brought.append(target)
        step = self.steps.pop(0) if self.steps else None
        if step is not None:
            raise step


def make(tmp_path: Path, *steps: Exception | None) -> tuple[Loop, Any]:
    pins = tmp_path / "pins.json"
    for channel in ("stable", "canary"):
        promotion = Promotion(
            manifest(Item(path("ds"))), "ml", channel, ["main"], timedelta(days=1)
        )
        promote.promote(pins, promotion, RELEASE_KEY, datetime.now(UTC))
    flow: Any = StandInFlow(tmp_path / "state", *steps)
    settings = AgentSettings(pins=pins, retry_seconds=1.0, retry_max_seconds=3.0)
    return Loop(
        settings, Node("n", "ml", "stable", parse_public([RELEASE_KEY.public])), flow, log.get()
    ), flow


@pytest.fixture
async def owned(tmp_path: Path) -> None:
    (tmp_path / "state/releases").mkdir(parents=True)


@pytest.mark.usefixtures("owned")
async def test_a_bug_in_a_pass_is_a_problem_that_is_told_and_tried_again(tmp_path: Path) -> None:
    loop, flow = make(tmp_path, ValueError("oops"))
    await loop.turn()
    assert flow.report.problem.reason is Reason.INTERNAL_ERROR
    assert "oops" in flow.report.problem.message
    phases = [flow.report.phase]
    await loop.turn()
    phases.append(flow.report.phase)
    assert flow.report.problem is None
    assert phases == [Phase.RETRYING, Phase.IDLE]


@pytest.mark.usefixtures("owned")
async def test_the_first_failure_of_a_group_is_told(tmp_path: Path) -> None:
    failure = NodeAgentError(Reason.NIX_FAILED, "it failed")
    loop, flow = make(tmp_path, ExceptionGroup("tasks", [failure]))
    assert not await loop.once()
    assert flow.report.problem.reason is Reason.NIX_FAILED


@pytest.mark.usefixtures("owned")
async def test_waits_double_up_to_a_bound_and_end_with_a_success(tmp_path: Path) -> None:
    failure = NodeAgentError(Reason.NIX_FAILED, "it failed")
    loop, flow = make(tmp_path, failure, failure, failure, None)
    waits = []
    for _ in range(4):
        await loop.turn()
        waits.append(loop.pause())
    assert waits == [1.0, 2.0, 3.0, loop.settings.resync_seconds]
    assert len(flow.brought) == 4


@pytest.mark.usefixtures("owned")
async def test_a_full_disk_under_the_state_does_not_end_the_loop(tmp_path: Path) -> None:
    loop, flow = make(tmp_path)
    (tmp_path / "state").rename(tmp_path / "gone")
    await loop.turn()
    assert flow.report.problem is not None
    (tmp_path / "gone").rename(tmp_path / "state")
    await loop.turn()
    assert flow.report.problem is None


@pytest.mark.usefixtures("owned")
async def test_news_ends_the_wait(tmp_path: Path) -> None:
    loop, flow = make(tmp_path)
    running = asyncio.create_task(loop.forever())
    async with asyncio.timeout(10):
        while len(flow.brought) < 3:
            loop.wake()
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])


def says(**labels: str) -> Labels:
    """Make up a node's labels: `channel` and others."""

    async def tell() -> Mapping[str, str]:
        return {f"nodeagent.dev/{name}": value for name, value in labels.items()}

    return tell


async def no_answer() -> None:
    """Stand for an API server that is away."""


@pytest.mark.usefixtures("owned")
async def test_the_channel_is_the_one_of_the_nodes_label(tmp_path: Path) -> None:
    loop, flow = make(tmp_path)
    for labels, channel in ((says(channel="canary"), "canary"), (says(ready="true"), "stable")):
        loop.labels = labels
        await loop.turn()
        assert flow.brought.pop().channel == loop.node.channel == channel


@pytest.mark.usefixtures("owned")
async def test_a_label_that_changes_moves_the_node_at_the_next_turn(tmp_path: Path) -> None:
    loop, flow = make(tmp_path)
    for channel in ("stable", "canary", "stable"):
        loop.labels = says(channel=channel)
        await loop.turn()
    assert [held.channel for held in flow.brought] == ["stable", "canary", "stable"]


@pytest.mark.usefixtures("owned")
async def test_a_channel_that_nobody_promoted_to_is_a_problem(tmp_path: Path) -> None:
    loop, flow = make(tmp_path)
    loop.labels = says(channel="nobody")
    await loop.turn()
    assert flow.report.problem.reason is Reason.CHANNEL_UNKNOWN
    assert (flow.report.phase, flow.brought) == (Phase.WAITING, [])


@pytest.mark.usefixtures("owned")
async def test_without_an_answer_a_node_keeps_the_channel_it_had(tmp_path: Path) -> None:
    loop, flow = make(tmp_path)
    loop.labels = says(channel="canary")
    await loop.turn()
    flow.ledger.publish(flow.brought[0], "boot", NOW)
    restarted, flow = make(tmp_path)
    restarted.labels = no_answer
    async with flow.ledger.owned(lambda: None):
        await restarted.turn()
    assert [held.channel for held in flow.brought] == ["canary"]


@pytest.mark.usefixtures("owned")
async def test_without_an_answer_a_new_node_takes_no_default(tmp_path: Path) -> None:
    loop, flow = make(tmp_path)
    loop.labels = no_answer
    await loop.turn()
    assert loop.pause() == loop.settings.retry_seconds  # nobody tells when it is back
    assert flow.report.problem.reason is Reason.API_UNREACHABLE
    assert (flow.report.phase, flow.brought) == (Phase.WAITING, [])
    loop.labels = says(channel="canary")
    await loop.turn()
    assert [held.channel for held in flow.brought] == ["canary"]
    assert flow.report.problem is None


@pytest.mark.usefixtures("owned")
async def test_outside_a_cluster_the_channel_is_the_one_that_was_set(tmp_path: Path) -> None:
    loop, flow = make(tmp_path)
    await loop.turn()
    assert [held.channel for held in flow.brought] == ["stable"]
