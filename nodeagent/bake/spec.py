"""What is to be baked, as a person writes it: profiles and store roots, by system. Pure.

A profile is `[SYSTEM:]NAME=PATH[:KIND]`, a store root `[SYSTEM:]DIRECTORY`; without a system
they mean the one that is asked for beside them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent import storepath
from nodeagent.errors import NodeAgentError
from nodeagent.names import Kind, Reason
from nodeagent.release import Profile

_SYSTEM: Final = r"(?:(?P<system>[a-z0-9_]+-[a-z0-9]+):)?"
_PROFILE: Final = re.compile(rf"{_SYSTEM}(?P<name>[^=:/]+)=(?P<path>[^:]+)(?::(?P<kind>[a-z-]+))?")
_ROOT: Final = re.compile(rf"{_SYSTEM}(?P<directory>.+)")


@dataclass(frozen=True)
class Part:
    """One system's share of a release: its profiles, and the root of the store that has them."""

    system: str
    store_root: Path
    profiles: Mapping[str, Profile]


def parts(profiles: Iterable[str], store_roots: Iterable[str], system: str) -> tuple[Part, ...]:
    """Read what was asked for; raises SettingInvalid naming the item that is wrong."""
    roots = dict(_root(text, system) for text in store_roots)
    found: dict[str, dict[str, Profile]] = {}
    for text in profiles:
        name, own, profile = _profile(text, system)
        if found.setdefault(own, {}).setdefault(name, profile) != profile:
            raise _invalid(f"profile {name} for {own} is given twice, with different paths")
    if not found:
        raise _invalid("no profile is given")
    default = roots.get(system, Path("/"))
    return tuple(Part(own, roots.get(own, default), found[own]) for own in sorted(found))


def _root(text: str, system: str) -> tuple[str, Path]:
    match = _ROOT.fullmatch(text)
    if match is None:
        raise _invalid(f"{text!r} is no store root")
    return match["system"] or system, Path(match["directory"])


def _profile(text: str, system: str) -> tuple[str, str, Profile]:
    match = _PROFILE.fullmatch(text)
    if match is None:
        raise _invalid(f"{text!r} is no profile")
    kind = match["kind"] or Kind.ENV
    if kind not in set(Kind):
        raise _invalid(f"{text!r} has the unknown kind {kind!r} (known: {', '.join(Kind)})")
    root = _store_path(match["path"])
    if not storepath.is_path(root):
        raise _invalid(f"{text!r}: {root} is no store path")
    return match["name"], match["system"] or system, Profile(root=root, kind=Kind(kind))


def _store_path(text: str) -> str:
    """Follow links such as nix-build's `result` as far as the store path, and no further."""
    path = Path(text)
    while not storepath.is_path(str(path)) and path.is_symlink():
        path = path.parent / path.readlink()
    return str(path)


def _invalid(cause: str) -> NodeAgentError:
    return NodeAgentError(
        Reason.SETTING_INVALID,
        f"{cause}; write --profile [SYSTEM:]NAME=STORE_PATH[:KIND], "
        "e.g. --profile ds=/nix/store/…-ds:env",
    )
