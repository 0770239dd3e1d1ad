"""Plan: compare a closure with what the store holds. Pure.

A path is fetched unless it is valid with the same hash and there. One that is valid with
another hash is a conflict: kept as it is and told, never overwritten behind a user's back.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from nodeagent.release import PathInfo, System, references_first


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
