"""What is in a release, for people and as JSON. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from nodeagent.bake.text import columns, plural, size
from nodeagent.model import Document
from nodeagent.names import STORE_DIR
from nodeagent.release import Index, Profile, Release, Source, System, digest12

BIGGEST = 10


class Heavy(Document):
    """A path and the size of its NAR."""

    path: str
    nar_size: int


class SystemSummary(Document):
    """One system; `file_bytes` (packed) is only known where the index knows every path."""

    profiles: Mapping[str, Profile]
    paths: int
    nar_bytes: int
    file_bytes: int | None
    biggest: tuple[Heavy, ...]


class Summary(Document):
    """A release."""

    digest: str
    source: Source
    systems: Mapping[str, SystemSummary]


def summarise(digest: str, release: Release, index: Index | None) -> Summary:
    """Sum a release up."""
    systems = {name: _system(system, index) for name, system in sorted(release.systems.items())}
    return Summary(digest=digest, source=release.source, systems=systems)


def packed_size(paths: Iterable[str], index: Index | None) -> int | None:
    """Add up what the index says that paths take when packed; None if it lacks one."""
    if index is None:
        return None
    found = [index.paths.get(path) for path in paths]
    known = [location.file_size for location in found if location is not None]
    return sum(known) if len(known) == len(found) else None


def lines(summary: Summary) -> Iterator[str]:
    """Write a summary for people."""
    yield f"release {digest12(summary.digest)}  {summary.digest}"
    source = summary.source
    named = {"flake": source.flake, "rev": source.rev, "lock": source.lock_digest}
    yield from columns([(f"  {key}", value) for key, value in named.items() if value])
    for name, system in summary.systems.items():
        packed = f", {size(system.file_bytes)} packed" if system.file_bytes is not None else ""
        yield f"{name}: {plural(system.paths, 'path')}, {size(system.nar_bytes)}{packed}"
        profiles = sorted(system.profiles.items())
        yield from columns([(f"  {key}", one.kind.value, one.root) for key, one in profiles])
        yield "  biggest paths:"
        yield from columns([(f"    {size(one.nar_size):>9}", one.path) for one in system.biggest])


def _system(system: System, index: Index | None) -> SystemSummary:
    heavy = sorted(system.paths.items(), key=lambda item: (-item[1].nar_size, item[0]))
    return SystemSummary(
        profiles=system.profiles,
        paths=len(system.paths),
        nar_bytes=system.size,
        file_bytes=packed_size(system.paths, index),
        biggest=tuple(Heavy(path=path, nar_size=info.nar_size) for path, info in heavy[:BIGGEST]),
    )


def short(path: str) -> str:
    """Leave out what every store path begins with."""
    return path.removeprefix(f"{STORE_DIR}/")
