"""Signs packed paths and writes their narinfos, references first.

So whoever asks the cache while a build runs, or after one that was ended, finds no path whose
references are not there too; and the next build goes on where this one ended.
"""

from collections.abc import Iterable, Mapping

from nodeagent import keys
from nodeagent.bake.directory import CacheDirectory
from nodeagent.bake.pack import COMPRESSION, Packed
from nodeagent.keys import SecretKey
from nodeagent.nix import Registration
from nodeagent.release import Location, PathInfo


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


class Commit:
    """Which of a build's paths have their narinfo, and which wait for those they refer to."""

    def __init__(
        self, directory: CacheDirectory, key: SecretKey, paths: Mapping[str, Registration]
    ) -> None:
        self.directory, self.key, self.paths = directory, key, paths
        self.locations: dict[str, Location] = {}
        self.written = 0
        self._packed: dict[str, Location] = {}
        self._lacking = {path: {*one.info.references} - {path} for path, one in paths.items()}
        self._referrers: dict[str, list[str]] = {path: [] for path in paths}
        for path, lacking in self._lacking.items():
            for reference in lacking:
                self._referrers[reference].append(path)

    def take(self, path: str, location: Location) -> None:
        """Note that a path is packed, and write every narinfo that is now due."""
        self._packed[path] = location
        due = [path]
        while due:
            path = due.pop()
            if path in self._packed and not self._lacking[path]:
                self._write(self.paths[path], self._packed.pop(path))
                for referrer in self._referrers[path]:
                    self._lacking[referrer].remove(path)
                due += self._referrers[path]

    def _write(self, one: Registration, location: Location) -> None:
        sigs = signed_by(self.key, one.path, one.info, (*location.sigs, *one.sigs))
        location = location.model_copy(update={"sigs": sigs})
        self.written += self.directory.put_narinfo(one.path, one.info, location)
        self.locations[one.path] = location
