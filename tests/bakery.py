"""A store made by hand, its stand-in for Nix, and a cache directory to bake into."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from nodeagent import nar, storepath
from nodeagent.bake import build
from nodeagent.bake.directory import CacheDirectory
from nodeagent.bake.pool import Pool
from nodeagent.bake.spec import Part
from nodeagent.keys import SecretKey, TrustedKeys
from nodeagent.names import STORE_DIR, Kind
from nodeagent.nix import Nix
from nodeagent.release import Profile

SYSTEM = "x86_64-linux"
STANDIN = (sys.executable, str(Path(__file__).with_name("standin_nix.py")))
Contents = Mapping[str, bytes]


def made_up(name: str) -> str:
    return f"{STORE_DIR}/{storepath.base32(sha256(name.encode()).digest()[:20])}-{name}"


def key(name: str = "cache-1", seed: int = 1) -> SecretKey:
    return SecretKey(name, SigningKey(bytes([seed]) * 32))


def trust(*keys: SecretKey) -> TrustedKeys:
    return TrustedKeys({one.name: one.key.verify_key for one in keys})


@dataclass
class Store:
    """A store under `root`; what is registered may differ from what lies there."""

    root: Path
    registered: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(
        self,
        name: str,
        contents: Contents | bytes = b"",
        references: Sequence[str] = (),
        sigs: Sequence[str] = (),
    ) -> str:
        """Write a path and register it."""
        path = made_up(name)
        real = self.real(path)
        if isinstance(contents, bytes):
            real.parent.mkdir(parents=True, exist_ok=True)
            real.write_bytes(contents)
        else:
            for file, data in contents.items():
                (real / file).parent.mkdir(parents=True, exist_ok=True)
                (real / file).write_bytes(data)
        self.register(path, references, sigs)
        return path

    def register(self, path: str, references: Sequence[str], sigs: Sequence[str] = ()) -> None:
        digest, size = nar.hash_tree(os.fsencode(self.real(path)))
        self.registered[path] = {
            "narHash": storepath.nar_hash(digest),
            "narSize": size,
            "references": list(references),
            "signatures": list(sigs),
        }
        self.save()

    def save(self) -> None:
        (self.root / "registered.json").write_text(json.dumps(self.registered))

    def real(self, path: str) -> Path:
        return storepath.real(self.root, path)

    def part(self, system: str = SYSTEM, **profiles: str) -> Part:
        named = {name: Profile(root=root, kind=Kind.ENV) for name, root in profiles.items()}
        return Part(system, self.root, named)


@dataclass
class Bakery:
    """Bakes from stand-in stores into `directory`."""

    directory: Path
    key: SecretKey = field(default_factory=key)
    pool: Pool = field(default_factory=lambda: Pool(workers=2))

    @property
    def cache(self) -> CacheDirectory:
        return CacheDirectory(self.directory)

    @property
    def means(self) -> build.Means:
        return build.Means(self.cache, self.key, standin, self.pool)

    async def bake(self, *parts: Part) -> build.Built:
        return await build.build(parts, self.means)

    def visible(self) -> set[str]:
        """List what a reader of the directory sees."""
        files = (file for file in self.directory.rglob("*") if file.is_file())
        return {str(file.relative_to(self.directory)) for file in files if file.name[0] != "."}

    def hidden(self) -> set[str]:
        """List what was being written, but for the lock."""
        return {file.name for file in self.directory.rglob(".*")} - {".lock"}


def standin(root: Path) -> Nix:
    return Nix(root, nix_store=STANDIN, nix=STANDIN)


def small(root: Path, version: str = "1") -> tuple[Store, str]:
    """Make a store with a profile of three paths: data, library, environment."""
    store = Store(root)
    data = store.add("data", b"data\n")
    library = store.add("lib-1.0", {"lib/a.so": b"library" * 1000}, [data])
    root_path = made_up(f"env-{version}")
    contents = {"bin/run": b"#!/bin/sh\n", "version": version.encode()}
    return store, store.add(f"env-{version}", contents, [data, library, root_path])
