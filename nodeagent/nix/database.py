"""Nix's database of valid paths: SQLite, schema 10, the same from Nix 2.0 on."""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent import disk
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.nix.facts import Dropped, Registration, from_row, narinfo_hash

SCHEMA: Final = "10"
BUSY_SECONDS: Final = 60.0
_FACTS: Final = "SELECT id, hash, narSize, deriver, ca, sigs FROM ValidPaths WHERE path = ?"
_REFERENCES: Final = (
    "SELECT path FROM Refs JOIN ValidPaths ON reference = id WHERE referrer = ? ORDER BY path"
)
_LIVE: Final = """
WITH RECURSIVE live (id) AS (
    SELECT id FROM ValidPaths JOIN temp.roots USING (path)
    UNION
    SELECT reference FROM Refs JOIN live ON referrer = id
)
SELECT path FROM ValidPaths JOIN live USING (id)
"""


@dataclass(frozen=True)
class Database:
    """The database in `file`, of the store under `root`; every question opens it anew."""

    file: Path
    root: Path

    def valid(self) -> dict[str, str]:
        """Give every registered path with its narHash."""
        with self._opened() as database:
            rows = database.execute("SELECT path, hash FROM ValidPaths").fetchall()
        return {path: narinfo_hash(digest) for path, digest in rows}

    def registered(self, paths: Iterable[str]) -> list[Registration]:
        """Give what it holds of these paths; unknown ones are left out."""
        found = []
        with self._opened() as database:
            for path in paths:
                row = database.execute(_FACTS, [path]).fetchone()
                if row is not None:
                    references = database.execute(_REFERENCES, [row[0]]).fetchall()
                    found.append(from_row(path, row, [one for (one,) in references]))
        return found

    def live(self, roots: Iterable[str]) -> set[str]:
        """Give the valid paths that these need: themselves and all that they refer to."""
        with self._opened() as database:
            database.execute("PRAGMA temp_store = MEMORY")  # the disk may be full
            database.execute("CREATE TEMP TABLE roots (path TEXT)")
            database.executemany("INSERT INTO temp.roots VALUES (?)", [(one,) for one in roots])
            return {path for (path,) in database.execute(_LIVE)}

    def restore(self, rows: Sequence[Dropped]) -> None:
        """Put back what `--load-db` drops, in one transaction; rows of other contents are left."""
        with self._opened() as database:
            database.executemany(
                "UPDATE ValidPaths SET sigs = ?, ca = ? WHERE path = ? AND hash = ?", rows
            )

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        address = f"{self.file.absolute().as_uri()}?mode=rw"  # never make an empty one
        try:
            with (
                contextlib.closing(sqlite3.connect(address, BUSY_SECONDS, uri=True)) as database,
                database,
            ):
                yield database
        except sqlite3.Error as error:
            raise disk.recognised(str(error), self.root / "nix") or NodeAgentError(
                Reason.STORE_UNUSABLE,
                f"the Nix database {self.file} cannot be used: {error}; "
                "check the disk, or restore the file from a backup",
            ) from None
