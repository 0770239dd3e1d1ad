"""Store paths, caches, releases and signed records, made by hand: no Nix, no bake."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import zstandard
from nacl.signing import SigningKey

from nodeagent import keys, narinfo, release, storepath
from nodeagent.keys import SecretKey
from nodeagent.narinfo import NarInfo
from nodeagent.pins import Channel, ChannelRecord, Envelope, Pins
from nodeagent.realise.jobs import Job, Where
from nodeagent.release import PathInfo, Profile, Release, System
from tests import nars

NOW: Final = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY: Final = timedelta(days=1)
SYSTEM: Final = "x86_64-linux"
RELEASE_KEY: Final = SecretKey("release-1", SigningKey(b"\1" * 32))
CACHE_KEY: Final = SecretKey("cache-1", SigningKey(b"\2" * 32))
STRANGER: Final = SecretKey("cache-1", SigningKey(b"\3" * 32))
TREE: Final = nars.Directory(
    {
        b"bin": nars.Directory({b"hello": nars.File(b"#!/bin/sh\n" * 9000, executable=True)}),
        b"empty": nars.Directory({}),
        b"link": nars.Link(b"bin/hello"),
        b"\xff odd": nars.File(b""),
    }
)


def path(name: str) -> str:
    """Make up a store path: always the same one for a name."""
    return f"/nix/store/{storepath.base32(hashlib.sha256(name.encode()).digest()[:20])}-{name}"


@dataclass(frozen=True)
class Item:
    """One store path with what is in it."""

    path: str
    tree: nars.Tree = TREE
    references: tuple[str, ...] = ()

    @property
    def nar(self) -> bytes:
        return nars.encode(self.tree)

    @property
    def info(self) -> PathInfo:
        return PathInfo(
            nar_hash=storepath.nar_hash(hashlib.sha256(self.nar).digest()),
            nar_size=len(self.nar),
            references=self.references,
        )

    def sign(self, key: SecretKey = CACHE_KEY) -> str:
        one = self.info
        signed = keys.fingerprint(self.path, one.nar_hash, one.nar_size, one.references)
        return key.sign_text(signed)

    def job(self, where: Where | None = None, found: Path | None = None) -> Job:
        one = self.info
        return Job(
            self.path,
            one.nar_hash,
            one.nar_size,
            one.references,
            where,
            str(found) if found else None,
        )


ITEM: Final = Item(path("item"), references=(path("item"), path("lib")))


@dataclass(frozen=True)
class CacheFiles:
    """A binary cache in a directory."""

    root: Path

    @property
    def url(self) -> str:
        return self.root.as_uri()

    def add(
        self,
        item: Item,
        *,
        key: SecretKey = CACHE_KEY,
        compression: str = "zstd",
        pack: Callable[[bytes], bytes] = zstandard.compress,
        tell: Callable[[NarInfo], NarInfo] = lambda info: info,
    ) -> Where:
        """Put a path there, with the narinfo that `tell` makes of the true one. Say where."""
        where = Where(f"nar/{storepath.hash_part(item.path)}.nar", compression, [item.sign(key)])
        self.write(where.url, pack(item.nar))
        info = NarInfo(
            item.path,
            where.url,
            compression,
            item.info.nar_hash,
            item.info.nar_size,
            item.references,
            sigs=tuple(where.sigs),
        )
        self.write(f"{storepath.hash_part(item.path)}.narinfo", narinfo.render(tell(info)).encode())
        return where

    def write(self, file: str, data: bytes) -> None:
        (self.root / file).parent.mkdir(parents=True, exist_ok=True)
        (self.root / file).write_bytes(data)


def system(*items: Item, profiles: Mapping[str, str] | None = None) -> System:
    """Make a node's part of a release; if nothing else is said, the last item is profile `ds`."""
    roots = profiles or {"ds": items[-1].path}
    return System(
        profiles={name: Profile(root=root) for name, root in roots.items()},
        paths={item.path: item.info for item in items},
    )


def manifest(*items: Item) -> bytes:
    """Make a release of these items, the last one its root."""
    return Release(systems={SYSTEM: system(*items)}).canonical()


def digest(number: int) -> str:
    """Name a release that nobody has."""
    return f"sha256:{number:064x}"


def record(serial: int, **changes: object) -> ChannelRecord:
    """Make a record; by default of fleet `ml`, channel `stable`, release number `serial`."""
    facts: dict[str, object] = {
        "fleet": "ml",
        "channel": "stable",
        "serial": serial,
        "release": digest(serial),
        "release_size": 1,
        "created_at": NOW,
        "expires_at": NOW + DAY,
    }
    return ChannelRecord.model_validate(facts | changes)


def seal(serial: int, **changes: object) -> Envelope:
    """Sign a record."""
    return Envelope.seal(record(serial, **changes), RELEASE_KEY)


def pins(**channels: Channel) -> Pins:
    """Make a pins document."""
    return Pins(caches=("main",), channels=channels)


def index_of(data: bytes) -> str:
    """Say where a cache keeps the index of this manifest."""
    return release.index_file(release.digest_of(data))
