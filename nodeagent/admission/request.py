"""What a pod asks for: whether it opted in, which profiles, which containers are left out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from nodeagent.admission.decision import Refusal
from nodeagent.admission.fleet import Fleet
from nodeagent.admission.review import Container, Entry, Review, shown, table, text
from nodeagent.names import (
    ANNOTATION_EXCLUDE,
    ANNOTATION_PROFILES,
    LABEL_INJECT,
    Kind,
    Outcome,
)
from nodeagent.policy import MAX_PROFILES, Policy, can_be_profile

MAX_LETTERS: Final = 16 << 10  # of a list in an annotation: the names of 200 containers
MAX_AGE_SECONDS: Final = 90.0  # of each part of a snapshot
WATCHED: Final = ("nodes", "nodestores", "pods", "namespaces", "policy")
SYSTEM_NAMESPACES: Final = frozenset({"kube-system", "kube-public", "kube-node-lease"})
MIRROR: Final = "kubernetes.io/config.mirror"
OS_LABEL: Final = "kubernetes.io/os"
DEFAULT_SCHEDULER: Final = "default-scheduler"
NO_POLICY: Final = Policy()


@dataclass(frozen=True)
class Names:
    """What an annotation lists, without repetitions, and what is wrong with it, if anything."""

    names: tuple[str, ...]
    fault: str = ""


def silent(review: Review, policy: Policy | None, own_namespace: str) -> Refusal | None:
    """Say why a pod is none of our business, if it is not; this leaves no trace on it."""
    if not review.creates_pod:
        return Refusal(Outcome.NOT_OPTED_IN, "this is not the creation of a pod")
    label = review.labels.get(LABEL_INJECT)
    if label == "false":
        return Refusal(Outcome.OPTED_OUT, f"the pod has the label {LABEL_INJECT}=false")
    if review.entry is Entry.POD and label != "true":
        return Refusal(Outcome.NOT_OPTED_IN, f"the pod has no label {LABEL_INJECT}=true")
    if review.containers and not into(review):
        return Refusal(Outcome.OPTED_OUT, f"{ANNOTATION_EXCLUDE} names all containers")
    if MIRROR in review.annotations:
        return Refusal(Outcome.MIRROR_POD, "it mirrors a pod that a kubelet read from a file")
    if _os(review) == "windows":
        return Refusal(Outcome.WINDOWS, "it is a pod for Windows")
    scheduler = text(review.spec.get("schedulerName")) or DEFAULT_SCHEDULER
    if scheduler not in (policy or NO_POLICY).schedulers:
        return Refusal(
            Outcome.SCHEDULER,
            f"the scheduler {shown(scheduler)} is none of those that Policy lists",
        )
    if review.namespace in SYSTEM_NAMESPACES or review.namespace == own_namespace:
        return Refusal(
            Outcome.NAMESPACE_EXCLUDED, f"nothing is injected in {shown(review.namespace)}"
        )
    return None


def unknown(namespace: str, fleet: Fleet, now: float) -> Refusal | None:
    """Say what the snapshot cannot speak of: all of it when it is old, a namespace it lacks."""
    for resource in WATCHED:
        heard = fleet.heard.get(resource)
        if heard is None:
            return Refusal(Outcome.STALE_SNAPSHOT, f"{resource} were never listed")
        if now - heard > MAX_AGE_SECONDS:
            message = f"nothing was heard of {resource} for {now - heard:.0f} s"
            return Refusal(Outcome.STALE_SNAPSHOT, message)
    if namespace not in fleet.namespaces:
        message = f"the namespace {shown(namespace)} is not known yet"
        return Refusal(Outcome.NAMESPACE_UNKNOWN, message)
    return None


def profiles(review: Review, policy: Policy) -> Mapping[str, Kind] | Refusal:
    """Give the profiles that a pod shall have, in its order, or say why it has none."""
    asked = _asked(review, policy)
    if refusal := _not_allowed(review, policy, asked.names):
        return refusal
    if fault := asked.fault or _excluded(review).fault:
        return Refusal(Outcome.BAD_ANNOTATION, fault)
    if not asked.names:
        message = (
            f"name profiles in the annotation {ANNOTATION_PROFILES}: "
            f"Policy has no default for the namespace {review.namespace}"
        )
        return Refusal(Outcome.NO_PROFILE, message)
    if unknown := [name for name in asked.names if name not in policy.profiles]:
        return Refusal(Outcome.UNKNOWN_PROFILE, f"Policy knows no profile {', '.join(unknown)}")
    return {name: policy.profiles[name].kind for name in asked.names}


def into(review: Review) -> tuple[Container, ...]:
    """List the containers that the pod does not leave out."""
    left_out = set(_listed(review, ANNOTATION_EXCLUDE).names)
    return tuple(one for one in review.containers if one.name not in left_out)


def _excluded(review: Review) -> Names:
    """Read which containers are left out; a name that no container has is a fault."""
    listed = _listed(review, ANNOTATION_EXCLUDE)
    known = {one.name for one in review.containers} if listed.names else set()
    for name in listed.names:
        if name not in known:
            fault = f"{ANNOTATION_EXCLUDE} names {shown(name)}, which is no container of the pod"
            return Names(listed.names, listed.fault or fault)
    return listed


def _asked(review: Review, policy: Policy) -> Names:
    """Read which profiles are wanted; the names are those that can be names."""
    listed = _listed(review, ANNOTATION_PROFILES)
    if not listed.names and not listed.fault:
        return Names(policy.default(review.namespace))
    able = tuple(name for name in listed.names if can_be_profile(name))
    fault = listed.fault
    if not fault and len(able) < len(listed.names):
        bad = next(name for name in listed.names if not can_be_profile(name))
        fault = f"{ANNOTATION_PROFILES} names {shown(bad)}, which no profile can be called"
    if not fault and len(able) > MAX_PROFILES:
        fault = f"{ANNOTATION_PROFILES} names {len(able)} profiles; {MAX_PROFILES} are the most"
    return Names(able, fault)


def _listed(review: Review, annotation: str) -> Names:
    """Split at commas; blanks are trimmed, repetitions folded, and no item may be empty."""
    words = text(review.annotations.get(annotation))
    if not words.strip():
        return Names(())
    if len(words) > MAX_LETTERS:
        return Names((), f"{annotation} has {len(words)} letters; {MAX_LETTERS} are looked at")
    items = [item.strip() for item in words.split(",")]
    fault = "" if all(items) else f"{annotation} has an empty item: {shown(words)}"
    return Names(tuple(dict.fromkeys(item for item in items if item)), fault)


def _not_allowed(review: Review, policy: Policy, asked: Collection[str]) -> Refusal | None:
    namespace = review.namespace
    if not policy.admits(namespace):
        message = f"Policy gives no profile to the namespace {namespace}; ask an administrator"
        return Refusal(Outcome.NAMESPACE_NOT_ALLOWED, message)
    known = ((name, policy.profiles.get(name)) for name in asked)
    if kept := [name for name, profile in known if profile and not profile.admits(namespace)]:
        message = f"Policy does not give {', '.join(kept)} to the namespace {namespace}"
        return Refusal(Outcome.NAMESPACE_NOT_ALLOWED, f"{message}; ask an administrator")
    return None


def _os(review: Review) -> str:
    stated = text(table(review.spec.get("os")).get("name"))
    return stated or text(table(review.spec.get("nodeSelector")).get(OS_LABEL))
