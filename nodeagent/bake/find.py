"""A release by name: its digest or the start of it in a cache, or a manifest file."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent import release
from nodeagent.cache import Cache
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.release import MAX_MANIFEST_BYTES, Index, Release

_HEX: Final = re.compile(r"(?:sha256:)?(?P<digits>[0-9a-f]{1,64})")
_WHOLE: Final = 64
_FILE: Final = re.compile(r"[0-9a-f]{64}\.json")


@dataclass(frozen=True)
class Found:
    """A release, the cache that has it, and its index if there is one."""

    digest: str
    manifest: bytes
    release: Release
    cache: Cache
    index: Index | None


def find(name: str, cache: str | None) -> Found:
    """Read a release; `cache` is a directory or an address, and may lack beside a file.

    Raises ManifestMissing, ManifestMismatch, ManifestInvalid or ClosureIncomplete.
    """
    if name.endswith(".json"):
        return _from_file(Path(name), cache)
    if cache is None:
        raise _unknown(f"release {name}: no cache is given")
    return _read(_whole(name, cache), Cache(cache, address(cache)))


def address(cache: str) -> str:
    """Give the address of a cache that is named by directory or by address."""
    return cache if "://" in cache else Path(cache).resolve().as_uri()


def _from_file(file: Path, cache: str | None) -> Found:
    """Read a manifest file; one that is named by a digest must have it."""
    try:
        manifest = file.read_bytes()
    except OSError as error:
        raise _unknown(f"manifest {file}: {error.strerror}") from None
    named = f"sha256:{file.stem}" if _FILE.fullmatch(file.name) else release.digest_of(manifest)
    whence = Cache(str(file), address(cache or str(file.parent.parent)))
    return Found(named, manifest, release.parse(manifest, named), whence, _index(whence, named))


def _read(digest: str, cache: Cache) -> Found:
    manifest = cache.fetch(release.manifest_file(digest), MAX_MANIFEST_BYTES)
    if manifest is None:
        raise _unknown(f"release {digest} is not in cache {cache.name}")
    return Found(digest, manifest, release.parse(manifest, digest), cache, _index(cache, digest))


def _index(cache: Cache, digest: str) -> Index | None:
    data = cache.fetch(release.index_file(digest), MAX_MANIFEST_BYTES)
    return None if data is None else release.parse_index(data)


def _whole(name: str, cache: str) -> str:
    match = _HEX.fullmatch(name)
    if match is None:
        raise _unknown(f"{name!r} is no digest")
    digits = match["digits"]
    if len(digits) == _WHOLE:
        return f"sha256:{digits}"
    if "://" in cache:
        raise _unknown(f"release {name}: only a directory can be asked for the start of a digest")
    return f"sha256:{_only(digits, Path(cache))}"


def _only(digits: str, directory: Path) -> str:
    found = [one for one in listed(directory) if one.startswith(digits)]
    match found:
        case [one]:
            return one
        case []:
            raise _unknown(f"no release in {directory} begins with {digits}")
        case _:
            raise _unknown(f"{len(found)} releases in {directory} begin with {digits}")


def listed(directory: Path) -> list[str]:
    """List the releases of a cache directory by their hex digits."""
    files = (directory / "releases").glob("*.json")
    return sorted(file.stem for file in files if _FILE.fullmatch(file.name))


def _unknown(cause: str) -> NodeAgentError:
    return NodeAgentError(
        Reason.MANIFEST_MISSING,
        f"{cause}; name a release by its digest (or the start of it) and --cache DIRECTORY, "
        "or by its manifest file",
    )
