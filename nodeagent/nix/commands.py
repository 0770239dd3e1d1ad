"""Nix's own programs on one store: argv in, typed values out."""

import asyncio
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nodeagent import disk, process
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.nix.database import SCHEMA, Database
from nodeagent.nix.facts import (
    Dropped,
    Registration,
    by_path,
    dropped,
    dump_entry,
    narinfo_hash,
    registration,
)

TIMEOUT_SECONDS: Final = 300.0
COPY_SECONDS: Final = 6 * 3600.0  # Nix ends what stalls by itself.
_COLLECT: Final = ("--option", "keep-derivations", "false", "--option", "keep-outputs", "false")
_ALIVE: Final = "still alive"
_PATH: Final = re.compile(r"/nix/store/[0-9a-z]{32}-[0-9A-Za-z+._?=-]+")
_SETTINGS: Final = "build-users-group =\nexperimental-features = nix-command\nsubstituters =\n"


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

    @property
    def _known(self) -> Database:
        return Database(self.database, self.root)

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
        return self._known.valid()

    def registered(self, paths: Iterable[str]) -> list[Registration]:
        """Give what the database holds of these paths; unknown ones are left out."""
        return self._known.registered(paths)

    def live(self, roots: Iterable[str]) -> set[str]:
        """Give the valid paths that these need: themselves and all that they refer to."""
        return self._known.live(roots)

    async def register(self, batch: Sequence[Registration]) -> None:
        """Register a reference-closed batch of paths that lie in the store.

        A path that is registered already takes the batch's facts: `--load-db` overwrites.
        """
        text = "".join(dump_entry(one) for one in batch)
        rows = [dropped(one) for one in batch]
        await asyncio.to_thread(self._note, rows)
        await self._call(self.nix_store, "--load-db", stdin=text.encode())
        await asyncio.to_thread(self._restore, rows)

    def _note(self, rows: Sequence[Dropped]) -> None:
        """Write down what `--load-db` will drop: whoever ends before it is put back is resumed."""
        self._notes.parent.mkdir(parents=True, exist_ok=True)
        with disk.usable(self._notes), self._notes.open("w") as notes:
            json.dump(rows, notes)
            notes.flush()
            os.fsync(notes.fileno())

    def _restore(self, rows: Sequence[Dropped]) -> None:
        self._known.restore(rows)
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
            path: narinfo_hash(facts["narHash"])
            for path, facts in by_path(done.stdout)
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

    async def delete(self, paths: Iterable[str]) -> list[str]:
        """Delete paths; give those that stay, as something of the store's needs them.

        Nix looks at all roots itself. It stops at the first path that is alive: that one is left
        out, and the rest tried again. What is gone already is no fault.
        """
        todo, alive = [*paths], list[str]()
        while todo:
            argv = [*self.nix_store, "--store", self.store, *_COLLECT, "--delete", *todo]
            done = await self._try(argv, TIMEOUT_SECONDS)
            if done.code == 0:
                break
            error = done.complaint.rpartition("error:")[2]  # before it stands what was deleted
            found = [path for path in _PATH.findall(error) if path in todo]
            if _ALIVE not in error or not found:
                raise self._failure(done)
            alive += found
            todo = [path for path in todo if path not in found]
        return alive

    async def closure(self, roots: Iterable[str]) -> list[Registration]:
        """Give the whole closure of `roots` with everything that is known of each path."""
        argv = ["path-info", "--json", "--recursive", *roots]
        told = (await self._call(self.nix, *argv)).stdout
        return [registration(path, facts) for path, facts in by_path(told)]

    async def _call(
        self, program: Sequence[str], *arguments: str, stdin: bytes = b""
    ) -> process.Completed:
        return await self._run(
            [*program, "--store", self.store, *arguments], TIMEOUT_SECONDS, stdin
        )

    async def _run(
        self, argv: Sequence[str], limit: float, stdin: bytes = b""
    ) -> process.Completed:
        done = await self._try(argv, limit, stdin)
        if done.code != 0:
            raise self._failure(done)
        return done

    async def _try(
        self, argv: Sequence[str], limit: float, stdin: bytes = b""
    ) -> process.Completed:
        try:
            return await process.run(argv, timeout=limit, stdin=stdin, env=self.env)
        except TimeoutError:
            raise _failed(argv, f"no end within {limit:.0f} s") from None

    def _failure(self, done: process.Completed) -> NodeAgentError:
        refused = disk.recognised(done.complaint, self.root / "nix")  # the root may be another disk
        return refused or _failed(done.argv, done.complaint or f"exit code {done.code}")


def _failed(argv: Sequence[str], cause: str) -> NodeAgentError:
    shown = " ".join(argv[:6])
    return NodeAgentError(Reason.NIX_FAILED, f"`{shown}` failed: {cause}")
