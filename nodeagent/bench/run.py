"""Run benches one after the other, keep their figures, and write the document."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from nodeagent.bench import document, figures
from nodeagent.bench.cases import ASKED_FOR, BENCHES
from nodeagent.bench.room import Room
from nodeagent.store import remove


async def run(names: Sequence[str], room: Room) -> bool:
    """Run the named benches (BENCHES if none is named); tell if every target was met."""
    met, known = True, BENCHES | ASKED_FOR
    for name in names or BENCHES:
        with _inside(room) as inside:
            print(f"{name}: {(known[name].__doc__ or '').strip()}", flush=True)
            found = await known[name](inside)
        figures.write(name, found)
        for one in found:
            target = "" if one.target is None else f"  (target ≤ {one.target:g}: {_met(one.ok)})"
            print(f"  {one.name}: {one.value:g} {one.unit}{target}", flush=True)
        met = met and all(one.ok is not False for one in found)
    document.DOCUMENT.write_text(document.render(figures.read()))
    return met


def _met(ok: bool | None) -> str:  # noqa: FBT001 a figure's own value
    return "met" if ok else "MISSED"


@contextlib.contextmanager
def _inside(room: Room) -> Iterator[Room]:
    """Give rooms of this run alone, removed after it."""
    made = [
        Path(tempfile.mkdtemp(prefix="nodeagent-bench-", dir=one))
        for one in (room.memory, room.disk)
    ]
    try:
        yield replace(room, memory=made[0], disk=made[1])
    finally:
        for one in made:
            remove(one)
