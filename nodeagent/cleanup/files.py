"""What lies on a node, removed. Each step says in words what it did.

Only names that nodeagent makes are removed, links are never followed, and nothing that is mounted
is entered. Store and marker belong together: while paths of ours stay, so does what says whose
they are, for the next agent and for a later `--store`.
"""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent.disk import remove, usable
from nodeagent.errors import NodeAgentError
from nodeagent.ledger import LOCK
from nodeagent.names import Reason
from nodeagent.store import StoreFiles

NOTHING: Final = "nothing there"
STATE: Final = (
    *("state.json", ".state.json.new", "scrub.txt", ".scrub.txt.new", "releases"),
    LOCK,  # the last
)
MOUNTS: Final = Path("/proc/self/mountinfo")
SOCKET: Final = "nix/var/nix/daemon-socket/socket"
_STAYS: Final = frozenset({errno.EBUSY, errno.ENOTEMPTY, errno.EEXIST})
_ESCAPED: Final = re.compile(r"\\(\d{3})")


@dataclass(frozen=True)
class Files:
    """The directories of a node. `used` says that pods stay, and the store with them."""

    store: StoreFiles
    run_dir: Path
    state_dir: Path
    with_store: bool = False
    used: bool = False

    def require_removable(self) -> None:
        """Raise ForeignStore or StoreUnusable for what must not be removed; changes nothing."""
        if self.with_store:
            self._require_ours()
        for top in self._tops():
            for mount in mounts():
                if top.resolve() in mount.parents:
                    raise NodeAgentError(
                        Reason.STORE_UNUSABLE,
                        f"{mount} is mounted in {top}, which shall be removed; unmount it and run "
                        "this again",
                    )

    def gates(self) -> str:
        """Remove the gates; what running pods have mounted of them stays while there are any."""
        names = ("profiles", "store", ".store.new", *(() if self.used else ("releases",)))
        return _remove(self.run_dir, names)

    def roots(self) -> str:
        """Remove the collector's roots."""
        roots = self.store.roots
        if not roots.exists():
            return NOTHING
        with usable(roots):
            remove(roots)
        return f"{roots} is gone"

    def content(self) -> str:
        """Remove paths and database, if that was asked for."""
        count = len(self.store.on_disk()) if self.store.store_dir.is_dir() else 0
        if not self.with_store:
            return f"{self.store.store_dir} stays; --store removes it" if count else NOTHING
        if not self._is_ours():
            return NOTHING
        with usable(self.store.store_dir):
            _clear(self.store.store_dir)
            _clear(self._var, self.store.ours.name)
            _rmdir(self.store.store_dir)
        return f"the database is gone, and with it {count} path{'' if count == 1 else 's'}"

    def staging(self) -> str:
        """Remove what lies beside the store, and with the last path the mark whose it is."""
        ours = self.store.ours
        names = ["staging", *(() if self.used else ("displaced",))]
        if not (self._is_ours() and self._has_content()):
            names += ["owner", ".owner.new", "shared"]  # the mark first: alone it says "ours alone"
        told = _remove(ours, names)
        with usable(ours):
            if self.with_store and not ours.exists():
                _rmdir(self._var)
                if self.state_dir in self._var.parents:  # elsewhere we cannot know who made /nix
                    _rmdir(self._var.parent)
        return told

    def state(self) -> str:
        """Remove the node's memory, and the lock that is held on it."""
        return _remove(self.state_dir, STATE)

    @property
    def _var(self) -> Path:
        return self.store.ours.parent

    def _tops(self) -> Iterator[Path]:
        yield from (self.run_dir, self.state_dir / "releases", self.store.roots, self.store.ours)
        if self.with_store:
            yield from (self.store.store_dir, self._var)

    def _has_content(self) -> bool:
        return self.store.store_dir.is_dir() and bool(self.store.on_disk())

    def _is_ours(self) -> bool:
        """Tell whether nobody else ever had paths in the store."""
        store = self.store
        daemon = os.path.lexists(store.root / SOCKET)
        return store.marker.exists() and not store.shared.exists() and not daemon

    def _require_ours(self) -> None:
        if self._has_content() and not self._is_ours():
            raise NodeAgentError(
                Reason.FOREIGN_STORE,
                f"{self.store.store_dir} is not nodeagent's alone; run this without --store, then "
                "let `nix-collect-garbage` on the host remove what it has no root of",
            )


def mounts() -> list[Path]:
    """List the mount points that this process sees."""
    points = (line.split(" ")[4] for line in MOUNTS.read_text().splitlines())
    return [Path(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), one)) for one in points]


def _remove(directory: Path, names: Sequence[str]) -> str:
    """Remove these entries, and the directory if it is empty then; say how it is now."""
    if not os.path.lexists(directory):
        return NOTHING
    with usable(directory):
        for name in names:
            remove(directory / name)
        if _rmdir(directory):
            return f"{directory} is gone"
        left = sorted(entry.name for entry in os.scandir(directory))
    return f"{directory} stays, " + (f"with {', '.join(left)}" if left else "empty")


def _clear(directory: Path, *keep: str) -> None:
    """Remove what is in a directory, but for some of it."""
    if directory.is_dir():
        for entry in list(os.scandir(directory)):
            if entry.name not in keep:
                remove(Path(entry.path))


def _rmdir(directory: Path) -> bool:
    """Remove a directory; tell if it is gone. One that holds something, or is mounted, stays."""
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in _STAYS:
            raise
        return False
    return True
