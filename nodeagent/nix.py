"""The one module that speaks Nix: argv in, typed values out.

The store is a *chroot store* under `root`: the host's files, whatever the agent's own image
has at /nix. Reading the database asks SQLite itself (schema 10, the same from Nix 2.0 on);
writing goes through `nix-store --load-db`, and what that drops (signatures, `ca`) is put back.
"""

import asyncio
import base64
import contextlib
import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nodeagent import disk, keys, process, storepath
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.release import PathInfo

SCHEMA: Final = "10"
TIMEOUT_SECONDS: Final = 300.0
COPY_SECONDS: Final = 6 * 3600.0  # Nix ends what stalls by itself.
BUSY_SECONDS: Final = 60.0
_SETTINGS: Final = "build-users-group =\nexperimental-features = nix-command\nsubstituters =\n"

_Dropped = tuple[str | None, str | None, str, str]  # sigs, ca, path, hash as the database has it


@dataclass(frozen=True)
class Registration:
    """One path to register: its facts and the signatures that vouch for them."""

    path: str
    info: PathInfo
    sigs: Sequence[str] = ()

    @property
    def fingerprint(self) -> bytes:
        """What its signatures cover."""
        info = self.info
        return keys.fingerprint(self.path, info.nar_hash, info.nar_size, info.references)


@dataclass(frozen=True)
class Nix:
    """Nix on the store under `root`; `argv` prefixes let a test stand in for the programs."""

    root: Path
    nix_store: Sequence[str] = ("nix-store",)
    nix: Sequence[str] = ("nix",)
    env: Mapping[str, str] = field(
        default_factory=lambda: {"NIX_CONFIG": _SETTINGS, "NIX_REMOTE": ""}
    )
    daemon: Path | None = None  # the socket of the one that owns the store

    @property
    def store(self) -> str:
        """The store's address for `--store`."""
        if self.daemon is not None:
            return f"unix://{self.daemon.absolute()}"
        # auto: the store itself where it may be written, else the daemon that owns it.
        return "auto" if self.root == Path("/") else str(self.root.absolute())

    @property
    def database(self) -> Path:
        """Where the database of valid paths lies."""
        return self.root / "nix/var/nix/db/db.sqlite"

    def _cut_short(self, schema: Path) -> bool:
        """Tell whether the power failed soon after Nix made the store: its schema is empty, too."""
        if schema.read_bytes():
            return False
        try:
            return not self.valid()
        except NodeAgentError:  # no tables yet
            return True

    @property
    def _notes(self) -> Path:
        return self.root / "nix/var/nodeagent/registering.json"

    async def create(self) -> None:
        """Make an empty store if there is none; check that its schema is one we know."""
        file = self.database.with_name("schema")
        if not self.database.exists() or not file.exists() or self._cut_short(file):
            file.unlink(missing_ok=True)
            # A daemon makes its database when it is first asked, and takes no dump.
            ask = "--load-db" if self.daemon is None else "--check-validity"
            await self._call(self.nix_store, ask)
        schema = file.read_text().strip() if file.exists() else "unknown"
        if schema != SCHEMA:
            raise NodeAgentError(
                Reason.STORE_UNUSABLE,
                f"the store under {self.root} has database schema {schema}, this nodeagent knows "
                f"{SCHEMA}; upgrade nodeagent",
            )
        await asyncio.to_thread(self._resume)

    def valid(self) -> dict[str, str]:
        """Give every registered path with its narHash."""
        with self._database() as database:
            rows = database.execute("SELECT path, hash FROM ValidPaths").fetchall()
        return {path: _narinfo_hash(digest) for path, digest in rows}

    def registered(self, paths: Iterable[str]) -> list[Registration]:
        """Give what the database holds of these paths; unknown ones are left out."""
        found = []
        with self._database() as database:
            for path in paths:
                row = database.execute(_FACTS, [path]).fetchone()
                if row is not None:
                    references = database.execute(_REFERENCES, [row[0]]).fetchall()
                    found.append(_from_row(path, row, [one for (one,) in references]))
        return found

    async def register(self, batch: Sequence[Registration]) -> None:
        """Register a reference-closed batch of paths that lie in the store.

        A path that is registered already takes the batch's facts: `--load-db` overwrites.
        """
        text = "".join(_dump_entry(one) for one in batch)
        rows = [_dropped(one) for one in batch]
        await asyncio.to_thread(self._note, rows)
        await self._call(self.nix_store, "--load-db", stdin=text.encode())
        await asyncio.to_thread(self._restore, rows)

    def _note(self, rows: Sequence[_Dropped]) -> None:
        """Write down what `--load-db` will drop: whoever ends before it is put back is resumed."""
        self._notes.parent.mkdir(parents=True, exist_ok=True)
        with disk.usable(self._notes), self._notes.open("w") as notes:
            json.dump(rows, notes)
            notes.flush()
            os.fsync(notes.fileno())

    def _restore(self, rows: Sequence[_Dropped]) -> None:
        """Put back what `--load-db` drops, in one transaction; rows of other contents are left."""
        with self._database() as database:
            database.executemany(
                "UPDATE ValidPaths SET sigs = ?, ca = ? WHERE path = ? AND hash = ?", rows
            )
        self._notes.unlink(missing_ok=True)

    def _resume(self) -> None:
        """End the registration that an earlier agent was killed in."""
        try:
            rows = json.loads(self._notes.read_bytes())
        except FileNotFoundError:
            return
        except ValueError:  # killed in the middle of the notes: `--load-db` was never started
            self._notes.unlink()
            return
        self._restore(rows)

    async def offered(self, cache: str, paths: Sequence[str]) -> dict[str, str]:
        """Give the narHash that a cache tells of each path; those it lacks are left out."""
        argv = [*self.nix, "path-info", "--store", cache, "--json", *paths]
        done = await self._run(argv, COPY_SECONDS)
        return {
            path: _narinfo_hash(facts["narHash"])
            for path, facts in _by_path(done.stdout)
            if facts and facts.get("valid") is not False
        }

    async def copy(self, cache: str, paths: Sequence[str], trusted: Sequence[str]) -> None:
        """Let the store's owner fetch paths and all that they need, signed by a trusted key."""
        # A cache has no daemon in between: `copy` has its addresses instead of `--store`.
        options = {"trusted-public-keys": " ".join(trusted), "require-sigs": "true"}
        spelled = [part for key, value in options.items() for part in ("--option", key, value)]
        argv = [*self.nix, "copy", "--from", cache, "--to", self.store, *spelled, *paths]
        await self._run(argv, COPY_SECONDS)

    async def invalid(self, paths: Iterable[str]) -> tuple[str, ...]:
        """List those that are not valid in the store."""
        argv = ["--check-validity", "--print-invalid", *paths]
        return tuple((await self._call(self.nix_store, *argv)).stdout.decode().split())

    async def closure(self, roots: Iterable[str]) -> list[Registration]:
        """Give the whole closure of `roots` with everything that is known of each path."""
        argv = ["path-info", "--json", "--recursive", *roots]
        told = (await self._call(self.nix, *argv)).stdout
        return [_registration(path, facts) for path, facts in _by_path(told)]

    async def _call(
        self, program: Sequence[str], *arguments: str, stdin: bytes = b""
    ) -> process.Completed:
        return await self._run(
            [*program, "--store", self.store, *arguments], TIMEOUT_SECONDS, stdin
        )

    async def _run(
        self, argv: Sequence[str], limit: float, stdin: bytes = b""
    ) -> process.Completed:
        try:
            done = await process.run(argv, timeout=limit, stdin=stdin, env=self.env)
        except TimeoutError:
            raise _failed(argv, f"no end within {limit:.0f} s") from None
        if done.code != 0:
            refused = disk.recognised(done.complaint, self.root)
            raise refused or _failed(argv, done.complaint or f"exit code {done.code}")
        return done

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        address = f"{self.database.absolute().as_uri()}?mode=rw"  # never make an empty one
        try:
            with (
                contextlib.closing(sqlite3.connect(address, BUSY_SECONDS, uri=True)) as database,
                database,
            ):
                yield database
        except sqlite3.Error as error:
            raise disk.recognised(str(error), self.root) or NodeAgentError(
                Reason.STORE_UNUSABLE,
                f"the Nix database {self.database} cannot be used: {error}; "
                "check the disk, or restore the file from a backup",
            ) from None


