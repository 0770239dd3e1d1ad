import asyncio
import json
import os
import signal
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, get_args

import pytest
import structlog
from pydantic import BaseModel
from pydantic_settings import CliApp, CliSubCommand

from nodeagent import cli, pins, promote
from nodeagent.cli import NodeAgent, signals
from nodeagent.config import AgentSettings
from nodeagent.names import Reason
from nodeagent.promote import Promotion
from tests.handmade import NOW, RELEASE_KEY, Item, manifest, path
from tests.statuses import IDLE, STATUS, agent, written

Output = pytest.CaptureFixture[str]


def commands(model: type[BaseModel] = NodeAgent, *words: str) -> Iterator[tuple[str, ...]]:
    """List every sub-command, by its words."""
    for name, one in model.model_fields.items():
        inner = [kind for kind in get_args(one.annotation) if isinstance(kind, type)]
        if any("_CliSubCommand" in repr(mark) for mark in one.metadata):
            yield (*words, name)
            yield from commands(inner[0], *words, name)


def model_of(words: Sequence[str]) -> type[BaseModel]:
    model: type[BaseModel] = NodeAgent
    for word in words:
        model = get_args(model.model_fields[word].annotation)[0]
    return model


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("NODEAGENT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    yield
    structlog.reset_defaults()


def code(*argv: str) -> int:
    """Run the command line in here; give what the shell would see."""
    try:
        return cli.run(argv)
    except SystemExit as end:
        return int(end.code or 0)


def complaint(capsys: Output) -> str:
    """Give the one line that was said, on stderr."""
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("nodeagent: ")
    return said.err


@pytest.mark.parametrize("argv", [["--help"], ["-h"], []])
def test_help_shows_every_command_and_what_it_is_for(argv: list[str], capsys: Output) -> None:
    assert code(*argv) == 0
    text = capsys.readouterr().out
    for name, one in NodeAgent.model_fields.items():
        assert f"    {name} " in text or f"  --{name} " in text
        assert one.description
        assert one.description in text


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_help_of_a_command_shows_its_flags_and_what_they_mean(
    words: tuple[str, ...], capsys: Output
) -> None:
    assert code(*words, "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    fields = {} if words == ("release",) else model_of(words).model_fields
    for name, one in fields.items():
        flag = name.upper() if "CliPositionalArg" in repr(one.metadata) else name.replace("_", "-")
        assert flag in text
        assert one.description
        assert " ".join(one.description.split()) in text, name


@pytest.mark.parametrize(
    "argv",
    [
        ["nonsense"],
        ["status", "--nonsense"],
        ["status", "--output", "xml"],
        ["agent", "--port", "x"],
        ["agent", "--port", "70000"],
        ["agent", "--resync-seconds", "0"],
        ["promote", "--percent", "101"],
        ["promote", "--not-before", "2026-01-01T00:00:00"],  # of which time zone?
        ["serve"],
        ["release"],
    ],
)
def test_what_nobody_can_understand_is_a_usage_error(argv: list[str], capsys: Output) -> None:
    assert code(*argv) == cli.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert "nodeagent" in said.err


@pytest.mark.parametrize("value", ["x", "tcp://10.0.0.1:9741"])
def test_a_bad_variable_is_a_usage_error_in_one_line(
    value: str, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODEAGENT_PORT", value)
    assert code("agent") == cli.USAGE
    assert "port" in complaint(capsys)


@pytest.mark.parametrize("value", ["main", "main=", "=http://a", "main=ftp://a", '{"a": "b"}'])
def test_a_variable_that_names_no_cache_is_a_usage_error(
    value: str, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODEAGENT_CACHES", value)
    assert code("agent") == cli.USAGE
    assert "write NAME=ADDRESS" in complaint(capsys)


FAILURES: Final = {
    "no agent": (["status", "--url", "http://127.0.0.1:1"], Reason.AGENT_UNREACHABLE),
    "no keys": (["agent", "--release-keys", "/nowhere"], Reason.SETTING_INVALID),
    "no pins": (["rollback", "--pins", "/nowhere/pins.json"], Reason.PINS_INVALID),
    "no release": (["promote"], Reason.SETTING_INVALID),
    "no share": (["promote", "--percent", "5", "--reason", "why"], Reason.SETTING_INVALID),
    "no cache": (["serve", "/nowhere", "--port", "0"], Reason.SETTING_INVALID),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_one_line_that_names_its_reason(case: str, capsys: Output) -> None:
    argv, reason = FAILURES[case]
    assert code(*argv) == cli.FAILED
    assert complaint(capsys).startswith(f"nodeagent: {reason}: ")


SAMPLES: dict[str, tuple[list[str], str]] = {
    "caches": (
        ["--caches", "a=http://a", "--caches", "b=http://b"],
        "a=http://a,b=http://b",
    ),
    "durable": (["--no-durable"], "false"),
    "share_store": (["--share-store"], "true"),
    "once": (["--once"], "true"),
    "idle_io": (["--idle-io"], "true"),
    "executor": (["--executor", "nix"], "nix"),
    "kubernetes": (["--kubernetes", "on"], "on"),
    "startup_taint": (["--startup-taint"], "true"),
}
SAMPLES |= {
    name: ([f"--{name.replace('_', '-')}", "7"], "7")
    for name in AgentSettings.model_fields
    if name not in SAMPLES
}


def parsed(*argv: str) -> AgentSettings:
    """Read settings as the command does, without running it."""
    seen: list[AgentSettings] = []

    class Probe(AgentSettings):
        def cli_cmd(self) -> None:
            seen.append(self)

    class Root(NodeAgent):
        probe: CliSubCommand[Probe]

    CliApp.run(Root, cli_args=["probe", *argv])
    return seen[0]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_flag_and_its_variable_mean_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flags, variable = SAMPLES[name]
    by_flag = getattr(parsed(*flags), name)
    assert by_flag != getattr(parsed(), name)
    monkeypatch.setenv(f"NODEAGENT_{name.upper()}", variable)
    assert getattr(parsed(), name) == by_flag


def test_a_flag_wins_over_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODEAGENT_CHANNEL", "canary")
    assert parsed("--channel", "stable").channel == "stable"


def test_other_commands_have_their_variables_too(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODEAGENT_URL", "http://127.0.0.1:2")
    assert code("status") == cli.FAILED
    assert "http://127.0.0.1:2" in complaint(capsys)


def test_the_status_of_an_agent_is_printed(capsys: Output) -> None:
    with agent(*written(STATUS)) as url:
        assert code("status", "--url", f"{url}/") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("node      node-1")
    assert lines[-1] == "problem   PathDamaged: it vanished"


def test_the_status_of_an_agent_is_printed_as_json(capsys: Output) -> None:
    with agent(*written(IDLE)) as url:
        assert code("status", "--url", url, "--output", "json") == 0
    assert json.loads(capsys.readouterr().out) == IDLE.model_dump(mode="json", by_alias=True)


@pytest.fixture
def pinned(tmp_path: Path) -> Path:
    """Give pins with two records."""
    file = tmp_path / "pins.json"
    for name in ("one", "two"):
        one = Promotion(manifest(Item(path(name))), "ml", "stable", ["main"], timedelta(days=1))
        promote.promote(file, one, RELEASE_KEY, NOW)
    return file


def percent(file: Path) -> int:
    return pins.parse(file.read_bytes()).channels["stable"].percent


def test_a_rollback_is_a_rollout_of_0_percent(pinned: Path, capsys: Output) -> None:
    assert code("rollback", "--pins", str(pinned)) == 0
    assert percent(pinned) == 0
    assert capsys.readouterr().out == "channel stable: back to the previous record\n"


def test_promoting_without_a_release_moves_the_rollout(pinned: Path, capsys: Output) -> None:
    assert code("promote", "--pins", str(pinned), "--percent", "25") == 0
    assert percent(pinned) == 25
    assert capsys.readouterr().out == "channel stable: 25 % of the nodes\n"


def test_commands_that_print_leave_stderr_alone(pinned: Path, capsys: Output) -> None:
    code("rollback", "--pins", str(pinned))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_work_clean_up(number: signal.Signals) -> None:
    done: list[str] = []

    async def work() -> None:
        try:
            signal.raise_signal(number)
            await asyncio.sleep(60)
        finally:
            done.append("cleaned up")

    assert signals.run(work()) is None
    assert done == ["cleaned up"]


def test_work_that_ends_gives_its_result() -> None:
    async def work() -> int:
        return 7

    assert signals.run(work()) == 7


def agent_flags(directory: Path) -> list[str]:
    """Settings of an agent without a network, on a store that Nix made earlier."""
    database = directory / "host/nix/var/nix/db"
    database.mkdir(parents=True)
    (database / "db.sqlite").touch()
    (database / "schema").write_text("10")
    (directory / "release.pub").write_text(RELEASE_KEY.public)
    (directory / "cache.pub").write_text("")
    facts: dict[str, Any] = {
        "pins": directory / "pins.json",
        "store-root": directory / "host",
        "state-dir": directory / "state",
        "run-dir": directory / "run",
        "release-keys": directory / "release.pub",
        "cache-keys": directory / "cache.pub",
        "host": "127.0.0.1",
        "port": 0,
    }
    return [word for name, value in facts.items() for word in (f"--{name}", str(value))]


def test_an_agent_that_may_try_once_fails_without_pins(tmp_path: Path, capsys: Output) -> None:
    assert code("agent", "--once", *agent_flags(tmp_path)) == cli.FAILED
    said = capsys.readouterr()
    assert said.out == ""
    lines = [json.loads(line) for line in said.err.splitlines()]
    assert [line.get("reason") for line in lines] == [None, Reason.PINS_MISSING]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
