"""Collect: delete the paths that nothing needs any more, through Nix.

Roots went before. What the remaining ones need stays, whoever made them; Nix looks again before
it deletes, and what it finds alive stays, too. Interrupted anywhere it is begun anew.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from nodeagent import roots
from nodeagent.nix import Nix
from nodeagent.release import references_first
from nodeagent.store import StoreFiles

BATCH: Final = 500  # paths a call: each is an end that can be waited for


@dataclass
class Swept:
    """What was deleted; bytes are of NARs. `alive` are paths that Nix kept."""

    paths: int = 0
    bytes: int = 0
    alive: tuple[str, ...] = ()


async def sweep(files: StoreFiles, nix: Nix, candidates: Iterable[str], swept: Swept) -> None:
    """Delete those of the candidates that no root needs, referrers first; count in `swept`."""
    gcroots = files.roots.parent
    live = await asyncio.to_thread(lambda: nix.live(roots.rooted(gcroots)))
    dead = [path for path in candidates if path not in live]
    facts = {one.path: one.info for one in await asyncio.to_thread(nix.registered, dead)}
    order = [*references_first(facts)][::-1]
    for batch in _batches(order):
        alive = await nix.delete(batch)
        gone = [facts[path] for path in batch if path not in alive]
        swept.paths += len(gone)
        swept.bytes += sum(info.nar_size for info in gone)
        swept.alive += tuple(alive)


def _batches(paths: Sequence[str]) -> Iterable[Sequence[str]]:
    return (paths[at : at + BATCH] for at in range(0, len(paths), BATCH))
