"""Bake: from store paths to a release in a binary cache.

The same inputs give the same digest: nothing in the manifest depends on time, key or
compression. What is in the cache already is neither packed nor written again, only re-signed
if the key's signature is lacking. The manifest appears last, over a complete closure.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nodeagent import keys
from nodeagent.bake import closure
from nodeagent.bake.directory import CacheDirectory
from nodeagent.bake.jobs import Event, Failed, Job, Progress
from nodeagent.bake.pack import COMPRESSION, Packed
from nodeagent.bake.pool import Pool
from nodeagent.bake.spec import Part
from nodeagent.errors import NodeAgentError
from nodeagent.keys import SecretKey
from nodeagent.names import Reason
from nodeagent.nix import Nix, Registration
from nodeagent.release import (
    Index,
    Location,
    Release,
    Source,
    digest_of,
    index_file,
    manifest_file,
    references_first,
)


@dataclass
class Tally:
    """How far a build is; bytes are those of NARs before compression."""

    paths: int = 0
    paths_done: int = 0
    bytes: int = 0
    bytes_done: int = 0


@dataclass(frozen=True)
class Built:
    """What a build left in the cache directory: `nar_bytes` unpacked, `file_bytes` packed."""

    digest: str
    release: Release
    manifest: bytes
    baked: int
    reused: int
    signed: int
    nar_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Means:
    """What a build works with; a test puts its own programs in."""

    directory: CacheDirectory
    key: SecretKey
    nix: Callable[[Path], Nix] = Nix
    pool: Pool = field(default_factory=Pool)


@dataclass
class _Build:
    """The paths of one build, references first, and how far each is."""

    means: Means
    paths: Mapping[str, tuple[Registration, str]]
    order: Sequence[str]
    tally: Tally
    on_progress: Callable[[Tally], None]
    packed: dict[str, Packed | Location] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    locations: dict[str, Location] = field(default_factory=dict)
    committed: int = 0
    signed: int = 0


async def build(
    parts: Sequence[Part],
    means: Means,
    source: Source,
    on_progress: Callable[[Tally], None] = lambda _: None,
) -> Built:
    """Bake a release of all parts; raises a NodeAgentError that names every path at fault."""
    closures = [await closure.read(part, means.nix(part.store_root)) for part in parts]
    release = closure.release_of(closures, source)
    paths = closure.union(closures)
    order = list(references_first({path: one.info for path, (one, _) in paths.items()}))
    run = _Build(means, paths, order, Tally(), on_progress)
    with means.directory.writing():
        jobs = list(_jobs(run))
        run.tally.paths, run.tally.bytes = len(jobs), sum(job.nar_size for job in jobs)
        _commit(run)
        await means.pool.run(means.directory.root, jobs, lambda job, event: _on(run, job, event))
        _refuse(run.failed)
        manifest = _publish(run, release)
    return Built(
        digest_of(manifest),
        release,
        manifest,
        baked=len(jobs),
        reused=len(order) - len(jobs),
        signed=run.signed,
        nar_bytes=sum(one.info.nar_size for one, _ in paths.values()),
        file_bytes=sum(location.file_size for location in run.locations.values()),
    )


def _jobs(run: _Build) -> Iterator[Job]:
    """Give the paths that are not in the cache yet; the others are packed already."""
    for path in run.order:
        one, tree = run.paths[path]
        if location := _known(run.means.directory, one):
            run.packed[path] = location
        else:
            yield Job(path, tree, one.info.nar_hash, one.info.nar_size)


def _known(directory: CacheDirectory, one: Registration) -> Location | None:
    """Say where the cache has this very path; other people's signatures hold for the same facts."""
    found = directory.narinfo(one.path)
    if (
        found is None
        or found.file_hash is None
        or found.file_size is None
        or (found.path, found.nar_hash, found.nar_size)
        != (one.path, one.info.nar_hash, one.info.nar_size)
        or not directory.has(found.url, found.file_size)
    ):
        return None
    return Location(
        url=found.url,
        compression=found.compression,
        file_hash=found.file_hash,
        file_size=found.file_size,
        sigs=found.sigs if set(found.references) == set(one.info.references) else (),
    )


def _on(run: _Build, job: Job, event: Event) -> None:
    match event:
        case Progress(count):
            run.tally.bytes_done += count
        case Packed():
            run.packed[job.path] = event
        case Failed(cause):
            run.failed[job.path] = cause
    run.on_progress(run.tally)


def _commit(run: _Build) -> None:
    """Write the narinfo of each packed path whose references all have theirs."""


def _publish(run: _Build, release: Release) -> bytes:
    directory, manifest = run.means.directory, release.canonical()
    digest = digest_of(manifest)
    index = Index(paths=run.locations).model_dump_json(by_alias=True)
    directory.put(index_file(digest), index.encode())
    directory.put(manifest_file(digest), manifest)
    return manifest


def _refuse(failed: Mapping[str, str]) -> None:
    if failed:
        shown = "\n  ".join(f"{path}: {cause}" for path, cause in sorted(failed.items()))
        raise NodeAgentError(
            Reason.PATH_DAMAGED,
            f"{len(failed)} store paths cannot be baked; "
            f"`nix-store --verify --check-contents --repair` restores them:\n  {shown}",
        )