_FACTS: Final = "SELECT id, hash, narSize, deriver, ca, sigs FROM ValidPaths WHERE path = ?"
_REFERENCES: Final = (
    "SELECT path FROM Refs JOIN ValidPaths ON reference = id WHERE referrer = ? ORDER BY path"
)


def _from_row(path: str, row: tuple[Any, ...], references: list[str]) -> Registration:
    _, digest, size, deriver, ca, sigs = row
    info = PathInfo(
        nar_hash=_narinfo_hash(digest),
        nar_size=size,
        references=tuple(references),
        ca=ca,
        deriver=deriver or None,
    )
    return Registration(path, info, tuple((sigs or "").split()))


def _dropped(one: Registration) -> _Dropped:
    digest = f"sha256:{_hex(one)}"
    return " ".join(sorted(one.sigs)) or None, one.info.ca, one.path, digest


def _hex(one: Registration) -> str:
    return storepath.unbase32(one.info.nar_hash.removeprefix("sha256:")).hex()


def _dump_entry(one: Registration) -> str:
    """Write a path as `nix-store --dump-db` does."""
    facts = [one.path, _hex(one), one.info.nar_size, one.info.deriver or ""]
    lines = [*facts, len(one.info.references), *one.info.references]
    return "".join(f"{line}\n" for line in lines)


def _by_path(told: bytes) -> list[tuple[str, Any]]:
    """Read `nix path-info --json`: a list up to Nix 2.18, by path since."""
    data: Any = json.loads(told)
    return list(data.items()) if isinstance(data, dict) else [(one["path"], one) for one in data]


def _registration(path: str, entry: Mapping[str, Any]) -> Registration:
    """Read one item of `nix path-info --json`, as Nix 2.8 to 2.26 write it."""
    if not entry or entry.get("valid") is False:
        raise NodeAgentError(
            Reason.CLOSURE_INCOMPLETE, f"{path} is not valid in the store; build or copy it there"
        )
    info = PathInfo(
        nar_hash=_narinfo_hash(entry["narHash"]),
        nar_size=entry["narSize"],
        references=tuple(sorted(entry["references"])),
        ca=entry.get("ca"),
        deriver=entry.get("deriver"),
    )
    return Registration(path, info, tuple(entry.get("signatures", ())))


def _narinfo_hash(text: str) -> str:
    """Respell a SHA-256 (hex, SRI or Nix base 32) as narinfos do."""
    algorithm, encoded = re.split("[-:]", text, maxsplit=1)
    if algorithm != "sha256":
        raise NodeAgentError(Reason.STORE_UNUSABLE, f"a NAR hash that is not SHA-256: {text}")
    match len(encoded):
        case 64:
            return storepath.nar_hash(bytes.fromhex(encoded))
        case 52:
            return text
        case _:
            return storepath.nar_hash(base64.b64decode(encoded))


def _failed(argv: Sequence[str], cause: str) -> NodeAgentError:
    shown = " ".join(argv[:6])
    return NodeAgentError(Reason.NIX_FAILED, f"`{shown}` failed: {cause}")
