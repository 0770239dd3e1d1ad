"""A node as an agent leaves it, to be cleaned up: directories, and objects of a fake API server."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nodeagent import cleanup
from nodeagent.config import CleanupSettings
from nodeagent.ledger import Held, Ledger
from nodeagent.publish import Gates, Generation
from nodeagent.store import StoreFiles
from tests import nars
from tests.handmade import NOW, Item, digest, path, system
from tests.loops import finish

ITEM: Final = Item(path("ds"))
CONTENT: Final = f"host{ITEM.path}"


@dataclass(frozen=True)
class Traces:
    """The directories of a node under `root`."""

    root: Path
    store_root: str = "host"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> StoreFiles:
        return StoreFiles(self.root / self.store_root)

    @property
    def run_dir(self) -> Path:
        return self.root / "run/nodeagent"

    @property
    def state_dir(self) -> Path:
        return self.root / "lib/nodeagent"

    def live(self, *, share: bool = False) -> "Traces":
        """Do what an agent does that has published a release and was killed in the next pass."""
        files = self.files
        files.claim(share=share)
        for place in (files.real(ITEM.path), files.staged(path("next")), files.displaced / "old.1"):
            nars.write(ITEM.tree, os.fsencode(place))
        _shut(files.real(ITEM.path))
        for name in ("db/db.sqlite", "profiles/per-user"):
            (self.files.root / "nix/var/nix" / name).parent.mkdir(parents=True, exist_ok=True)
            (self.files.root / "nix/var/nix" / name).write_text("")
        files.root_pending([path("next")])
        Gates(self.run_dir, "/nix/store").publish(
            files, Generation(digest(7), 7, system(ITEM, profiles={"ds": ITEM.path}))
        )
        finish(self._remember())
        return self

    def clean(self, **settings: object) -> None:
        """Run the cleanup."""
        finish(cleanup.run(self.flags(**settings)))

    def flags(self, **settings: object) -> CleanupSettings:
        given: dict[str, Any] = {
            "node_name": "node-1",
            "store_root": self.root / self.store_root,
            "host_store": "/nix/store",
            "state_dir": self.state_dir,
            "run_dir": self.run_dir,
            "kubernetes": "off",
        }
        return CleanupSettings(**{**given, **self.settings, **settings})

    def tree(self, below: str = "") -> set[str]:
        """List all that lies there, directories only if they are empty."""
        found = set()
        for directory, inner, names in os.walk(self.root / below):
            here = Path(directory).relative_to(self.root)
            links = [one for one in inner if (Path(directory) / one).is_symlink()]
            found |= {str(here / name) for name in (*names, *links)}
            if not inner and not names:
                found.add(str(here))
        return found

    async def _remember(self) -> None:
        ledger = Ledger(self.state_dir)
        async with ledger.owned(lambda: None):
            ledger.keep_manifest(digest(7), json.dumps({}).encode())
            held = Held(channel="stable", serial=7, release=digest(7), caches=("main",))
            ledger.publish(held, "boot", NOW)


def _shut(tree: Path) -> None:
    """Give directories the mode that they have in a store."""
    for directory, _, _ in os.walk(tree, topdown=False):
        Path(directory).chmod(0o555)
