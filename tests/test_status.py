import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent import status
from nodeagent.errors import NodeAgentError
from nodeagent.names import Phase, Reason
from tests.handmade import digest, path
from tests.statuses import IDLE, POURING, SCRUB, STATUS, agent, written


def refusal(url: str) -> str:
    with pytest.raises(NodeAgentError) as caught:
        status.fetch(url)
    assert caught.value.reason is Reason.AGENT_UNREACHABLE
    assert caught.value.message.startswith(f"no agent answers at {url}: ")
    assert "\n" not in caught.value.message
    return caught.value.message


def test_an_agent_is_asked() -> None:
    with agent(*written(STATUS)) as url:
        assert status.fetch(url) == STATUS


def test_where_no_agent_runs_that_is_told() -> None:
    assert "Connection refused" in refusal("http://127.0.0.1:1")


@pytest.mark.parametrize("body", ["", "<html>", "{}", "[]"])
def test_whatever_else_answers_is_no_agent(body: str) -> None:
    with agent(body) as url:
        assert "not an agent's" in refusal(url)


@pytest.mark.parametrize("url", ["nonsense://host", "http://host:99999"])
def test_an_impossible_address_is_told(url: str) -> None:
    refusal(url)


def test_an_idle_agent_is_shown_in_a_few_lines() -> None:
    assert list(status.lines(IDLE)) == [
        "node      node-1 (fleet ml, channel stable, x86_64-linux)",
        "ready     yes",
        "phase     Idle",
        f"wanted    {digest(7)} serial 7",
        f"published {digest(7)} serial 7",
        f"profile   ds env {path('ds')}",
        "profile   ml is in the release for aarch64-linux only",
    ]


def test_an_agent_in_trouble_is_shown_with_all_of_it() -> None:
    shown = list(status.lines(STATUS))
    assert "ready     no" in shown
    assert f"profile   ds env {path('ds')}  (gate shut)" in shown
    assert any(
        line.startswith("progress  25%, 250.0 MB of 1.0 GB, 3 of 12 paths") for line in shown
    )
    assert any(line.startswith(f"conflict  {path('conflict')} ") for line in shown)
    assert "scrub     250.0 MB of 1.0 GB, 3 of 12 paths, 1 damaged" in shown
    assert (
        f"repaired  {path('item')} at 2026-06-01T12:00:00Z: containers that started before and use "
        "ds may hold the old one until they are restarted (team/a/c, team/b/c, team/c/c and 2 more)"
        "; it is kept as /nix/kept/item"
    ) in shown
    assert any(line.startswith(f"repaired  {path('old')} ") for line in shown)
    assert "problem   PathDamaged: it vanished" in shown
    assert "policy    PolicyNotEnforced: none" in shown
    assert sum("it vanished" in line for line in shown) == 1


def test_a_scrub_that_ended_well_is_shown_as_such() -> None:
    done = SCRUB.model_copy(update={"running": False, "damaged": 0})
    shown = list(status.lines(IDLE.model_copy(update={"scrub": done})))
    assert shown[-1] == "scrub     ended: 250.0 MB of 1.0 GB, 3 of 12 paths"


def test_an_agent_without_pins_wants_and_has_nothing() -> None:
    shown = list(status.lines(IDLE.model_copy(update={"wanted": None, "published": None})))
    assert "wanted    nothing" in shown
    assert "published nothing" in shown


def test_progress_is_one_line() -> None:
    text = status.progress_text(STATUS)
    assert text == "25%, 250.0 MB of 1.0 GB, 3 of 12 paths, 25.0 MB/s, 30 s left"


def test_without_a_rate_no_time_is_promised() -> None:
    unknown = POURING.model_copy(update={"eta_seconds": None, "bytes_total": 0, "bytes_done": 0})
    text = status.progress_text(STATUS.model_copy(update={"progress": unknown}))
    assert text.startswith("100%, 0 B of 0 B")
    assert "left" not in text


def test_without_progress_the_phase_is_told() -> None:
    assert status.progress_text(IDLE) == Phase.IDLE


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_500_000, "1.5 MB"),
        (2_000_000_000, "2.0 GB"),
        (3e12, "3.0 TB"),
        (4e15, "4000.0 TB"),
    ],
)
def test_amounts_are_written_in_decimal_units(count: float, text: str) -> None:
    assert status.amount(count) == text


@given(st.integers(0, 1 << 60))
def test_an_amount_is_always_near_the_truth(count: int) -> None:
    number, unit = status.amount(count).split()
    factor = 1000 ** ["B", "kB", "MB", "GB", "TB"].index(unit)
    assert abs(float(number) * factor - count) <= 0.05 * factor + 1e-6 * count


def test_an_agent_that_pours_is_followed_until_it_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "POLL_SECONDS", 0.01)
    with agent(*written(STATUS, STATUS, IDLE)) as url:
        assert status.follow(url) == IDLE
    capsys.readouterr()


def test_an_agent_that_pours_nothing_is_not_followed() -> None:
    with agent(*written(IDLE, STATUS)) as url:
        assert status.follow(url) == IDLE
