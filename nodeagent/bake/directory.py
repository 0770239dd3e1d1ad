"""A binary cache as a directory that one build at a time writes.

Each file is written under a hidden name and renamed, so whoever reads or serves the directory
meets whole files only. Order of appearance: NAR, its narinfo, the index, the manifest.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent import narinfo, storepath
from nodeagent.bake.pack import PART_SUFFIX
from nodeagent.errors import NodeAgentError
from nodeagent.names import STORE_DIR, Reason
from nodeagent.narinfo import NarInfo
from nodeagent.release import Index, Location, PathInfo, digest_of, index_file, manifest_file

CACHE_INFO: Final = f"StoreDir: {STORE_DIR}\nWantMassQuery: 1\nPriority: 40\n".encode()


@dataclass(frozen=True)
class CacheDirectory:
    """The files under `root`."""

    root: Path

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the directory for writing; raises if it is held already or cannot be written."""
        try:
            for directory in self._directories:
                directory.mkdir(parents=True, exist_ok=True)
            with (self.root / ".lock").open("w") as lock:
                self._lock(lock.fileno())
                self._clean()
                self._describe()
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):  # else it would hide what went wrong
                        self._clean()
        except OSError as error:
            raise self.unusable(str(error)) from None

    def narinfo(self, path: str) -> NarInfo | None:
        """Give the narinfo of a store path, if there is one that can be read."""
        try:
            return narinfo.parse(self._narinfo_file(path).read_text())
        except (OSError, ValueError):
            return None

    def has(self, url: str, size: int) -> bool:
        """Tell whether a file of that size is there."""
        try:
            return (self.root / url).stat().st_size == size
        except (OSError, ValueError):
            return False

    def put_narinfo(self, path: str, info: PathInfo, location: Location) -> bool:
        """Write a store path's narinfo; False if it stands there already."""
        file, data = self._narinfo_file(path), narinfo.render(narinfo_of(path, info, location))
        if file.exists() and file.read_text() == data:
            return False
        self.put(file.name, data.encode())
        return True

    def put(self, name: str, data: bytes) -> None:
        """Write a small file in one step."""
        file = self.root / name
        part = _part(file)
        part.write_bytes(data)
        part.rename(file)

    def put_release(self, manifest: bytes, locations: Mapping[str, Location]) -> str:
        """Write index and manifest, the same bytes for the same facts; give the digest."""
        digest = digest_of(manifest)
        index = Index(paths=dict(sorted(locations.items())))
        self.put(index_file(digest), index.model_dump_json(by_alias=True).encode())
        self.put(manifest_file(digest), manifest)
        return digest

    def copy(self, name: str, source: Path) -> None:
        """Copy a file in one step."""
        file = self.root / name
        shutil.copyfile(source, _part(file))
        _part(file).rename(file)

    def unusable(self, cause: str) -> NodeAgentError:
        """Say why nothing can be written."""
        return NodeAgentError(
            Reason.CACHE_UNREACHABLE,
            f"the cache directory {self.root} cannot be written: {cause}; "
            "make room, or give another --cache",
        )

    @property
    def _directories(self) -> tuple[Path, ...]:
        return self.root, self.root / "nar", self.root / "releases"

    def _narinfo_file(self, path: str) -> Path:
        return self.root / f"{storepath.hash_part(path)}.narinfo"

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NodeAgentError(
                Reason.CACHE_UNREACHABLE,
                f"another nodeagent writes to {self.root}; wait until it has finished",
            ) from None

    def _clean(self) -> None:
        """Remove what was being written when an earlier build was ended."""
        for directory in self._directories:
            for entry in os.scandir(directory):
                if entry.name.startswith(".") and entry.name.endswith(PART_SUFFIX):
                    Path(entry.path).unlink()

    def _describe(self) -> None:
        """Write nix-cache-info; one that is there keeps its priority."""
        file = self.root / "nix-cache-info"
        if not file.exists():
            self.put(file.name, CACHE_INFO)
        elif f"StoreDir: {STORE_DIR}" not in file.read_text().splitlines():
            raise self.unusable(f"its nix-cache-info is not for {STORE_DIR}")


def narinfo_of(path: str, info: PathInfo, location: Location) -> NarInfo:
    """Join what a release says of a path with where a cache has it."""
    return NarInfo(
        path=path,
        url=location.url,
        compression=location.compression,
        nar_hash=info.nar_hash,
        nar_size=info.nar_size,
        references=info.references,
        file_hash=location.file_hash,
        file_size=location.file_size,
        deriver=info.deriver,
        ca=info.ca,
        sigs=location.sigs,
    )


def _part(file: Path) -> Path:
    return file.with_name(f".{file.name}{PART_SUFFIX}")
