"""Nodes as sets: which of them have what name, label or taint. Pure.

A set of nodes is an int, a bit for each node. What a pod asks for is so worked out for a thousand
nodes at once, and what does not depend on the pod is worked out once.
"""

import bisect
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Final

from nodeagent.admission.fleet import Node, Taint

MAX_COLUMNS: Final = 256  # which labels are asked for, pods choose: memory stays bounded
NATURAL: Final = re.compile(r"[0-9]{1,63}")  # a label's value has no sign
_HARD: Final = frozenset({"NoSchedule", "NoExecute"})
_DIGITS: Final = bytes.maketrans(b"\0\1", b"01")
_INT64: Final = range(-(1 << 63), 1 << 63)


def bits(flags: Iterable[int]) -> int:
    """Make a set of the nodes whose flag is on, which is 1."""
    return int(bytes(flags)[::-1].translate(_DIGITS) or b"0", 2)


class Column:
    """A label: the nodes that have it, and those with each value."""

    def __init__(self, valued: Mapping[str, int]) -> None:
        self.valued = valued
        self.having = union(valued.values())

    def compared(self, operator: str, bound: int) -> int:
        """Give the nodes whose value is a number above a bound (Gt), or below it (Lt)."""
        numbers, below = self._ascending
        if operator == "Lt":
            return below[bisect.bisect_left(numbers, bound)]
        return below[-1] & ~below[bisect.bisect_right(numbers, bound)]

    @cached_property
    def _ascending(self) -> tuple[Sequence[int], Sequence[int]]:
        """Sort the values that are numbers; beside them the nodes below each, and all of them."""
        read = ((integer(value, NATURAL), found) for value, found in self.valued.items())
        pairs = sorted((number, found) for number, found in read if number is not None)
        below = itertools.accumulate((found for _, found in pairs), int.__or__, initial=0)
        return [number for number, _ in pairs], list(below)


class Nodes:
    """Nodes, and which of them have what; it is worked out when it is first asked for."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = tuple(nodes)
        self.every = (1 << len(self.nodes)) - 1
        self._columns: dict[str, Column] = {}

    def pick(self, found: int) -> list[Node]:
        """Give the nodes of a set."""
        picked = []
        while found:
            lowest = found & -found
            picked.append(self.nodes[lowest.bit_length() - 1])
            found ^= lowest
        return picked

    def column(self, key: str) -> Column:
        """Look a label up."""
        if (column := self._columns.get(key)) is None:
            if len(self._columns) >= MAX_COLUMNS:
                self._columns.clear()
            column = self._columns[key] = self._column(key)
        return column

    def _column(self, key: str) -> Column:
        places: dict[str, list[int]] = {}
        for at, value in enumerate([node.labels.get(key) for node in self.nodes]):
            if value is not None:
                places.setdefault(value, []).append(at)
        return Column({value: self._at(found) for value, found in places.items()})

    def _at(self, places: Sequence[int]) -> int:
        if len(places) == 1:
            return 1 << places[0]
        flags = bytearray(len(self.nodes))
        for at in places:
            flags[at] = 1
        return bits(flags)

    @cached_property
    def named(self) -> Mapping[str, int]:
        """The set of each node alone."""
        return {node.name: 1 << at for at, node in enumerate(self.nodes)}

    @cached_property
    def tainted(self) -> Mapping[Taint, int]:
        """The nodes that have each taint that keeps pods off."""
        found: dict[Taint, int] = {}
        for at, node in enumerate(self.nodes):
            for taint in node.taints:
                if taint.effect in _HARD:
                    found[taint] = found.get(taint, 0) | 1 << at
        return found


def union(sets: Iterable[int]) -> int:
    """Put sets together."""
    found = 0
    for one in sets:
        found |= one
    return found


def integer(text: object, form: re.Pattern[str]) -> int | None:
    """Read an integer of 64 bits written in some form; None if it is none."""
    if not isinstance(text, str) or not form.fullmatch(text):
        return None
    return number if (number := int(text)) in _INT64 else None
