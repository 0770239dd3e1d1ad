"""The agent's clock as a setting: a day ahead or behind, it costs a node nothing that it has."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from integration.site import Node, Site
from nodeagent import release
from nodeagent.names import Reason

SKEW = timedelta(hours=25)  # what is promoted for a day is over, or made in the future


@pytest.mark.parametrize(
    ("skew", "reason", "advice"),
    [
        (SKEW, Reason.RECORD_EXPIRED, "or set the clock"),
        (-SKEW, Reason.RECORD_NOT_YET_VALID, "it was made after that: set the clock"),
    ],
    ids=["ahead", "behind"],
)
async def test_a_clock_that_is_a_day_off_refuses_what_is_new_and_keeps_what_there_is(
    skew: timedelta, reason: Reason, advice: str, tmp_path: Path
) -> None:
    site = Site(tmp_path)
    node = Node(site, tmp_path / "node1")
    first, second = [await site.release(site.closure(version)) for version in ("1", "2")]
    site.promote(first)
    assert await node.once() == 0
    off = {"clock-skew-seconds": f"{skew.total_seconds():.0f}", "resync-seconds": "0.1"}
    node = Node(site, tmp_path / "node1", settings=off)
    async with node.agent():
        await node.until_published(first)
        now = datetime.now(UTC)
        site.pin(second, created_at=now, not_before=now, expires_at=now + timedelta(days=1))
        told = (await node.until_problem(reason)).problem
        assert told is not None
        assert advice in told.message
        assert "this node's clock says" in told.message
        assert abs(told.since - now - skew) < timedelta(hours=1)
        status = await node.status()
        assert status.published is not None
        assert status.published.release == release.digest_of(first)
        assert (await node.get("/readyz"))[0] == 200
    assert sum(one.get("reason") == reason for one in node.log) == 1
    node = Node(site, tmp_path / "node1")
    assert await node.once() == 0  # with the right clock
