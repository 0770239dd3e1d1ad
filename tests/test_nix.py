import contextlib
import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from nodeagent import storepath
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.nix import Nix, Registration, commands
from nodeagent.release import PathInfo
from tests.handmade import CACHE_KEY, path

SCHEMA: Final = """
    create table ValidPaths (
        id               integer primary key autoincrement not null,
        path             text unique not null,
        hash             text not null,
        registrationTime integer not null,
        deriver          text,
        narSize          integer,
        ultimate         integer,
        sigs             text,
        ca               text
    );
    create table Refs (
        referrer  integer not null,
        reference integer not null,
        primary key (referrer, reference),
        foreign key (referrer) references ValidPaths(id) on delete cascade,
        foreign key (reference) references ValidPaths(id) on delete restrict
    );
"""  # nix: src/libstore/schema.sql
LIB: Final = Registration(
    path("lib"), PathInfo(nar_hash=storepath.nar_hash(b"\1" * 32), nar_size=8, ca="fixed:x")
)
APP: Final = Registration(
    path("app"),
    PathInfo(
        nar_hash=storepath.nar_hash(b"\2" * 32),
        nar_size=16,
        references=(path("app"), path("lib")),
        deriver=path("app.drv"),
    ),
    ("cache-1:AA==", "cache-2:BB=="),
)


@dataclass(frozen=True)
class StandIn:
    """A program that notes how it was called and answers as told."""

    directory: Path

    @property
    def argv(self) -> tuple[str, ...]:
        return "/bin/sh", str(self.directory / "program"), str(self.directory)

    def answers(self, stdout: str = "", *, stderr: str = "", code: int = 0) -> None:
        self.directory.mkdir(exist_ok=True)
        (self.directory / "stdout").write_text(stdout)
        (self.directory / "stderr").write_text(stderr)
        (self.directory / "program").write_text(
            'cd "$1"; shift; printf "%s\\n" "$@" > argv; cat > stdin\n'
            'printf "%s" "$NIX_REMOTE|$NIX_CONFIG" > env\n'
            f"cat stdout; cat stderr >&2; exit {code}\n"
        )

    def hangs(self) -> None:
        self.directory.mkdir(exist_ok=True)
        (self.directory / "program").write_text("sleep 60\n")

    @property
    def called(self) -> list[str]:
        return (self.directory / "argv").read_text().splitlines()

    def noted(self, what: str) -> str:
        return (self.directory / what).read_text()


@pytest.fixture
def program(tmp_path: Path) -> StandIn:
    made = StandIn(tmp_path / "program")
    made.answers()
    return made


@pytest.fixture
def store(tmp_path: Path, program: StandIn) -> Nix:
    return Nix(tmp_path / "host", nix_store=program.argv, nix=program.argv)


@pytest.fixture
def filled(store: Nix) -> Nix:
    """Give a store whose database Nix could have made."""
    store.database.parent.mkdir(parents=True)
    store.database.with_name("schema").write_text("10")
    with contextlib.closing(sqlite3.connect(store.database)) as database, database:
        database.executescript(SCHEMA)
        for number, one in enumerate((LIB, APP), start=1):
            info = one.info
            digest = storepath.unbase32(info.nar_hash.removeprefix("sha256:")).hex()
            facts = (number, one.path, f"sha256:{digest}", info.deriver, info.nar_size)
            database.execute(
                "INSERT INTO ValidPaths VALUES (?, ?, ?, 0, ?, ?, NULL, ?, ?)",
                (*facts, " ".join(one.sigs) or None, info.ca),
            )
        database.executemany("INSERT INTO Refs VALUES (2, ?)", [[1], [2]])
    return store


async def failure(call: Callable[[], object]) -> NodeAgentError:
    with pytest.raises(NodeAgentError) as caught:
        await call()  # type: ignore[misc] # every call here is asynchronous
    return caught.value


def test_the_root_directory_is_the_stores_own_business() -> None:
    assert Nix(Path("/")).store == "auto"


def test_any_other_root_is_a_chroot_store(tmp_path: Path) -> None:
    assert Nix(tmp_path).store == str(tmp_path)


async def test_a_new_store_is_made_by_loading_nothing(store: Nix, program: StandIn) -> None:
    error = await failure(store.create)  # the stand-in makes none
    assert error.reason is Reason.STORE_UNUSABLE
    assert program.called == ["--store", str(store.root), "--load-db"]
    assert program.noted("stdin") == ""


async def test_a_store_that_is_there_is_not_made(filled: Nix, program: StandIn) -> None:
    await filled.create()
    assert not (program.directory / "argv").exists()


@pytest.mark.parametrize("schema", ["9", "11", ""])
async def test_a_schema_that_we_do_not_know_is_refused(filled: Nix, schema: str) -> None:
    filled.database.with_name("schema").write_text(schema)
    error = await failure(filled.create)
    assert error.reason is Reason.STORE_UNUSABLE
    assert f"schema {schema}, this nodeagent knows 10" in error.message


def test_what_is_valid_is_read_with_its_hash(filled: Nix) -> None:
    assert filled.valid() == {one.path: one.info.nar_hash for one in (LIB, APP)}


def test_all_that_is_known_of_some_paths_is_read(filled: Nix) -> None:
    assert filled.registered([APP.path, path("unknown"), LIB.path]) == [APP, LIB]


def test_without_a_database_nothing_is_valid_and_none_is_made(store: Nix) -> None:
    store.database.parent.mkdir(parents=True)
    with pytest.raises(NodeAgentError, match="cannot be used") as caught:
        store.valid()
    assert caught.value.reason is Reason.STORE_UNUSABLE
    assert not store.database.exists()


