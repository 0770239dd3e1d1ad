"""Is a release whole in a cache? Every fault is found, not only the first.

The manifest's digest and its closure are checked as it is read; here each path's location,
signature and NAR.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from nodeagent import keys, narinfo, storepath
from nodeagent.bake.find import Found
from nodeagent.cache import Cache, Undecodable, decoder
from nodeagent.errors import NodeAgentError
from nodeagent.keys import TrustedKeys
from nodeagent.model import Document
from nodeagent.release import Location, PathInfo

_CHUNK: Final = 256 * 1024


class Fault(Document):
    """What is wrong with one path."""

    path: str
    problem: str


class Verified(Document):
    """What was checked, and every fault."""

    digest: str
    paths: int
    contents: bool
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class _Check:
    cache: Cache
    trusted: TrustedKeys
    contents: bool


@dataclass(frozen=True)
class _Where:
    """Where a path's NAR is said to lie, by index or narinfo."""

    url: str
    compression: str
    file_size: int | None
    sigs: Sequence[str]


class _Wrong(Exception):  # noqa: N818 internal: ends the check of one path
    pass


def verify(found: Found, trusted: TrustedKeys, *, contents: bool) -> Verified:
    """Check every path; `contents` also unpacks and hashes every NAR.

    Threads suffice: decompressing and hashing leave the interpreter's lock.
    """
    index = found.index.paths if found.index else {}
    paths = {
        path: info for one in found.release.systems.values() for path, info in one.paths.items()
    }
    check = _Check(found.cache, trusted, contents)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        each = [(path, info, index.get(path)) for path, info in sorted(paths.items())]
        problems = threads.map(lambda one: list(_problems(check, *one)), each)
        faults = [
            Fault(path=path, problem=problem)
            for (path, _, _), told in zip(each, problems, strict=True)
            for problem in told
        ]
    return Verified(digest=found.digest, paths=len(paths), contents=contents, faults=tuple(faults))


def lines(verified: Verified) -> Iterator[str]:
    """Write the outcome for people."""
    for fault in verified.faults:
        yield f"{fault.path}: {fault.problem}"
    how = "contents checked" if verified.contents else "contents not checked (--contents does)"
    bad = len({fault.path for fault in verified.faults})
    yield f"{verified.digest}: {verified.paths:,} paths, {bad:,} faulty, {how}"


def _problems(check: _Check, path: str, info: PathInfo, location: Location | None) -> Iterator[str]:
    try:
        where = _told(location) if location else _asked(check.cache, path, info)
        signed = keys.fingerprint(path, info.nar_hash, info.nar_size, info.references)
        if not check.trusted.verify_texts(where.sigs, signed):
            yield f"no valid signature by a trusted key (trusted: {check.trusted.names})"
        _check_nar(check, info, where)
    except (_Wrong, Undecodable, NodeAgentError) as error:
        yield str(error)


def _told(location: Location) -> _Where:
    return _Where(location.url, location.compression, location.file_size, location.sigs)


def _asked(cache: Cache, path: str, info: PathInfo) -> _Where:
    """Take the narinfo's word, for want of an index entry."""
    name = f"{storepath.hash_part(path)}.narinfo"
    text = cache.fetch(name, narinfo.MAX_BYTES)
    if text is None:
        raise _Wrong(f"it is not in the index and has no narinfo ({name})")
    try:
        found = narinfo.parse(text.decode())
    except ValueError as error:
        raise _Wrong(f"its narinfo {name} cannot be read: {error}") from None
    if (found.path, found.nar_hash, found.nar_size) != (path, info.nar_hash, info.nar_size):
        raise _Wrong(f"its narinfo {name} differs from the manifest")
    return _Where(found.url, found.compression, found.file_size, found.sigs)


def _check_nar(check: _Check, info: PathInfo, where: _Where) -> None:
    with check.cache.open(where.url) as source:
        if source is None:
            raise _Wrong(f"its NAR is missing ({where.url})")
        size = source.total
        if None not in {size, where.file_size} and size != where.file_size:
            raise _Wrong(f"its NAR {where.url} has {size:,} bytes instead of {where.file_size:,}")
        if check.contents:
            _check_contents(decoder(where.compression, source), info, where.url)


def _check_contents(read: Callable[[int], bytes], info: PathInfo, url: str) -> None:
    digest, size = hashlib.sha256(), 0
    while size <= info.nar_size and (chunk := read(_CHUNK)):
        digest.update(chunk)
        size += len(chunk)
    found = storepath.nar_hash(digest.digest())
    if (found, size) != (info.nar_hash, info.nar_size):
        raise _Wrong(f"its NAR {url} has hash {found} instead of {info.nar_hash}")
