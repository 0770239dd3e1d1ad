"""A store with three whole paths, a scrub of it, and a stand-in for what an agent gives a scrub."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, cast

from nodeagent import log
from nodeagent.agent.flow import Flow
from nodeagent.agent.scrub import Pace, Scrubbing
from nodeagent.ledger import Held, Ledger
from nodeagent.metrics import Metrics
from nodeagent.nix import Registration
from nodeagent.report import Report
from nodeagent.store import StoreFiles
from nodeagent.verify.scrub import WORKER, Fault, Scrub
from tests import nars
from tests.handmade import NOW, Item, digest, path

ITEMS: Final = [
    Item(path("item")),
    Item(path("file"), nars.File(b"plain")),
    Item(path("link"), nars.Link(b"/nowhere")),
]
CONTENTS: Final = [Registration(item.path, item.info) for item in ITEMS]
_MORTAL: Final = """
import json, os, sys
for line in sys.stdin:
    tree = json.loads(line)["tree"]
    print(json.dumps({"is": "Progress", "bytes": 10}), flush=True)
    if tree.endswith("-file") and not os.path.exists(tree + ".died"):
        open(tree + ".died", "w").close()
        sys.exit(3)
    print(json.dumps({"is": "Unreadable", "fault": "read badly"}), flush=True)
"""
MORTAL: Final = (sys.executable, "-S", "-E", "-c", _MORTAL)


@dataclass
class Bench:
    """A store with three whole paths, and what a scrub says of them."""

    files: StoreFiles
    judged: dict[str, Fault | None] = field(default_factory=dict)
    pause: asyncio.Lock = field(default_factory=asyncio.Lock)

    def scrub(self, worker: Sequence[str] = WORKER, bytes_per_second: float | None = None) -> Scrub:
        return Scrub(self.files, 2, self.judge, self.pause, bytes_per_second, worker)

    async def judge(self, content: Registration, fault: Fault | None) -> None:
        self.judged[content.path] = fault

    def flip(self, item: Item) -> None:
        """Change a byte and nothing that a walk sees."""
        file = self.files.real(item.path)
        if file.is_dir():
            file /= "bin/hello"
        was, mode = file.stat(), file.stat().st_mode
        file.chmod(0o644)
        with file.open("r+b") as out:
            out.write(b"!")
        file.chmod(mode)
        os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))


def stocked(root: Path) -> Bench:
    """Make the store."""
    made = StoreFiles(root, durable=False)
    made.claim(share=False)
    for item in ITEMS:
        nars.write(item.tree, os.fsencode(made.real(item.path)))
    return Bench(made)


class StandInFlow:
    """What a scrub asks of a flow, over real files and a real ledger; `now` is its clock."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self.boot_id, self.pours, self.now = "boot-1", bench.pause, NOW
        self.published, self.means = None, self
        self.files, self.workers, self.nix = bench.files, 2, self
        self.ledger, self.metrics = Ledger(directory), Metrics()
        self.report = Report(clock=lambda: self.now)
        self.hashed: set[str] = set()
        self.damaged: dict[str, str] = {}
        self.valid = {one.path for one in CONTENTS}

    def registered(self, paths: Sequence[str]) -> list[Registration]:
        return [one for one in CONTENTS if one.path in paths and one.path in self.valid]

    def condemn(self, name: str, fault: str) -> None:
        self.damaged[name] = fault

    def later(self, **time: float) -> None:
        self.now += timedelta(**time)


def memory_of(flow: StandInFlow) -> str:
    """Give the file in which its scrub remembers."""
    return (flow.ledger.directory / "scrub.txt").read_text()


def flow_of(bench: Bench, directory: Path) -> StandInFlow:
    """Make the flow of a node that published something in another boot and was then cut off."""
    (directory / "releases").mkdir()
    made = StandInFlow(bench, directory)
    held = Held(channel="stable", serial=7, release=digest(7), caches=("main",))
    made.ledger.publish(held, "boot-0", datetime(2026, 5, 1, tzinfo=UTC))
    return made


def of(
    flow: StandInFlow,
    wake: Callable[[], None] = lambda: None,
    worker: Sequence[str] = WORKER,
    pace: Pace | None = None,
) -> Scrubbing:
    return Scrubbing(cast("Flow", flow), wake, log.get(), pace or Pace(), worker)
