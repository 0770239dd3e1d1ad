"""How sizes, counts and tables are written for people. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_STEP: Final = 1000


def size(count: int) -> str:
    """Write bytes with three digits or so: `1.2 GB`."""
    number, unit = float(count), 0
    while number >= _STEP - 0.5 and unit < len(_UNITS) - 1:
        number, unit = number / _STEP, unit + 1
    shown = f"{number:.0f}" if unit == 0 or number >= 100 else f"{number:.1f}"
    return f"{shown} {_UNITS[unit]}"


def plural(count: int, noun: str) -> str:
    """Write a count of things: `1 path`, `2,500 paths`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Align rows of the same length; the last column is left as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield "  ".join([*cells, row[-1]])
