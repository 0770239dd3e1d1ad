"""What a bench leaves: one figure, its target, and where they are kept."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

RESULTS: Final = Path("build/bench")


@dataclass(frozen=True)
class Figure:
    """One figure, the median of `runs`; `ok` if it is not above its target."""

    name: str
    value: float
    unit: str
    target: float | None
    ok: bool | None
    runs: Sequence[float]


def figure(name: str, runs: Iterable[float], unit: str, target: float | None = None) -> Figure:
    """Take the median of some runs; it is judged before it is rounded."""
    taken = [float(f"{one:.4g}") for one in runs]
    median = statistics.median(taken)
    ok = None if target is None else median <= target
    return Figure(name, float(f"{median:.3g}"), unit, target, ok, taken)


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float], target: float) -> Figure:
    """Compare pairs that ran one after the other: the machine's mood cancels out."""
    return figure(name, (a / b for a, b in zip(ours, theirs, strict=True)), "x", target)


def write(bench: str, figures: Sequence[Figure]) -> None:
    """Keep a bench's figures."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(one) for one in figures], indent=1)
    (RESULTS / f"{bench}.json").write_text(text + "\n")


def read() -> dict[str, list[Figure]]:
    """Give all that is kept, by bench."""
    return {
        file.stem: [Figure(**one) for one in json.loads(file.read_text())]
        for file in sorted(RESULTS.glob("*.json"))
    }
