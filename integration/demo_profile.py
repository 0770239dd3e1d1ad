"""The profile of `nodeagent demo` (Python with pandas and more), made once for all tests."""

import asyncio
from pathlib import Path
from typing import Final

from integration import closures
from integration.closures import Closure
from integration.cluster import cache
from nodeagent.demo import profile

REPOSITORY: Final = Path(__file__).parents[1]
SOURCES: Final = ("examples/ds", "nix/profiles", "nodeagent/demo")


def demo_closure() -> Closure:
    """Give the closure in a store that is kept between runs; it takes a minute and a network."""
    name = f"profile-{cache.key([REPOSITORY / one for one in SOURCES])}"
    store_root = cache.made(name, _make, keep=1)
    root = (store_root / "root").read_text()
    paths = closures.nix_store(store_root, "--query", "--requisites", root).split()
    return Closure(store_root, root, tuple(paths))


def _make(target: Path) -> None:
    cache.say("making the profile of the demo; this takes about a minute")
    downloads = target / "downloads"
    root = asyncio.run(_build(downloads, target))
    (target / "root").write_text(str(root))
    cache.remove(downloads)


async def _build(downloads: Path, target: Path) -> Path:
    inputs = await profile.fetch(downloads, cache.say)
    return await profile.build(inputs, target, lambda _: None)
