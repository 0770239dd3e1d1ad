"""What is to be built, from what was found: the plan that nix/profiles/ds.nix reads. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

from nodeagent.demo.debian import PYTHON_VERSION, Package
from nodeagent.demo.wheels import Wheel
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

PYTHON: Final = "python"
# What can only live in one directory (an interpreter finds its library beside itself).
MERGED: Final = {
    f"python{PYTHON_VERSION}-minimal": PYTHON,
    f"libpython{PYTHON_VERSION}-minimal": PYTHON,
    f"libpython{PYTHON_VERSION}-stdlib": PYTHON,
    "gcc-12-base": "libgcc-s1",
}
# glibc loads libgcc_s by name, when a thread is cancelled; the interpreter's path finds it.
CUT: Final = frozenset({("libc6", "libgcc-s1")})
# What wheels may expect of a system (PEP 600).
PLATFORM: Final = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g")


@dataclass(frozen=True)
class Source:
    """A file that a builder starts from; `name` is fit for a store path."""

    name: str
    path: str


@dataclass(frozen=True)
class LibraryStep:
    """Debian packages that become one store path."""

    name: str
    version: str
    parts: tuple[Source, ...]
    needs: tuple[str, ...]
    platform: tuple[str, ...] = ()


@dataclass(frozen=True)
class WheelStep:
    """A wheel that becomes one store path."""

    name: str
    version: str
    src: Source
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """All steps; `roots` are the wheels that somebody asked for by name."""

    libraries: tuple[LibraryStep, ...]
    wheels: tuple[WheelStep, ...]
    roots: tuple[str, ...]
    python: str = PYTHON


def write(packages: Iterable[Package], wheels: Iterable[Wheel], roots: Sequence[str]) -> Recipe:
    """Raises NodeAgentError if packages need each other in a circle: a store cannot hold that."""
    libraries = _libraries(list(packages))
    steps = tuple(
        WheelStep(wheel.name, wheel.version, _source(wheel.archive), wheel.needs)
        for wheel in wheels
    )
    _refuse_cycles({step.name: step.needs for step in libraries})
    _refuse_cycles({step.name: step.needs for step in steps})
    return Recipe(libraries, steps, tuple(roots))


def _libraries(packages: list[Package]) -> tuple[LibraryStep, ...]:
    groups: dict[str, list[Package]] = {}
    for package in packages:
        groups.setdefault(MERGED.get(package.name, package.name), []).append(package)
    return tuple(_library(name, parts, groups.keys()) for name, parts in sorted(groups.items()))


def _library(name: str, parts: list[Package], known: Iterable[str]) -> LibraryStep:
    present = set(known)
    platform = [other for other in PLATFORM if other in present] if name == PYTHON else []
    depends = {MERGED.get(need, need) for part in parts for need in part.depends}
    needs = ({*depends, *platform} & present) - {name}
    return LibraryStep(
        name=name,
        version=_fit(parts[0].version.rpartition(":")[2]),
        parts=tuple(_source(part.archive) for part in parts),
        needs=tuple(sorted(need for need in needs if (name, need) not in CUT)),
        platform=tuple(platform),
    )


def _source(path: Path) -> Source:
    return Source(_fit(path.name), str(path))


def _fit(text: str) -> str:
    """Replace what the name of a store path must not hold."""
    return re.sub(r"[^A-Za-z0-9+._?=-]", "-", text)


def _refuse_cycles(needs: Mapping[str, Iterable[str]]) -> None:
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        raise NodeAgentError(
            Reason.SETTING_INVALID,
            f"packages need each other in a circle: {' → '.join(error.args[1])}; "
            "make them one store path",
        ) from None
