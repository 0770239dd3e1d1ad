"""Publish: copy releases from one cache directory to another, manifest last.

What the other has already is not copied: a NAR's name is its hash.
"""

from dataclasses import dataclass
from pathlib import Path

from nodeagent.bake.commit import known
from nodeagent.bake.directory import CacheDirectory
from nodeagent.bake.find import Found, find
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.nix import Registration
from nodeagent.release import Location, PathInfo, references_first


@dataclass(frozen=True)
class Published:
    """What was copied; bytes are those of the NAR files."""

    digest: str
    copied: int
    kept: int
    bytes: int


def publish(name: str, source: Path, target: CacheDirectory) -> Published:
    """Copy one release; refused, before anything is copied, if it is not whole."""
    found = find(name, str(source))
    paths = {
        path: info for one in found.release.systems.values() for path, info in one.paths.items()
    }
    locations = _locations(found, paths, source)
    with target.writing():
        copied = [_copy(location, source, target) for location in locations.values()]
        merged = {}
        for path in references_first(paths):
            merged[path] = _merged(target, path, paths[path], locations[path])
            target.put_narinfo(path, paths[path], merged[path])
        target.put_release(found.manifest, merged)
    count = sum(size is not None for size in copied)
    return Published(found.digest, count, len(copied) - count, sum(size or 0 for size in copied))


def _locations(found: Found, paths: dict[str, PathInfo], source: Path) -> dict[str, Location]:
    index = found.index.paths if found.index else {}
    lacking = [
        path
        for path in sorted(paths)
        if path not in index
        or not CacheDirectory(source).has(index[path].url, index[path].file_size)
    ]
    if lacking:
        shown = "\n  ".join(lacking)
        raise NodeAgentError(
            Reason.NAR_MISSING,
            f"{source} lacks {len(lacking)} paths of release {found.digest}; "
            f"build it there again:\n  {shown}",
        )
    return {path: index[path] for path in sorted(paths)}


def _copy(location: Location, source: Path, target: CacheDirectory) -> int | None:
    """Copy a NAR; None if it is there."""
    if target.has(location.url, location.file_size):
        return None
    target.copy(location.url, source / location.url)
    return location.file_size


def _merged(target: CacheDirectory, path: str, info: PathInfo, location: Location) -> Location:
    """Add the signatures that the target has already for the same facts."""
    there = known(target, Registration(path, info))
    sigs = {*location.sigs, *(there.sigs if there else ())}
    return location.model_copy(update={"sigs": tuple(sorted(sigs))})
