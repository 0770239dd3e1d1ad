"""What changes from one release to another, in words. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from nodeagent.bake.show import packed_size, short
from nodeagent.bake.text import plural, size
from nodeagent.model import Document
from nodeagent.release import Index, Profile, Release, System, digest12

# As Nix splits names: the version begins at the first dash that no letter follows.
_NAME: Final = re.compile(r"(?P<name>.+?)(?:-(?P<version>[^a-zA-Z].*))?")
_HASH: Final = 33


class Change(Document):
    """A package whose store paths are not the same ones any more."""

    name: str
    old: tuple[str, ...]
    new: tuple[str, ...]


class SystemDiff(Document):
    """One system. `rewritten`: the same store path with other contents.

    `fetch_file_bytes` (packed) is only known where the new index knows every path.
    """

    profiles_added: tuple[str, ...] = ()
    profiles_removed: tuple[str, ...] = ()
    profiles_moved: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[Change, ...] = ()
    rewritten: tuple[str, ...] = ()
    fetch_paths: int = 0
    fetch_nar_bytes: int = 0
    fetch_file_bytes: int | None = None


class Diff(Document):
    """From one release to another; a system that only one of them has differs in everything."""

    old: str
    new: str
    systems: Mapping[str, SystemDiff]


def diff(old: tuple[str, Release], new: tuple[str, Release], index: Index | None) -> Diff:
    """Compare two releases, each with its digest; `index` is the new one's."""
    before, after, none = old[1].systems, new[1].systems, System(profiles={}, paths={})
    names = sorted(before.keys() | after.keys())
    systems = {
        name: _system(before.get(name, none), after.get(name, none), index) for name in names
    }
    return Diff(old=old[0], new=new[0], systems=systems)


def package(path: str) -> tuple[str, str]:
    """Split a store path into a package's name and version, which may be empty."""
    match = _NAME.fullmatch(short(path)[_HASH:])
    assert match is not None  # noqa: S101 the pattern takes any name
    return match["name"], match["version"] or ""


def _system(old: System, new: System, index: Index | None) -> SystemDiff:
    gone, come = old.paths.keys() - new.paths.keys(), new.paths.keys() - old.paths.keys()
    both = old.paths.keys() & new.paths.keys()
    rewritten = {path for path in both if old.paths[path].nar_hash != new.paths[path].nar_hash}
    fetch, changed = come | rewritten, tuple(_changes(gone, come))
    matched = {one.name for one in changed}
    return SystemDiff(
        profiles_added=tuple(sorted(new.profiles.keys() - old.profiles.keys())),
        profiles_removed=tuple(sorted(old.profiles.keys() - new.profiles.keys())),
        profiles_moved=_moved(old.profiles, new.profiles),
        added=tuple(sorted(path for path in come if package(path)[0] not in matched)),
        removed=tuple(sorted(path for path in gone if package(path)[0] not in matched)),
        changed=changed,
        rewritten=tuple(sorted(rewritten)),
        fetch_paths=len(fetch),
        fetch_nar_bytes=sum(new.paths[path].nar_size for path in fetch),
        fetch_file_bytes=packed_size(fetch, index),
    )


def _moved(old: Mapping[str, Profile], new: Mapping[str, Profile]) -> tuple[str, ...]:
    return tuple(sorted(name for name in old.keys() & new.keys() if old[name] != new[name]))


def _changes(gone: Iterable[str], come: Iterable[str]) -> Iterator[Change]:
    before, after = _by_name(gone), _by_name(come)
    for name in sorted(before.keys() & after.keys()):
        yield Change(name=name, old=before[name], new=after[name])


def _by_name(paths: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for path in sorted(paths):
        name, version = package(path)
        found.setdefault(name, []).append(version)
    return {name: tuple(sorted(versions)) for name, versions in found.items()}


def lines(found: Diff) -> Iterator[str]:
    """Write a comparison for people."""
    yield f"from {digest12(found.old)} to {digest12(found.new)}"
    for name, system in found.systems.items():
        rows = list(_rows(system))
        yield f"{name}: {_fetch(system)}" if rows else f"{name}: nothing changes"
        yield from (f"  {row}" for row in rows)


def _fetch(system: SystemDiff) -> str:
    if not system.fetch_paths:
        return "nothing to fetch"
    packed = system.fetch_file_bytes
    shown = f" ({size(packed)} packed)" if packed is not None else ""
    return f"{plural(system.fetch_paths, 'path')} to fetch, {size(system.fetch_nar_bytes)}{shown}"


def _rows(system: SystemDiff) -> Iterator[str]:
    yield from (f"profile {name} added" for name in system.profiles_added)
    yield from (f"profile {name} removed" for name in system.profiles_removed)
    yield from (f"profile {name} moved" for name in system.profiles_moved)
    yield from (f"~ {_change(one)}" for one in system.changed)
    yield from (f"! {short(path)} has other contents" for path in system.rewritten)
    yield from (f"+ {short(path)}" for path in system.added)
    yield from (f"- {short(path)}" for path in system.removed)


def _change(one: Change) -> str:
    if one.old == one.new:
        version = " ".join(text for text in one.new if text)
        return f"{one.name} {version} rebuilt" if version else f"{one.name} rebuilt"
    return f"{one.name} {_versions(one.old)} → {_versions(one.new)}"


def _versions(versions: tuple[str, ...]) -> str:
    return ", ".join(version or "(no version)" for version in versions)
