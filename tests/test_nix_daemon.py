import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.errors import NodeAgentError
from nodeagent.nix import Nix
from tests.test_nix import APP, LIB, StandIn


@pytest.fixture
def program(tmp_path: Path) -> StandIn:
    made = StandIn(tmp_path / "program")
    made.answers()
    return made


@pytest.fixture
def store(tmp_path: Path, program: StandIn) -> Nix:
    return Nix(tmp_path / "host", nix_store=program.argv, nix=program.argv)


async def test_a_daemon_is_asked_at_its_socket(store: Nix, program: StandIn) -> None:
    owned = replace(store, daemon=Path("/run/socket"))
    await owned.copy("file:///cache", [LIB.path], ["a:A=", "b:B="])
    assert program.called == [
        "copy", "--from", "file:///cache", "--to", "unix:///run/socket",
        "--option", "trusted-public-keys", "a:A= b:B=", "--option", "require-sigs", "true",
        LIB.path,
    ]  # fmt: skip


async def test_a_daemon_makes_its_database_when_it_is_asked(store: Nix, program: StandIn) -> None:
    with contextlib.suppress(NodeAgentError):  # the stand-in makes none
        await replace(store, daemon=Path("/run/socket")).create()
    assert program.called == ["--store", "unix:///run/socket", "--check-validity"]


@pytest.mark.parametrize(
    "told",
    [
        [{"path": LIB.path, "narHash": LIB.info.nar_hash}, {"path": APP.path, "valid": False}],
        {LIB.path: {"narHash": LIB.info.nar_hash}, APP.path: None},
    ],
)
async def test_what_a_cache_offers_is_read_in_both_forms(
    store: Nix, program: StandIn, told: object
) -> None:
    program.answers(json.dumps(told))
    offered = await store.offered("file:///cache", [LIB.path, APP.path])
    assert offered == {LIB.path: LIB.info.nar_hash}
