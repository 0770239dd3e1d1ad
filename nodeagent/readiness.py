"""Readiness is evidence, not hope: checks judged from what was just looked at. Pure.

`/readyz` is the checks that pods depend on; `/healthz` shows all of them.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from nodeagent.names import LABEL_PROFILE_PREFIX, LABEL_READY, Reason

SHOWN: Final = 3
SUSPECT_PATHS: Final = 3  # spoilt within SUSPECT_SECONDS make a disk suspect
SUSPECT_SECONDS: Final = 7 * 24 * 3600
PUBLISHED: Final = "Published"  # the reason of a condition that is true


@dataclass(frozen=True)
class Evidence:
    """What a look at the node found.

    `absent` are store paths of the published closure that are gone, `damaged` those whose contents
    are not what was poured, `shut` its profiles whose gate does not lead anywhere, `conflicts`
    paths valid with another hash than released, `closed` what SELinux lets no container read. An
    agent is `unguarded` if the API server would let it write what it may not. `spoilt` are paths
    whose contents went bad of late, repaired or not, each with its unix time.
    """

    published: bool
    absent: Sequence[str] = ()
    damaged: Sequence[str] = ()
    shut: Sequence[str] = ()
    conflicts: Sequence[str] = ()
    problem: tuple[Reason, str] | None = None
    unguarded: bool = False
    closed: Sequence[str] = ()
    spoilt: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One check; `needed` ones decide readiness."""

    name: str
    ok: bool
    needed: bool
    reason: Reason | None = None
    message: str = ""


@dataclass(frozen=True)
class Condition:
    """What the Node says of its store: the checks that pods depend on, as one."""

    ready: bool
    reason: str
    message: str


def judge(evidence: Evidence) -> list[Check]:
    """Judge every check."""
    return [
        _generation(evidence),
        _store(evidence),
        _gates(evidence),
        _selinux(evidence),
        _conflicts(evidence),
        _last_pass(evidence),
        _policy(evidence),
        disk(evidence.spoilt),
    ]


def is_ready(checks: Sequence[Check]) -> bool:
    """Tell whether pods can rely on this node."""
    return all(check.ok for check in checks if check.needed)


def condition(checks: Sequence[Check], published: str) -> Condition:
    """Sum the checks up; `published` names the generation. What changes often is left out."""
    failed = [check for check in checks if check.needed and not check.ok]
    if failed:
        message = "; ".join(check.message for check in failed)
        return Condition(ready=False, reason=str(failed[0].reason), message=message)
    noted = sorted({str(check.reason) for check in checks if not check.ok})
    message = f"{published} is published" + (f"; but see {', '.join(noted)}" if noted else "")
    return Condition(ready=True, reason=PUBLISHED, message=message)


def labels(
    held: AbstractSet[str],
    published: AbstractSet[str],
    lost: AbstractSet[str],
    *,
    removable: bool,
) -> frozenset[str]:
    """Say which labels a node shall have, that has those in `held`.

    `published` are the profiles that it publishes, `lost` those of them of which paths are missing
    or damaged. Labels are sticky: a kubelet that restarts kills pods whose node lost a label that
    they require. So only loss takes one away, and only once it is `removable`: it could not be
    mended, and no pod needs it.
    """
    whole = published - lost
    kept = held | {f"{LABEL_PROFILE_PREFIX}{name}" for name in whole}
    kept |= {LABEL_READY} if whole else set()
    if removable:
        kept -= {f"{LABEL_PROFILE_PREFIX}{name}" for name in lost}
        kept -= {LABEL_READY} if lost and not whole else set()
    return frozenset(kept)


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


def _selinux(evidence: Evidence) -> Check:
    if not evidence.closed:
        return Check("selinux", ok=True, needed=True)
    message = (
        f"SELinux lets no container read {_some(evidence.closed)}; add "
        "daemonset/components/selinux to your overlay, or label them, and restart the agent"
    )
    return _missing("selinux", Reason.SELINUX_UNLABELLED, message)


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


def _policy(evidence: Evidence) -> Check:
    if not evidence.unguarded:
        return Check("policy", ok=True, needed=False)
    message = (
        "the API server lets this agent write what it may not: no policy names its account; apply "
        "daemonset/base/policy.yaml, with the namespace that the agent runs in"
    )
    return _noted("policy", Reason.POLICY_NOT_ENFORCED, message)


def of_late(spoilt: Mapping[str, int], now: float) -> dict[str, int]:
    """Leave out what is too old to speak of the disk as it is."""
    return {path: at for path, at in spoilt.items() if now - at < SUSPECT_SECONDS}


def suspicion(checks: Sequence[Check]) -> Condition | None:
    """Say what the Node shall say of its disk; None while there is nothing against it."""
    failed = (one for one in checks if one.reason is Reason.REPEATED_DAMAGE)
    return next((Condition(True, str(one.reason), one.message) for one in failed), None)  # noqa: FBT003 it is a status


def disk(spoilt: Mapping[str, int]) -> Check:
    """Judge the disk by the paths whose contents went bad of late."""
    if len(spoilt) < SUSPECT_PATHS:
        return Check("disk", ok=True, needed=False)
    since = datetime.fromtimestamp(min(spoilt.values()), UTC)
    message = (
        f"the contents of {len(spoilt)} store paths went bad since {since:%Y-%m-%dT%H:%M:%SZ}: "
        f"{_some(sorted(spoilt))}; look at the kernel's log and the disk's own (smartctl), and "
        "replace the disk or the node"
    )
    return _noted("disk", Reason.REPEATED_DAMAGE, message)


def _missing(name: str, reason: Reason, message: str) -> Check:
    return Check(name, ok=False, needed=True, reason=reason, message=message)


def _noted(name: str, reason: Reason, message: str) -> Check:
    return Check(name, ok=False, needed=False, reason=reason, message=message)


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
