"""Source: when to look again, and the two documents that come from outside.

The pins are watched as a *directory* (a mounted ConfigMap swaps a link in it; a watch on the
file sees nothing), and inotify may be exhausted: a periodic resync always runs beside it.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import watchfiles

from nodeagent import pins, release
from nodeagent.cache import Cache
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.pins import Pins
from nodeagent.release import Location

POLL_SECONDS: Final = 5.0
SURPLUS_BYTES: Final = 64 * 1024  # so that a manifest that grew is called a mismatch
# How often a watcher's thread wakes up, and how long a change may wait: pins matter to people,
PINS_STEP_MILLISECONDS: Final = 125
STORE_STEP_MILLISECONDS: Final = 1000  # and what vanished from a store has to be fetched anyway.


def read_pins(file: Path) -> Pins:
    """Read the pins; raises PinsMissing or PinsInvalid."""
    try:
        # A FIFO in the file's place must not stop the agent.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as source:
            return pins.parse(source.read(pins.MAX_PINS_BYTES + 1))
    except OSError as error:
        raise NodeAgentError(
            Reason.PINS_MISSING,
            f"there are no pins at {file} ({error.strerror}); run `nodeagent promote` "
            "or mount them",
        ) from None


async def watch(
    directory: Path,
    on_change: Callable[[], None],
    matters: Callable[[watchfiles.Change, str], bool] | None = None,
    step: int = PINS_STEP_MILLISECONDS,
) -> None:
    """Call back whenever something in a directory changes that matters, until cancelled."""
    while True:
        try:
            async for _ in watchfiles.awatch(
                directory,
                watch_filter=matters,
                recursive=False,
                step=step,
                rust_timeout=60_000,
            ):
                on_change()
        except (OSError, RuntimeError):
            # No directory yet, or no inotify instance left: look now and then instead.
            await asyncio.sleep(POLL_SECONDS)
            on_change()


def is_loss(change: watchfiles.Change, path: str) -> bool:
    """Tell whether a change of the store's directory may have taken a store path away."""
    return change is watchfiles.Change.deleted and not path.endswith(".lock")


def caches_for(chosen: Iterable[str], known: Mapping[str, str]) -> list[tuple[str, str]]:
    """Resolve the cache names of pins to (name, address); raises CacheUnknown."""
    chosen = list(chosen)
    if foreign := [name for name in chosen if name not in known]:
        raise NodeAgentError(
            Reason.CACHE_UNKNOWN,
            f"the pins choose cache {foreign[0]!r}, which this agent has not (it has: "
            f"{', '.join(sorted(known)) or 'none'}); add it with --caches {foreign[0]}=ADDRESS",
        )
    return [(name, known[name]) for name in chosen]


def fetch_manifest(caches: Iterable[Cache], digest: str, size: int) -> bytes:
    """Fetch a manifest of known size from the first cache that has the right one.

    Raises the last cache's fault: CacheUnreachable, ManifestMissing or ManifestMismatch.
    """
    failure = NodeAgentError(Reason.CACHE_UNREACHABLE, "the pins choose no cache")
    for cache in caches:
        try:
            manifest = cache.fetch(release.manifest_file(digest), size + SURPLUS_BYTES)
            if manifest is None:
                raise NodeAgentError(
                    Reason.MANIFEST_MISSING,
                    f"cache {cache.name} has no manifest of release {digest}; publish it there",
                )
            release.require_digest(manifest, digest)
        except NodeAgentError as error:
            failure = error
        else:
            return manifest
    raise failure


def fetch_index(caches: Iterable[Cache], digest: str) -> Mapping[str, Location]:
    """Fetch the release's index; an empty one if no cache has any that can be read."""
    for cache in caches:
        try:
            data = cache.fetch(release.index_file(digest), release.MAX_MANIFEST_BYTES)
            if data is not None:
                return release.parse_index(data).paths
        except NodeAgentError:
            continue
    return {}
