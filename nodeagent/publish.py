"""Publish: make a verified generation visible to pods, by renames, gates last.

Under the run directory (tmpfs: gone at reboot, made again only after verification):
`store` → the host's store directory · `releases/<digest12>/<profile>/` → links that resolve in
the pod · `profiles/<profile>` → one of those, or nowhere while the gate is shut: where nothing is,
container runtimes make a directory for whoever starts again, and it would find that empty.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent.release import Profile, System, digest12
from nodeagent.store import StoreFiles, remove, swap_symlink, usable

RELEASE_FILE: Final = "release.json"
SHUT: Final = "../shut"  # where a gate leads that leads nowhere
MAX_LINKS: Final = 40  # as many as Linux follows


@dataclass(frozen=True)
class Generation:
    """A release as one node holds it."""

    digest: str
    serial: int
    system: System


@dataclass(frozen=True)
class Gates:
    """The run directory; `host_store` is what the host calls the store directory."""

    run_dir: Path
    host_store: str

    @property
    def store(self) -> Path:
        """The link that pods mount at /nix/store."""
        return self.run_dir / "store"

    def profile(self, name: str) -> Path:
        """The link that pods mount at /opt/nodeagent/<profile>."""
        return self.run_dir / "profiles" / name

    def release(self, digest: str, profile: str) -> Path:
        """The directory that such a link points to."""
        return self.run_dir / "releases" / digest12(digest) / profile

    def publish(self, files: StoreFiles, generation: Generation) -> None:
        """Root the generation, lay its directories out, then open the gates."""
        profiles = generation.system.profiles
        files.set_roots(
            digest12(generation.digest), {name: one.root for name, one in profiles.items()}
        )
        with usable(self.run_dir):
            for name, profile in profiles.items():
                self._lay_out(files, generation, name, profile)
            _lead(self.store, self.host_store)
            for name in profiles:
                target = os.path.join("..", "releases", digest12(generation.digest), name)  # noqa: PTH118 a link's text
                _lead(self.profile(name), target)

    def withdraw(self, profiles: Iterable[str]) -> None:
        """Shut the gates of these profiles: containers that start now wait."""
        for link in map(self.profile, profiles):
            try:
                _lead(link, SHUT)
            except OSError:  # no room for a link, say
                link.unlink(missing_ok=True)

    def withdraw_all(self) -> None:
        """Shut every gate and forget what was laid out: of an earlier boot, or unknown."""
        self.withdraw(link.name for link in self._links())
        shutil.rmtree(self.run_dir / "releases", ignore_errors=True)

    def open(self) -> list[tuple[str, str]]:
        """List the gates that are open: profile, and the first 12 digits of the release."""
        links = (link for link in self._links() if _is_open(link))
        return [(link.name, link.readlink().parts[-2]) for link in links]

    def _links(self) -> list[Path]:
        return list((self.run_dir / "profiles").glob("[!.]*"))

    def put_aside(self, digest: str) -> None:
        """Make a release's directories unfindable; who has them mounted keeps them."""
        _move(self._aside(digest), self.release(digest, ""))

    def bring_back(self, digest: str) -> None:
        """Undo that; what was laid out anew meanwhile stays instead."""
        _move(self.release(digest, ""), self._aside(digest))

    def forget(self, digest: str) -> None:
        """Remove a release's directories: nobody has them mounted."""
        for directory in (self.release(digest, ""), self._aside(digest)):
            with usable(self.run_dir):
                remove(directory)

    def _aside(self, digest: str) -> Path:
        return self.run_dir / "releases" / f".{digest12(digest)}"

    def shut(self, profiles: Iterable[str]) -> list[str]:
        """List the profiles whose gate, or the store's, does not lead to a directory."""
        return [
            name
            for name in profiles
            if not (self.store.is_symlink() and _is_open(self.profile(name)))
        ]

    def _lay_out(
        self, files: StoreFiles, generation: Generation, name: str, profile: Profile
    ) -> None:
        """Build the directory aside, then rename it: it is complete or absent."""
        directory = self.release(generation.digest, name)
        if directory.exists():
            return
        fresh = directory.with_name(f".{name}.new")
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(fresh)
        fresh.mkdir(parents=True)
        for entry in _entries(files, profile.root):
            (fresh / entry).symlink_to(f"{profile.root}/{entry}")
        facts = {
            "release": generation.digest,
            "serial": generation.serial,
            "profile": name,
            "kind": profile.kind,
            "root": profile.root,
        }
        remove(fresh / RELEASE_FILE)
        (fresh / RELEASE_FILE).write_text(json.dumps(facts, indent=1) + "\n")
        fresh.rename(directory)


def _lead(link: Path, target: str) -> None:
    """Let a gate lead somewhere else in one step; a directory that somebody made there goes."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        remove(link)
    swap_symlink(link, target)


def _is_open(gate: Path) -> bool:
    return gate.is_symlink() and gate.is_dir()


def _move(target: Path, source: Path) -> None:
    with usable(source.parent), contextlib.suppress(FileNotFoundError):
        if not target.exists():
            source.rename(target)


def _entries(files: StoreFiles, root: str) -> list[str]:
    """List what a profile holds; its root may be a link to another path of the same store."""
    place = files.real(root)
    for _ in range(MAX_LINKS):
        if not place.is_symlink():
            break
        target = place.readlink()
        place = files.real(str(target)) if target.is_absolute() else place.parent / target
    return [entry.name for entry in os.scandir(place)] if place.is_dir() else []
