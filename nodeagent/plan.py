"""Plan: compare a closure with what the store holds. Pure.

A path is fetched unless it is valid with the same hash and there. One that is valid with
another hash is a conflict: kept as it is and told, never overwritten behind a user's back.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from nodeagent.release import PathInfo, System, references_first
from nodeagent.space import MIB, Space

RESERVE: Final = 16 << 20  # Bytes: the database and its journal grow, too.
MARGIN: Final = 8  # An eighth more than the NARs: files fill whole blocks.
INODES_PER_PATH: Final = 2  # Its top and its root.


@dataclass(frozen=True)
class Step:
    """One path to bring; `on_disk` if it lies in the store already, unregistered."""

    path: str
    info: PathInfo
    on_disk: bool = False


@dataclass(frozen=True)
class Plan:
    """What a pass has to do, references first; `bytes` are of NARs, unpacked."""

    steps: tuple[Step, ...]
    kept: frozenset[str]
    conflicts: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes to bring."""
        return sum(step.info.nar_size for step in self.steps)


def diff(
    system: System,
    valid: Mapping[str, str],
    on_disk: AbstractSet[str],
    damaged: AbstractSet[str] = frozenset(),
) -> Plan:
    """Plan one architecture's closure.

    `valid` gives the narHash of each registered path, `on_disk` what lies in the store
    directory, `damaged` what verification found broken: fetched anew whatever the database says.
    """
    whole = {path for path in system.paths if path in on_disk and path not in damaged}
    kept = {path for path in whole if path in valid}
    conflicts = {path for path in kept if valid[path] != system.paths[path].nar_hash}
    steps = (
        Step(path, system.paths[path], on_disk=path in whole)
        for path in references_first(system.paths)
        if path not in kept
    )
    return Plan(tuple(steps), frozenset(kept), tuple(sorted(conflicts)))


def need(plan: Plan, staged: AbstractSet[str]) -> Space:
    """Work out the room that a plan needs; what is staged or on disk already has its own.

    The manifest does not tell the number of files. So only the inodes that are certain count:
    a guess from sizes would refuse large models for ever on a file system with few inodes,
    while running out in the middle is told and loses nothing that was finished.
    """
    todo = [step for step in plan.steps if not step.on_disk and step.path not in staged]
    if not todo:
        return Space(0, 0)
    size = sum(step.info.nar_size for step in todo)
    whole = -(-(size + size // MARGIN + RESERVE) // MIB) * MIB  # as it is shown
    return Space(whole, INODES_PER_PATH * len(todo))


def fits(needed: Space, free: Space) -> bool:
    """Tell whether there is room."""
    inodes = free.inodes is None or (needed.inodes or 0) <= free.inodes
    return needed.bytes <= free.bytes and inodes
