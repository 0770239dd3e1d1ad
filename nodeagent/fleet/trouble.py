"""Signs that injection does harm: injected pods that no node fits, and creations that were refused.

Of pods and events that say nothing of the kind, nothing is kept.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any, Final

from nodeagent.admission.breaker import REFUSED_SECONDS, Refused, Stuck
from nodeagent.kube.watch import Change, Changed, Collection, Listed
from nodeagent.names import ANNOTATION_INJECTED, LABEL_READY

FEW: Final = 30  # pods of a namespace that are kept: the breaker needs three
OURS: Final = "node(s) didn't match Pod's node affinity/selector"
EARLIER: Final = (  # the scheduler finds these before it looks at selector and affinity
    "node(s) were unschedulable",
    "node(s) had unknown conditions",
    "node(s) didn't match the requested node name",
    "node(s) had untolerated taint",
    "node(s) had taints that the pod didn't tolerate",
    "node(s) didn't match scheduler-enforced node affinity",
    "node(s) didn't satisfy plugin",  # a volume, say, is bound to another node
)
_NODES: Final = re.compile(r"0/\d+ nodes are available: (.*)", re.DOTALL)
_REFUSED: Final = re.compile(r"(?:is forbidden|is invalid|denied the request):(.*)", re.DOTALL)
_ADDED: Final = re.compile(r"nodeagent[-./]|/nix/store|host[ _-]?path", re.IGNORECASE)

Object = Mapping[str, Any]


def stuck(pod: Object) -> Stuck | None:
    """Take a pod that has our node selector and waits for that alone; None of others."""
    metadata = pod["metadata"]
    if (
        ANNOTATION_INJECTED not in (metadata.get("annotations") or {})
        or LABEL_READY not in (pod["spec"].get("nodeSelector") or {})
        or metadata.get("deletionTimestamp")
    ):
        return None
    for one in (pod.get("status") or {}).get("conditions") or ():
        if one["type"] == "PodScheduled" and (one["status"], one.get("reason")) == (
            "False",
            "Unschedulable",
        ):
            since = one.get("lastTransitionTime") or metadata["creationTimestamp"]
            ours = is_ours(one.get("message") or "")
            return Stuck(sys.intern(metadata["namespace"]), _unix(since)) if ours else None
    return None


def is_ours(message: str) -> bool:
    """Tell from the scheduler's words whether no node fits a pod's selector and affinity.

    Where one fits and lacks something else, room for example, the pod waits for that. The text is
    made by `FitError.Error` of pkg/scheduler/framework/types.go; after its first sentence it is
    about preemption.
    """
    found = _NODES.match(message)
    if found is None:
        return False
    reasons = re.split(r", (?=\d+ )", re.split(r"\.(?:\s|$)", found[1])[0])
    said = [one.partition(" ")[2] for one in reasons]
    return OURS in said and all(one.startswith((OURS, *EARLIER)) for one in said)


def refused(event: Object) -> Refused | None:
    """Take a refusal that names what we add to pods; the pod's own name comes before that."""
    found = _REFUSED.search(event.get("message") or "")
    if found is None or not _ADDED.search(found[1]):
        return None
    metadata = event["metadata"]
    last = (event.get("series") or {}).get("lastObservedTime")
    at = event.get("lastTimestamp") or last or event.get("eventTime")
    return Refused(sys.intern(metadata["namespace"]), _unix(at or metadata["creationTimestamp"]))


@dataclass
class Waits:
    """Injected pods that wait for a node that they fit; FEW of a namespace, the oldest of a list.

    While more of them wait than are kept, those that go are not replaced before the next list.
    """

    collection: Collection[Stuck] = field(
        default_factory=lambda: Collection(
            "/api/v1/pods",
            stuck,
            fields="spec.nodeName=,status.phase=Pending",
            page=100,
            everywhere=True,
        )
    )
    _by_namespace: dict[str, dict[str, Stuck]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Stuck]:
        """Give all that are kept."""
        return chain.from_iterable(one.values() for one in self._by_namespace.values())

    def take(self, change: Change[Stuck]) -> None:
        """Follow a change."""
        match change:
            case Listed(objects=objects):
                self._by_namespace.clear()
                for name, one in sorted(objects.items(), key=lambda item: item[1].since):
                    self._put(name, one)
            case Changed(name=name, found=found) if found is not None:
                self._put(name, found)
            case Changed(name=name):
                self._drop(name)

    def _put(self, name: str, found: Stuck) -> None:
        kept = self._by_namespace.setdefault(found.namespace, {})
        if name in kept or len(kept) < FEW:
            kept[name] = found

    def _drop(self, name: str) -> None:
        namespace = name.partition("/")[0]
        kept = self._by_namespace.get(namespace, {})
        kept.pop(name, None)
        if not kept:
            self._by_namespace.pop(namespace, None)


@dataclass
class Refusals:
    """The last refused creation of each namespace: it counts for a while, whatever comes after."""

    collection: Collection[Refused] = field(
        default_factory=lambda: Collection(
            "/api/v1/events", refused, fields="reason=FailedCreate", page=100, everywhere=True
        )
    )
    _last: dict[str, Refused] = field(default_factory=dict)

    def take(self, change: Change[Refused]) -> None:
        """Follow a change; an event that goes has happened all the same."""
        match change:
            case Listed(objects=objects):
                self._note(objects.values())
            case Changed(found=found) if found is not None:
                self._note([found])

    def fresh(self, now: float) -> list[Refused]:
        """Give those that count, and forget the others."""
        self._last = {
            one.namespace: one for one in self._last.values() if abs(now - one.at) < REFUSED_SECONDS
        }
        return [*self._last.values()]

    def _note(self, found: Iterable[Refused]) -> None:
        for one in found:
            known = self._last.get(one.namespace)
            if known is None or known.at < one.at:
                self._last[one.namespace] = one


def _unix(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
