"""Bake: from store paths to a release in a binary cache.

The same inputs give the same digest: nothing in the manifest depends on time, key or
compression. What is in the cache already is not packed again, only signed anew if the key's
signature is lacking. The manifest appears last, over a complete closure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nodeagent.bake import closure
from nodeagent.bake.commit import Commit, known, location_of
from nodeagent.bake.directory import CacheDirectory
from nodeagent.bake.jobs import Event, Failed, Job, Progress
from nodeagent.bake.pack import Packed
from nodeagent.bake.pool import Pool
from nodeagent.bake.spec import Part
from nodeagent.errors import NodeAgentError
from nodeagent.keys import SecretKey
from nodeagent.names import Reason
from nodeagent.nix import Nix, Registration
from nodeagent.release import Location, Release, Source, references_first


@dataclass
class Tally:
    """How far a build is; bytes are those of NARs before compression."""

    paths: int = 0
    paths_done: int = 0
    bytes: int = 0
    bytes_done: int = 0


@dataclass(frozen=True)
class Means:
    """What a build works with; a test puts its own programs in."""

    directory: CacheDirectory
    key: SecretKey
    nix: Callable[[Path], Nix] = Nix
    pool: Pool = field(default_factory=Pool)


@dataclass(frozen=True)
class Built:
    """What a build left in the cache directory; bytes of all NARs, unpacked and packed."""

    digest: str
    release: Release
    manifest: bytes
    baked: int
    reused: int
    narinfos_written: int
    nar_bytes: int
    file_bytes: int


async def build(
    parts: Sequence[Part],
    means: Means,
    source: Source = Source(),  # noqa: B008 frozen
    on_progress: Callable[[Tally], None] = lambda _: None,
) -> Built:
    """Bake a release of all parts; raises a NodeAgentError that names every path at fault."""
    closures = [await closure.read(part, means.nix(part.store_root)) for part in parts]
    release, found = closure.release_of(closures, source), closure.union(closures)
    order = references_first({path: one.info for path, (one, _) in found.items()})
    manifest = release.canonical()
    with means.directory.writing():
        commit = Commit(means.directory, means.key, {path: one for path, (one, _) in found.items()})
        there = _there(commit)
        jobs = [_job(*found[path]) for path in order if path not in there]
        for path, location in there.items():
            commit.take(path, location)
        await _bake(jobs, means, commit, on_progress)
        digest = means.directory.put_release(manifest, commit.locations)
    return Built(
        digest,
        release,
        manifest,
        baked=len(jobs),
        reused=len(found) - len(jobs),
        narinfos_written=commit.written,
        nar_bytes=sum(one.info.nar_size for one, _ in found.values()),
        file_bytes=sum(location.file_size for location in commit.locations.values()),
    )


def _there(commit: Commit) -> dict[str, Location]:
    """Find what is in the cache already."""
    found = {path: known(commit.directory, one) for path, one in commit.paths.items()}
    return {path: location for path, location in found.items() if location}


def _job(one: Registration, tree: str) -> Job:
    return Job(one.path, tree, one.info.nar_hash, one.info.nar_size)


async def _bake(
    jobs: Sequence[Job], means: Means, commit: Commit, on_progress: Callable[[Tally], None]
) -> None:
    tally = Tally(paths=len(jobs), bytes=sum(job.nar_size for job in jobs))
    counted: dict[str, int] = {}
    failed: dict[str, Failed] = {}

    def on_event(job: Job, event: Event) -> None:
        if isinstance(event, Progress):
            count = event.bytes
            counted[job.path] = counted.get(job.path, 0) + count
        else:
            count = job.nar_size - counted.pop(job.path, 0)
            tally.paths_done += 1
        if isinstance(event, Packed):
            commit.take(job.path, location_of(event))
        if isinstance(event, Failed):
            failed[job.path] = event
        tally.bytes_done += count
        on_progress(tally)

    on_progress(tally)
    await means.pool.run(means.directory.root, jobs, on_event)
    _refuse(failed, means.directory)


def _refuse(failed: Mapping[str, Failed], directory: CacheDirectory) -> None:
    for path, failure in failed.items():
        if failure.fatal:
            raise directory.unusable(f"{path}: {failure.cause}")
    if failed:
        shown = "\n  ".join(f"{path}: {failed[path].cause}" for path in sorted(failed))
        raise NodeAgentError(
            Reason.PATH_DAMAGED,
            f"{len(failed)} store paths are not what the store's database says; "
            f"repair them with `nix-store --verify --check-contents --repair`:\n  {shown}",
        )
