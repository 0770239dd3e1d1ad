"""Readiness is evidence, not hope: checks judged from what was just looked at. Pure.

`/readyz` is the checks that pods depend on; `/healthz` shows all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nodeagent.names import Reason

SHOWN: Final = 3


@dataclass(frozen=True)
class Evidence:
    """What a look at the node found.

    `absent` are store paths of the published closure that are gone, `damaged` those whose contents
    are not what was poured, `shut` its profiles whose gate does not lead anywhere, `conflicts`
    paths valid with another hash than released.
    """

    published: bool
    absent: Sequence[str] = ()
    damaged: Sequence[str] = ()
    shut: Sequence[str] = ()
    conflicts: Sequence[str] = ()
    problem: tuple[Reason, str] | None = None


@dataclass(frozen=True)
class Check:
    """One check; `needed` ones decide readiness."""

    name: str
    ok: bool
    needed: bool
    reason: Reason | None = None
    message: str = ""


def judge(evidence: Evidence) -> list[Check]:
    """Judge every check."""
    return [
        _generation(evidence),
        _store(evidence),
        _gates(evidence),
        _conflicts(evidence),
        _last_pass(evidence),
    ]


def is_ready(checks: Sequence[Check]) -> bool:
    """Tell whether pods can rely on this node."""
    return all(check.ok for check in checks if check.needed)


def _generation(evidence: Evidence) -> Check:
    if evidence.published:
        return Check("generation", ok=True, needed=True)
    cause = f": {evidence.problem[1]}" if evidence.problem else " yet"
    reason = evidence.problem[0] if evidence.problem else Reason.NOTHING_PUBLISHED
    return _missing("generation", reason, f"nothing is published{cause}")


def _store(evidence: Evidence) -> Check:
    faults = {"gone": evidence.absent, "damaged": evidence.damaged}
    told = [
        f"{len(paths)} published store paths are {fault}: {_some(paths)}"
        for fault, paths in faults.items()
        if paths
    ]
    if not told:
        return Check("store", ok=True, needed=True)
    return _missing("store", Reason.PATH_DAMAGED, f"{'; '.join(told)}; they are fetched anew")


def _gates(evidence: Evidence) -> Check:
    if not evidence.shut:
        return Check("gates", ok=True, needed=True)
    message = f"the gates of these profiles are shut: {_some(evidence.shut)}"
    return _missing("gates", Reason.NOTHING_PUBLISHED, message)


def _conflicts(evidence: Evidence) -> Check:
    if not evidence.conflicts:
        return Check("conflicts", ok=True, needed=False)
    message = (
        f"{len(evidence.conflicts)} paths were valid with another hash than released and stay as "
        f"they are: {_some(evidence.conflicts)}"
    )
    return _noted("conflicts", Reason.PATH_CONFLICT, message)


def _last_pass(evidence: Evidence) -> Check:
    if evidence.problem is None:
        return Check("pass", ok=True, needed=False)
    return _noted("pass", *evidence.problem)


def _missing(name: str, reason: Reason, message: str) -> Check:
    return Check(name, ok=False, needed=True, reason=reason, message=message)


def _noted(name: str, reason: Reason, message: str) -> Check:
    return Check(name, ok=False, needed=False, reason=reason, message=message)


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