def test_a_broken_database_is_told(filled: Nix) -> None:
    filled.database.write_bytes(b"no database" * 1000)
    with pytest.raises(NodeAgentError, match="restore the file") as caught:
        filled.registered([APP.path])
    assert caught.value.reason is Reason.STORE_UNUSABLE


async def test_a_batch_is_registered_as_nix_dumps_it(filled: Nix, program: StandIn) -> None:
    await filled.register([LIB, APP])
    assert program.called == ["--store", str(filled.root), "--load-db"]
    assert program.noted("stdin").splitlines() == [
        *(LIB.path, "01" * 32, "8", "", "0"),
        *(APP.path, "02" * 32, "16", path("app.drv"), "2", *APP.info.references),
    ]


async def test_what_loading_drops_is_put_back(filled: Nix) -> None:
    with contextlib.closing(sqlite3.connect(filled.database)) as database, database:
        database.execute("UPDATE ValidPaths SET sigs = NULL, ca = NULL")
    await filled.register([LIB, APP])
    assert filled.registered([LIB.path, APP.path]) == [LIB, APP]


async def test_programs_run_with_our_own_settings(filled: Nix, program: StandIn) -> None:
    await filled.register([LIB])
    remote, config = program.noted("env").split("|")
    assert remote == ""
    assert "substituters =" in config.splitlines()[2]


async def test_invalid_paths_are_listed(store: Nix, program: StandIn) -> None:
    program.answers(f"{path('app')}\n{path('lib')}\n")
    assert await store.invalid([path("app"), path("lib")]) == (path("app"), path("lib"))
    expected = ["--check-validity", "--print-invalid", path("app"), path("lib")]
    assert program.called == ["--store", str(store.root), *expected]


HASHES: Final = {
    "Nix 2.8": "sha256:" + storepath.base32(b"\2" * 32),
    "SRI": "sha256-AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
    "hex": "sha256:" + "02" * 32,
}


def entry(nar_hash: str) -> dict[str, object]:
    return {
        "narHash": nar_hash,
        "narSize": 16,
        "references": [path("lib"), path("app")],
        "deriver": path("app.drv"),
        "signatures": list(APP.sigs),
        "registrationTime": 1,
    }


@pytest.mark.parametrize("spelling", HASHES)
async def test_a_closure_is_read_from_a_list(store: Nix, program: StandIn, spelling: str) -> None:
    program.answers(json.dumps([{"path": APP.path, "valid": True} | entry(HASHES[spelling])]))
    assert await store.closure([APP.path]) == [APP]
    expected = ["path-info", "--json", "--recursive", APP.path]
    assert program.called == ["--store", str(store.root), *expected]


async def test_a_closure_is_read_from_a_dictionary(store: Nix, program: StandIn) -> None:
    lib = {"narHash": LIB.info.nar_hash, "narSize": 8, "references": [], "ca": "fixed:x"}
    program.answers(json.dumps({APP.path: entry(HASHES["SRI"]), LIB.path: lib}))
    assert await store.closure([APP.path]) == [APP, LIB]


@pytest.mark.parametrize(
    "told", [[{"path": APP.path, "valid": False}], {APP.path: None}, {APP.path: {}}]
)
async def test_a_root_that_is_not_valid_is_told(
    store: Nix, program: StandIn, told: list[object] | Mapping[str, object]
) -> None:
    program.answers(json.dumps(told))
    error = await failure(lambda: store.closure([APP.path]))
    assert error.reason is Reason.CLOSURE_INCOMPLETE
    assert APP.path in error.message


async def test_a_hash_that_is_not_sha256_is_refused(store: Nix, program: StandIn) -> None:
    program.answers(json.dumps({APP.path: entry("sha512:00")}))
    assert (await failure(lambda: store.closure([APP.path]))).reason is Reason.STORE_UNUSABLE


async def test_a_program_that_fails_is_quoted(store: Nix, program: StandIn) -> None:
    program.answers(stderr="warning: slow\nerror: no such thing\n", code=1)
    error = await failure(lambda: store.register([LIB]))
    assert error.reason is Reason.NIX_FAILED
    assert error.message.endswith("failed: warning: slow; error: no such thing")
    assert "--load-db" in error.message


async def test_a_program_that_fails_silently_is_told_by_its_code(
    store: Nix, program: StandIn
) -> None:
    program.answers(code=3)
    assert (await failure(lambda: store.invalid([]))).message.endswith("failed: exit code 3")


async def test_a_program_that_hangs_is_ended(
    store: Nix, program: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "TIMEOUT_SECONDS", 0.1)
    program.hangs()
    error = await failure(lambda: store.invalid([]))
    assert error.reason is Reason.NIX_FAILED
    assert "no end within 0 s" in error.message


async def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    store = Nix(tmp_path, nix_store=("/nowhere/nix-store",))
    error = await failure(lambda: store.invalid([]))
    assert error.reason is Reason.SETTING_INVALID
    assert "/nowhere/nix-store" in error.message


def test_signatures_cover_path_hash_size_and_references() -> None:
    facts = f"1;{APP.path};{APP.info.nar_hash};16;{path('app')},{path('lib')}"
    expected = ";".join([*facts.split(";")[:4], ",".join(sorted(APP.info.references))])
    assert APP.fingerprint.decode() == expected
    assert CACHE_KEY.sign_text(APP.fingerprint).startswith("cache-1:")
