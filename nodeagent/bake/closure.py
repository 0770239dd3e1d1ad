"""The closure of a system's profiles, from its store: complete and on disk, or refused."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from nodeagent import model, storepath
from nodeagent.bake.spec import Part
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.nix import Nix, Registration
from nodeagent.release import Release, Source, System, require_complete


@dataclass(frozen=True)
class Closure:
    """What a store holds for one system."""

    part: Part
    paths: tuple[Registration, ...]


async def read(part: Part, nix: Nix) -> Closure:
    """Ask the store; raises ClosureIncomplete with everything that is missing."""
    if not (nix.root / "nix/store").is_dir():
        raise _incomplete(part, [f"there is no nix/store under {nix.root}"])
    roots = sorted({profile.root for profile in part.profiles.values()})
    if invalid := set(await nix.invalid(roots)):
        raise _incomplete(part, _lines_of_roots(part, invalid))
    paths = tuple(sorted(await nix.closure(roots), key=lambda one: one.path))
    absent = [one.path for one in paths if not os.path.lexists(storepath.real(nix.root, one.path))]
    if absent:
        raise _incomplete(part, [f"{path} is registered, but not on disk" for path in absent])
    return Closure(part, paths)


def release_of(closures: Iterable[Closure], source: Source) -> Release:
    """Make the manifest, closure-complete; raises SettingInvalid for a name that cannot be."""
    try:
        release = Release(
            source=source,
            systems={
                closure.part.system: System(
                    profiles=closure.part.profiles,
                    paths={one.path: one.info for one in closure.paths},
                )
                for closure in closures
            },
        )
    except ValidationError as error:
        raise NodeAgentError(
            Reason.SETTING_INVALID,
            f"this cannot be a release: {model.explain(error)}; choose other names",
        ) from None
    for name, system in release.systems.items():
        require_complete(name, system)
    return release


def union(closures: Iterable[Closure]) -> Mapping[str, tuple[Registration, str]]:
    """Give each path once, with where its tree lies.

    A cache has one narinfo a path: two stores that disagree on its contents are refused.
    """
    found: dict[str, tuple[Registration, str]] = {}
    for closure in closures:
        for one in closure.paths:
            tree = str(storepath.real(closure.part.store_root, one.path))
            known, where = found.setdefault(one.path, (one, tree))
            if (known.info.nar_hash, known.info.references) != (
                one.info.nar_hash,
                one.info.references,
            ):
                raise NodeAgentError(
                    Reason.PATH_CONFLICT,
                    f"{one.path} differs between {where} and {tree}; "
                    "copy it from one store to the other",
                )
    return found


def _lines_of_roots(part: Part, invalid: set[str]) -> list[str]:
    return [
        f"{profile.root} (profile {name}) is not valid there"
        for name, profile in sorted(part.profiles.items())
        if profile.root in invalid
    ]


def _incomplete(part: Part, missing: list[str]) -> NodeAgentError:
    shown = "\n  ".join(missing)
    return NodeAgentError(
        Reason.CLOSURE_INCOMPLETE,
        f"the store under {part.store_root} lacks what {part.system} needs; "
        f"build or copy it there (`nix-store --verify --repair` for lost files):\n  {shown}",
    )
