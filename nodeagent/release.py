"""Release: the immutable, content-addressed manifest of what a node shall hold.

Its identity is the SHA-256 of its canonical bytes. Nothing in it changes with time, key or
compression; what does (addresses, signatures) stands in the `Index` beside it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from pydantic import ValidationError, field_validator

from nodeagent import model
from nodeagent.errors import NodeAgentError
from nodeagent.model import Digest, Document, NarHash, ProfileName, Size, StorePath
from nodeagent.names import API_VERSION, RESERVED_PROFILES, Kind, Reason

MAX_MANIFEST_BYTES: Final = 64 << 20


class PathInfo(Document):
    """What is fixed about one store path; `nar_size` in bytes, references with itself."""

    nar_hash: NarHash
    nar_size: Size
    references: tuple[StorePath, ...] = ()
    ca: str | None = None
    deriver: StorePath | None = None

    @field_validator("references")
    @classmethod
    def _one_order(cls, references: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(references)))


class Profile(Document):
    """A named root of the release."""

    root: StorePath
    kind: Kind = Kind.ENV


class System(Document):
    """The profiles for one architecture and the whole closure of their roots."""

    profiles: Mapping[ProfileName, Profile]
    paths: Mapping[StorePath, PathInfo]

    @field_validator("profiles")
    @classmethod
    def _no_reserved_name(cls, profiles: Mapping[str, Profile]) -> Mapping[str, Profile]:
        if taken := sorted(RESERVED_PROFILES & profiles.keys()):
            raise ValueError(f"reserved profile name: {', '.join(taken)}")
        return profiles

    @property
    def size(self) -> int:
        """Bytes of all NARs, unpacked."""
        return sum(info.nar_size for info in self.paths.values())

    def missing(self) -> tuple[str, ...]:
        """List the store paths that are referred to but not in the closure."""
        named = {profile.root for profile in self.profiles.values()}
        for info in self.paths.values():
            named.update(info.references)
        return tuple(sorted(named - self.paths.keys()))


class Source(Document):
    """Where a release was built from; each may be unknown."""

    flake: str | None = None
    rev: str | None = None
    lock_digest: Digest | None = None


class Release(Document):
    """The manifest."""

    api_version: Literal["nodeagent.dev/v1"] = API_VERSION
    kind: Literal["Release"] = "Release"
    source: Source = Source()
    systems: Mapping[str, System]

    def canonical(self) -> bytes:
        """Give the bytes that the digest is taken of: sorted keys, no blanks, UTF-8."""
        data = self.model_dump(mode="json", by_alias=True)
        return json.dumps(
            data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()


class Location(Document):
    """Where a cache holds one NAR. It proves nothing: narHash and signature decide."""

    url: str
    compression: str
    file_hash: NarHash
    file_size: Size
    sigs: tuple[str, ...] = ()


class Index(Document):
    """`<digest>.index`: the locations of a release's paths; spares a narinfo request each."""

    paths: Mapping[StorePath, Location]


def digest_of(manifest: bytes) -> str:
    """Name a manifest: `sha256:` and 64 hex digits."""
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def digest12(digest: str) -> str:
    """Shorten a digest to the 12 hex digits that directories are named by."""
    return digest.removeprefix("sha256:")[:12]


def manifest_file(digest: str) -> str:
    """Say where a cache keeps the manifest, relative to its root."""
    return f"releases/{digest.removeprefix('sha256:')}.json"


def index_file(digest: str) -> str:
    """Say where a cache keeps the index, relative to its root."""
    return f"releases/{digest.removeprefix('sha256:')}.index"


def require_digest(manifest: bytes, digest: str) -> None:
    """Refuse bytes that are not the manifest of this digest."""
    if (found := digest_of(manifest)) != digest:
        raise NodeAgentError(
            Reason.MANIFEST_MISMATCH,
            f"the manifest fetched for {digest} has digest {found}; "
            "publish it again with `nodeagent release publish` or drop the broken mirror",
        )


def parse(manifest: bytes, digest: str) -> Release:
    """Read a manifest that must have this digest and be closure-complete."""
    require_digest(manifest, digest)
    try:
        release = Release.model_validate_json(manifest, strict=True)
    except ValidationError as error:
        raise NodeAgentError(
            Reason.MANIFEST_INVALID,
            f"release {digest12(digest)} cannot be read: {model.explain(error)}; "
            "build it with the same major version of nodeagent",
        ) from None
    for name, system in release.systems.items():
        require_complete(name, system)
    return release


def parse_index(data: bytes) -> Index:
    """Read an index; raises ManifestInvalid. An index may lack paths."""
    try:
        return Index.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise NodeAgentError(
            Reason.MANIFEST_INVALID, f"release index cannot be read: {model.explain(error)}"
        ) from None


def require_complete(name: str, system: System) -> None:
    """Refuse a system whose closure lacks paths, naming them."""
    if missing := system.missing():
        shown = "\n  ".join(missing[:20])
        more = f"\n  … and {len(missing) - 20} more" if len(missing) > 20 else ""
        raise NodeAgentError(
            Reason.CLOSURE_INCOMPLETE,
            f"the closure for {name} lacks {len(missing)} store paths; add them to the store "
            f"that the release is built from:\n  {shown}{more}",
        )


def for_system(release: Release, system: str) -> System:
    """Pick the part for one architecture, e.g. `x86_64-linux`."""
    if found := release.systems.get(system):
        return found
    raise NodeAgentError(
        Reason.SYSTEM_MISSING,
        f"the release has no {system}, only {', '.join(sorted(release.systems)) or 'nothing'}; "
        f"build it with `--profile` for {system} too",
    )


def elsewhere(release: Release, system: str) -> dict[str, tuple[str, ...]]:
    """List the profiles that a release has for other systems only, and for which."""
    own = release.systems[system].profiles if system in release.systems else {}
    found: dict[str, tuple[str, ...]] = {}
    for other, part in sorted(release.systems.items()):
        for name in part.profiles.keys() - own.keys():
            found[name] = (*found.get(name, ()), other)
    return dict(sorted(found.items()))


def references_first(paths: Mapping[str, PathInfo]) -> Iterator[str]:
    """Order a closure so that each path comes after what it refers to; deterministic.

    Self-references are passed over, and a cycle (impossible in a real store) ends the descent.
    """
    done: set[str] = set()
    for start in sorted(paths):
        stack = [(start, iter(sorted(paths[start].references)))]
        if start in done:
            continue
        done.add(start)
        while stack:
            path, rest = stack[-1]
            for reference in rest:
                if reference not in done and reference in paths:
                    done.add(reference)
                    stack.append((reference, iter(sorted(paths[reference].references))))
                    break
            else:
                stack.pop()
                yield path


def closure(paths: Mapping[str, PathInfo], root: str) -> frozenset[str]:
    """Give all that `root` reaches through references, itself included."""
    seen, todo = {root}, [root]
    while todo:
        for reference in paths[todo.pop()].references:
            if reference not in seen:
                seen.add(reference)
                todo.append(reference)
    return frozenset(seen)
