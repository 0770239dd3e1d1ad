"""Signs packed paths and writes their narinfos, references first.

So whoever asks the cache while a build runs, or after one that was ended, finds no path whose
references are not there too; and the next build goes on where this one ended.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nodeagent import keys
from nodeagent.bake.directory import CacheDirectory
from nodeagent.bake.pack import COMPRESSION, Packed
from nodeagent.keys import SecretKey
from nodeagent.nix import Registration
from nodeagent.release import Location, PathInfo, references_first


def known(directory: CacheDirectory, one: Registration) -> Location | None:
    """Say where the cache has this very path, and who vouches for just these facts."""
    found, info = directory.narinfo(one.path), one.info
    if found is None or found.file_hash is None or found.file_size is None:
        return None
    if (found.path, found.nar_hash, found.nar_size) != (one.path, info.nar_hash, info.nar_size):
        return None
    if not directory.has(found.url, found.file_size):
        return None
    return Location(
        url=found.url,
        compression=found.compression,
        file_hash=found.file_hash,
        file_size=found.file_size,
        sigs=found.sigs if set(found.references) == set(info.references) else (),
    )


def location_of(packed: Packed) -> Location:
    """Say where a fresh NAR lies."""
    return Location(
        url=packed.url,
        compression=COMPRESSION,
        file_hash=packed.file_hash,
        file_size=packed.file_size,
    )


def signed_by(key: SecretKey, path: str, info: PathInfo, sigs: Iterable[str]) -> tuple[str, ...]:
    """Add the key's signature; whatever else bears its name is no longer valid."""
    data = keys.fingerprint(path, info.nar_hash, info.nar_size, info.references)
    others = {sig for sig in sigs if not sig.startswith(f"{key.name}:")}
    return tuple(sorted(others | {key.sign_text(data)}))


@dataclass
class Commit:
    """What of a build is packed, and what has its narinfo."""

    directory: CacheDirectory
    key: SecretKey
    paths: Mapping[str, Registration]
    locations: dict[str, Location] = field(default_factory=dict)
    written: int = 0
    _packed: dict[str, Location | None] = field(default_factory=dict)
    _order: Sequence[str] = ()
    _at: int = 0

    def __post_init__(self) -> None:
        infos = {path: one.info for path, one in self.paths.items()}
        self._order = tuple(references_first(infos))

    @property
    def order(self) -> Sequence[str]:
        """Every path after its references: the best order to pack them in, too."""
        return self._order

    def take(self, path: str, location: Location | None) -> None:
        """Note that a path is packed, or that it failed (None)."""
        self._packed[path] = location

    def advance(self) -> None:
        """Write the narinfos that are due; what refers to a failed path never is."""
        while self._at < len(self._order) and self._order[self._at] in self._packed:
            path = self._order[self._at]
            self._at += 1
            location, one = self._packed[path], self.paths[path]
            if location and self.locations.keys() >= {*one.info.references} - {path}:
                self._write(one, location)

    def _write(self, one: Registration, location: Location) -> None:
        sigs = signed_by(self.key, one.path, one.info, (*location.sigs, *one.sigs))
        location = location.model_copy(update={"sigs": sigs})
        self.written += self.directory.put_narinfo(one.path, one.info, location)
        self.locations[one.path] = location
