"""The files of a node's store: staging, renames into place, roots, the owner's marker.

A path that appears in the store directory through here is whole and synced: it was unpacked
in staging (same file system, outside the store) and arrives by one rename.
"""

import contextlib
import ctypes
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent import __version__, disk, nar, storepath
from nodeagent.disk import remove as remove  # noqa: PLC0414 gates have them from here
from nodeagent.disk import usable as usable  # noqa: PLC0414
from nodeagent.errors import NodeAgentError
from nodeagent.names import STORE_DIR, Reason

LAYOUT: Final = 1  # of what lies under `ours` and `roots`; an empty marker is of the first
PART_SUFFIX: Final = ".part"
LOCK_SECONDS: Final = 10.0  # A commit cannot be cancelled: SIGTERM and newer pins wait with it.
_LOCK_POLL_SECONDS: Final = 0.05
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class StoreFiles:
    """The store under `root`. `durable` off (benches only) leaves syncing to the kernel.

    A path that another process has locked for `lock_seconds` is not placed.
    """

    root: Path
    durable: bool = True
    lock_seconds: float = LOCK_SECONDS

    @property
    def store_dir(self) -> Path:
        """The real directory behind /nix/store."""
        return self.root / STORE_DIR.removeprefix("/")

    @property
    def ours(self) -> Path:
        """What belongs to nodeagent alone."""
        return self.root / "nix/var/nodeagent"

    @property
    def staging(self) -> Path:
        """Where paths are unpacked."""
        return self.ours / "staging"

    @property
    def displaced(self) -> Path:
        """Where exchanged trees go that containers may be bound to (see verify.evidence)."""
        return self.ours / "displaced"

    @property
    def roots(self) -> Path:
        """Our garbage collector roots: direct links, valid in every mount namespace."""
        return self.root / "nix/var/nix/gcroots/nodeagent"

    @property
    def pending(self) -> Path:
        """Roots of single paths until their generation has one."""
        return self.roots / "pending"

    @property
    def marker(self) -> Path:
        """What says that nodeagent made the store, or was told to share it."""
        return self.ours / "owner"

    @property
    def shared(self) -> Path:
        """What says that somebody's paths were there first."""
        return self.ours / "shared"

    def claim(self, *, share: bool) -> None:
        """Mark the store as ours and make our directories; refuse one that is somebody's.

        Raises ForeignStore for a store without our marker, unless `share`, and StoreUnusable
        where files cannot be made, staging is on another file system, or the layout is newer.
        """
        marker = self.marker
        with usable(self.store_dir):
            if not share and not marker.exists() and self.store_dir.exists() and self.on_disk():
                raise NodeAgentError(
                    Reason.FOREIGN_STORE,
                    f"{self.store_dir} holds paths and is not nodeagent's (no {marker}); give "
                    "another --store-root, or --share-store to add to it",
                )
            _require_known_layout(marker)
            for directory in (self.store_dir, self.staging, self.displaced, self.pending):
                directory.mkdir(parents=True, exist_ok=True)
            if not marker.exists():
                if self.on_disk():
                    self.shared.touch()
                write_file(marker, f"{LAYOUT}\n".encode())
            for part in self.staging.glob(f"*{PART_SUFFIX}"):  # of an agent that was killed
                remove(part)
        if self.staging.stat().st_dev != self.store_dir.stat().st_dev:
            raise NodeAgentError(
                Reason.STORE_UNUSABLE,
                f"{self.staging} and {self.store_dir} are on different file systems; mount "
                f"{self.root / 'nix'} as one",
            )

    def on_disk(self) -> set[str]:
        """List what lies in the store directory, registered or not."""
        with usable(self.store_dir), os.scandir(self.store_dir) as entries:
            names = [entry.name for entry in entries if storepath.is_basename(entry.name)]
        fleeting = (".lock", ".drv.chroot")
        return {f"{STORE_DIR}/{name}" for name in names if not name.endswith(fleeting)}

    def real(self, path: str) -> Path:
        """Say where a store path lies on disk."""
        return storepath.real(self.root, path)

    def staged(self, path: str) -> Path:
        """Say where a store path waits, unpacked and whole, to be placed."""
        return self.staging / storepath.basename(path)

    def clean_staging(self, wanted: Iterable[str]) -> set[str]:
        """Remove what an earlier pass left half-done or nobody wants; give what it finished."""
        keep, staged = {storepath.basename(path): path for path in wanted}, set[str]()
        with usable(self.staging):
            for entry in list(os.scandir(self.staging)):
                if entry.name in keep:
                    staged.add(keep[entry.name])
                else:
                    remove(Path(entry.path))
        return staged

    def displaced_as(self, path: str) -> Path | None:
        """Say where the tree that lies at a path now would go; None if there is none."""
        try:
            inode = self.real(path).lstat().st_ino
        except OSError:
            return None
        # The hash part alone: with an inode behind it a long name would grow too long.
        return self.displaced / f"{storepath.hash_part(path)}.{inode}"

    def place(self, paths: Sequence[str]) -> None:
        """Sync the file system, then rename staged paths into the store, roots first.

        A path that lies there already is exchanged in one step; the displaced tree is kept
        for containers that are bound to it. Raises StoreUnusable where somebody keeps a path
        locked; what was placed until then stays.
        """
        with usable(self.store_dir):
            self.root_pending(paths)
            if self.durable:
                self._sync()
            for path in paths:
                self._place(path)
            if self.durable:
                _fsync(self.store_dir)

    def _place(self, path: str) -> None:
        source, target = self.staged(path), self.real(path)
        # Also of a path that was placed already: its lock may be left.
        with _path_lock(target, self.lock_seconds):
            try:
                staged = source.lstat()
            except FileNotFoundError:
                return
            if (displaced := self.displaced_as(path)) is not None:
                _exchange(source, target)
                source.rename(displaced)
            else:
                source.rename(target)
            if stat.S_ISDIR(staged.st_mode):
                target.chmod(nar.DIRECTORY_MODE)

    def root_pending(self, paths: Iterable[str]) -> None:
        """Root single paths, there or not yet, until their generation has a root."""
        for path in paths:
            with usable(self.pending), contextlib.suppress(FileExistsError):
                _symlink(self.pending / storepath.basename(path), path)

    def _sync(self) -> None:
        """Flush the whole file system: 30 times faster than an fsync a file."""
        _fsync(self.staging, lambda fd: _check(_LIBC.syncfs(fd)))

    def set_roots(self, generation: str, roots: dict[str, str]) -> None:
        """Root a generation's profiles, then drop the roots of its single paths."""
        directory = self.roots / generation
        with usable(directory):
            directory.mkdir(parents=True, exist_ok=True)
            for name, path in roots.items():
                swap_symlink(directory / name, path)
            for entry in list(os.scandir(self.pending)):
                Path(entry.path).unlink()


