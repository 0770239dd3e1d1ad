"""Admission: one decision about one pod, of a review, the fleet as it is known, and Policy. Pure.

A pod is changed completely or not at all, only by addition, and only when the result was checked.
Whatever goes wrong leaves it as it is, with a reason.
"""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Final

from nodeagent.admission import injection, mounts, patch, placement, request
from nodeagent.admission.decision import Decision, Object, Refusal
from nodeagent.admission.fleet import Fleet
from nodeagent.admission.mounts import Place
from nodeagent.admission.patch import UnfitError
from nodeagent.admission.placement import Placement
from nodeagent.admission.review import Review, shown
from nodeagent.names import Kind, Outcome
from nodeagent.policy import Policy

OWN_NAMESPACE: Final = "nodeagent-system"
MAX_CONTAINERS: Final = 200
MAX_REVIEW_BYTES: Final = 512 << 10  # With what is added, etcd must still take the pod.
MESSAGE_LETTERS: Final = 500
WARNING_LETTERS: Final = 240  # API servers cut at 256.
WARNED: Final = frozenset(  # the pod's author can do something
    {
        Outcome.NAMESPACE_NOT_ALLOWED,
        Outcome.BAD_ANNOTATION,
        Outcome.NO_PROFILE,
        Outcome.UNKNOWN_PROFILE,
        Outcome.POD_SECURITY,
        Outcome.CONFLICT,
        Outcome.USER_NAMESPACE,
        Outcome.NODE_NOT_READY,
        Outcome.NOT_ENOUGH_NODES,
    }
)


def decide(
    review: Review,
    fleet: Fleet,
    policy: Policy | None,
    now: float,
    *,
    own_namespace: str = OWN_NAMESPACE,
) -> Decision:
    """Say what is added to a pod, or why nothing is; `now` in unix seconds. Never raises."""
    try:
        early = _early(review, policy, own_namespace)
        return early or _inject(review, fleet, policy, now, own_namespace)
    except Exception as error:  # noqa: BLE001 a bug of ours is no reason to stop anybody's pod
        return Decision(Outcome.INTERNAL_ERROR, _told(error))


def _early(review: Review, policy: Policy | None, own_namespace: str) -> Decision | None:
    """Decide what needs no fleet: a pod that is none of our business, or that was here before."""
    if refusal := request.silent(review, policy, own_namespace):
        return Decision(refusal.outcome, refusal.message)
    if places := injection.already(review.pod):
        return _already(review, places)
    return None


def _already(review: Review, places: Sequence[Place]) -> Decision:
    if fault := _too_large(review):
        return Decision(Outcome.ALREADY_INJECTED, f"the pod has our volumes, and {fault}")
    operations = injection.since(request.into(review), places)
    message = f"the pod has our volumes; {len(operations)} mounts were lacking"
    try:
        patch.check(review.pod, patch.apply(review.pod, operations))
    except UnfitError as error:
        operations, message = [], f"the pod has our volumes; it stays as it is, for {error}"
    return Decision(Outcome.ALREADY_INJECTED, message, tuple(operations))


def _inject(
    review: Review, fleet: Fleet, policy: Policy | None, now: float, own_namespace: str
) -> Decision:
    planned = _plan(review, fleet, policy, now)
    if isinstance(planned, Refusal):
        return _refused(review, planned)
    try:
        patched = patch.apply(review.pod, planned)
        patch.check(review.pod, patched)
        again = _early(replace(review, pod=patched), policy, own_namespace)
        if again is None or again.outcome is not Outcome.ALREADY_INJECTED or again.patch:
            raise UnfitError("a second call would change the pod again")
    except UnfitError as error:
        return _refused(review, Refusal(Outcome.PATCH_UNSAFE, f"it stays as it is, for {error}"))
    return Decision(Outcome.INJECTED, f"{len(planned)} additions", tuple(planned))


def _plan(
    review: Review, fleet: Fleet, policy: Policy | None, now: float
) -> list[Object] | Refusal:
    """Give all that is added, or the first reason of the design's list not to."""
    if refusal := request.unknown(review.namespace, fleet, now):
        return refusal
    if policy is None:
        message = "there is no policy; an administrator names profiles and namespaces in one"
        return Refusal(Outcome.NAMESPACE_NOT_ALLOWED, message)
    kinds = request.profiles(review, policy)
    if isinstance(kinds, Refusal):
        return kinds
    placed = _place(review, kinds, fleet, policy, now)
    if isinstance(placed, Refusal):
        return placed
    variables = mounts.variables(kinds, policy)
    return [
        *injection.whole(review.spec, request.into(review), mounts.places(kinds), variables),
        *placement.constrained(review.spec, placed),
        *injection.injected(review, kinds),
    ]


def _place(
    review: Review, kinds: Mapping[str, Kind], fleet: Fleet, policy: Policy, now: float
) -> Placement | Refusal:
    """Say on which nodes the pod finds what it wants, or what stands against that."""
    into = request.into(review)
    if refusal := (
        mounts.pod_security(fleet.namespaces[review.namespace], policy)
        or mounts.own_store(review, into, policy)
        or mounts.conflict(review, into, mounts.places(kinds))
    ):
        return refusal
    placed = placement.place(review.pod, kinds, fleet, policy, now)
    if isinstance(placed, Refusal) and placed.outcome is Outcome.CONFLICT:
        return placed  # It comes before what the pod's user namespace forbids.
    if refusal := mounts.user_namespace(review.spec, kinds):
        return refusal
    if isinstance(placed, Refusal):
        return placed
    if review.namespace in fleet.broken:
        message = f"pods injected in {review.namespace} stayed unschedulable, so injection stopped"
        return Refusal(Outcome.BREAKER_OPEN, message)
    if fault := _too_large(review):
        return Refusal(Outcome.PATCH_UNSAFE, f"it stays as it is, for {fault}")
    return placed


def _too_large(review: Review) -> str:
    """Say why a pod may not get larger; empty if it may."""
    count = len(review.containers)
    if count > MAX_CONTAINERS:
        return f"it has {count} containers, more than {MAX_CONTAINERS}"
    if review.size > MAX_REVIEW_BYTES:
        return f"it came in {review.size:,} bytes, more than {MAX_REVIEW_BYTES:,}"
    return ""


def _refused(review: Review, refusal: Refusal) -> Decision:
    """Leave a pod's spec alone, with the reason as an annotation where the pod can take one."""
    noted = injection.skipped(review, refusal.outcome)
    try:
        patch.check(review.pod, patch.apply(review.pod, noted))
    except UnfitError:
        noted = []
    message = _cut(refusal.message, MESSAGE_LETTERS)
    warned = refusal.outcome in WARNED
    warning = _cut(f"nodeagent: {refusal.outcome}: {message}", WARNING_LETTERS) if warned else ""
    return Decision(refusal.outcome, message, tuple(noted), warning)


def _told(error: Exception) -> str:
    """Say where a bug showed itself, and how."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{PurePath(frame.filename).name}:{frame.lineno}"
    return f"{type(error).__name__} at {place}: {shown(str(error))}; please report it"


def _cut(message: str, letters: int) -> str:
    return message if len(message) <= letters else f"{message[: letters - 1]}…"
