"""How far long work is, on a terminal and elsewhere."""

import json
import sys

import pytest

from nodeagent import log
from nodeagent.bake.build import Tally
from nodeagent.cli import progress


def tallies(count: int) -> list[Tally]:
    return [Tally(count, done, count * 1000, done * 1000) for done in range(count + 1)]


def test_without_a_terminal_the_first_and_the_last_step_are_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.configure()
    with progress.shown("bake") as show:
        for tally in tallies(100):
            show(tally)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["paths_done"]) for line in lines] == [("bake", 0), ("bake", 100)]
    assert lines[-1]["bytes_done"] == lines[-1]["bytes"] == 100_000


def test_work_that_takes_long_says_so_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log.configure()
    monkeypatch.setattr(progress, "SAY_EVERY_SECONDS", 0.0)
    with progress.shown("bake") as show:
        for tally in tallies(4):
            show(tally)
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_on_a_terminal_there_is_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress.shown("bake") as show:
        for tally in tallies(3):
            show(tally)
    shown = capsys.readouterr()
    assert "3/3 paths" in shown.err
    assert shown.out == ""