def _require_known_layout(marker: Path) -> None:
    layout = marker.read_text(errors="replace").strip()[:40] if marker.exists() else ""
    if layout not in {"", str(LAYOUT)}:
        raise NodeAgentError(
            Reason.STORE_UNUSABLE,
            f"{marker} says layout {layout!r}, this nodeagent {__version__} knows {LAYOUT}: "
            "upgrade again, or give another --store-root; nothing on the node was changed",
        )


def swap_symlink(link: Path, target: str) -> None:
    """Point a symlink elsewhere in one step."""
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    _symlink(fresh, target)
    fresh.rename(link)


def _symlink(link: Path, target: str) -> None:
    try:
        link.symlink_to(target)
    except OSError as error:  # which names the target; the link is what was refused
        error.filename = error.filename2
        raise


def write_file(file: Path, data: bytes) -> None:
    """Replace a file in one step that survives a power cut."""
    fresh = file.with_name(f".{file.name}.new")
    with fresh.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    fresh.rename(file)
    _fsync(file.parent)


@contextlib.contextmanager
def _path_lock(target: Path, seconds: float) -> Iterator[None]:
    """Hold Nix's own lock on a store path (nix: src/libstore/pathlocks.cc).

    Whoever deletes the lock file writes a byte into it first, so that one who waited on the
    deleted file notices and opens it anew.
    """
    file, until = target.with_name(f"{target.name}.lock"), time.monotonic() + seconds
    while True:
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not disk.try_lock(fd):
                if time.monotonic() > until:
                    raise NodeAgentError(
                        Reason.STORE_UNUSABLE,
                        f"another process has held {file} for {seconds:g} s, as Nix does while "
                        f"it makes that path; let it end, or find it with `fuser {file}` and "
                        "end it if it hangs",
                    )
                time.sleep(_LOCK_POLL_SECONDS)
            if os.fstat(fd).st_size:
                continue
            yield
            file.unlink(missing_ok=True)
            os.write(fd, b"d")
            return
        finally:
            os.close(fd)


def _exchange(one: Path, other: Path) -> None:
    arguments = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    _check(_LIBC.renameat2(*arguments))


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _fsync(directory: Path, sync: Callable[[int], None] = os.fsync) -> None:
    fd = os.open(directory, _DIRECTORY)
    try:
        sync(fd)
    finally:
        os.close(fd)
