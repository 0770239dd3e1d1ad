"""Where an injected pod may land, and what must be added to it so that it lands nowhere else. Pure.

Usable nodes are those that pass the pod's own demands; ready are those that carry our labels and
say now, by every sign that there is, that they publish what the pod gets. A pod whose node is
known is decided for that node: it gets no constraint, and its node's labels are not asked for. No
scheduler and no kubelet will look at them then, and whether the node is ready its condition and
its NodeStore tell sooner.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from nodeagent.admission import predicates
from nodeagent.admission.decision import Object, Refusal
from nodeagent.admission.fleet import Fleet, Node
from nodeagent.admission.ground import MAX_AGE_SECONDS, Ground, Latest
from nodeagent.admission.patch import pointer
from nodeagent.admission.predicates import EXPRESSIONS, FIELDS, NAME, REQUIRED
from nodeagent.names import CONDITION, LABEL_PROFILE_PREFIX, LABEL_READY, Kind, Outcome
from nodeagent.policy import Policy

ON: Final = "true"  # the value of our labels
MAX_EXCLUDED: Final = 16
MAX_RULES: Final = 256  # a decision has two seconds, and a pod may be three megabytes of terms
_LATEST: Final = Latest()
_SHOWN: Final = 80
_LOOK: Final = "see `kubectl get nodestores`"


@dataclass(frozen=True)
class Placement:
    """The constraint of a pod: labels for its nodeSelector, and names of nodes for NotIn.

    Both are empty for a pod whose node is `known`.
    """

    node_selector: Mapping[str, str]
    excluded: tuple[str, ...] = ()
    known: str | None = None


def place(
    pod: Mapping[str, Any],
    profiles: Mapping[str, Kind],
    fleet: Fleet,
    policy: Policy,
    now: float,
) -> Placement | Refusal:
    """Decide which nodes a pod that gets these profiles may land on; `now` is unix seconds."""
    if (known := known_node(pod)) is not None:
        why = _lacking(fleet.nodes.get(known), profiles, now)
        shown, wanted = _shown(known), ", ".join(profiles)
        message = f"its node {shown} is not ready for {wanted}: {why}; {_LOOK}"
        return Refusal(Outcome.NODE_NOT_READY, message) if why else Placement({}, known=known)
    if (refusal := _conflict(pod, profiles)) is not None:
        return refusal
    if (count := predicates.rules(_spec(pod))) > MAX_RULES:
        message = f"it has {count} selectors, terms and tolerations; {MAX_RULES} are looked at"
        return Refusal(Outcome.NOT_ENOUGH_NODES, message)
    ground = _LATEST.ground(fleet)
    return _decide(ground, predicates.matching(_spec(pod), ground.land), profiles, policy, now)


def _decide(
    ground: Ground, usable: int, profiles: Mapping[str, Kind], policy: Policy, now: float
) -> Placement | Refusal:
    labels = labels_of(profiles)
    labelled = usable
    for key in labels:
        labelled &= ground.land.column(key).valued.get(ON, 0)
    ready = labelled & ground.ready(profiles, now)
    there, found = usable.bit_count(), ready.bit_count()
    # As a decimal: 0.07 of 100 are 7, not a trifle more.
    needed = max(policy.min_eligible, math.ceil(Decimal(str(policy.min_fraction)) * there))
    if found < needed:
        message = (
            f"{found} of {there} usable nodes {_are(found)} ready for {', '.join(profiles)}; "
            f"{needed} {_are(needed)} needed; {_LOOK}"
        )
        return Refusal(Outcome.NOT_ENOUGH_NODES, message)
    excluded = labelled & ~ready
    if (count := excluded.bit_count()) > MAX_EXCLUDED:
        message = (
            f"{count} of {there} usable nodes have the labels of {', '.join(profiles)} and are not "
            f"ready now; {MAX_EXCLUDED} may be excluded; {_LOOK}"
        )
        return Refusal(Outcome.TOO_MANY_EXCLUDED, message)
    return Placement(labels, tuple(sorted(node.name for node in ground.land.pick(excluded))))


def labels_of(profiles: Mapping[str, Kind]) -> dict[str, str]:
    """Give the labels of a node that a pod with these profiles may land on."""
    return {LABEL_READY: ON} | {f"{LABEL_PROFILE_PREFIX}{name}": ON for name in profiles}


def _conflict(pod: Mapping[str, Any], profiles: Mapping[str, Kind]) -> Refusal | None:
    """Refuse a pod whose nodeSelector asks for another value of one of our labels."""
    selector = _spec(pod).get("nodeSelector")
    if not isinstance(selector, Mapping):
        return None
    for key, value in labels_of(profiles).items():
        if selector.get(key, value) != value:
            asked = _shown(selector[key])
            message = f"its nodeSelector asks for {key}={asked}, and the mounts need {key}={value}"
            return Refusal(Outcome.CONFLICT, message)
    return None


def known_node(pod: Mapping[str, Any]) -> str | None:
    """Name the one node that a pod can land on, as far as it says so itself.

    That is its nodeName, or, as the DaemonSet controller writes it, the metadata.name that every
    term of its required affinity asks for.
    """
    spec = _spec(pod)
    if isinstance(name := spec.get("nodeName"), str) and name:
        return name
    asked = [_names(term) for term in predicates.terms(spec) or ()]
    named = frozenset().union(*asked)
    return next(iter(named)) if len(named) == 1 and all(asked) else None


def constrained(spec: Mapping[str, Any], placement: Placement) -> list[Object]:
    """Give the operations on the *pod* that add a placement to what its spec asks for.

    What is there already is not added again; an empty term matches nothing and stays so.
    """
    return [
        *_selecting(spec.get("nodeSelector"), placement.node_selector),
        *(_excluding(spec, placement.excluded) if placement.excluded else ()),
    ]


def _lacking(node: Node | None, profiles: Mapping[str, Kind], now: float) -> str:
    """Say what keeps a node from being ready for profiles; nothing if it is."""
    if node is None:
        return "no such node is known"
    if not node.ready:
        return "its kubelet is not Ready"
    if not node.store_ready or node.told is None:
        return f"its condition {CONDITION} is not True"
    if node.told < now - MAX_AGE_SECONDS:
        return f"its condition {CONDITION} was told {now - node.told:.0f} s ago"
    if not node.agent_ready:
        return "its agent's pod is not Ready"
    missing = [
        f"{name} as {kind}" for name, kind in profiles.items() if kind != node.profiles.get(name)
    ]
    return f"it does not publish {', '.join(missing)}" if missing else ""


def _names(term: object) -> frozenset[str]:
    """Give the names of nodes that a term asks for."""
    fields = term.get(FIELDS) if isinstance(term, Mapping) else None
    return frozenset(
        one["values"][0]
        for one in (fields if isinstance(fields, list) else ())
        if isinstance(one, Mapping)
        and (one.get("key"), one.get("operator")) == (NAME, "In")
        and isinstance(one.get("values"), list)
        and len(one["values"]) == 1
        and isinstance(one["values"][0], str)
    )


def _selecting(selector: object, labels: Mapping[str, str]) -> list[Object]:
    if selector is None:
        return [_add("/spec/nodeSelector", dict(labels))] if labels else []
    there = selector if isinstance(selector, Mapping) else labels
    return [
        _add(pointer("spec", "nodeSelector", key), value)
        for key, value in labels.items()
        if key not in there
    ]


def _excluding(spec: Mapping[str, Any], excluded: Sequence[str]) -> list[Object]:
    path: str = "/spec"
    inner: Any = spec
    added: dict[str, Any] = {"nodeSelectorTerms": [{FIELDS: _not_in(excluded)}]}
    for depth, key in enumerate(REQUIRED, 1):
        if not isinstance(inner, Mapping):
            return []
        path += f"/{key}"
        inner = inner.get(key)
        if inner is None:
            for missing in reversed(REQUIRED[depth:]):
                added = {missing: added}
            return [_add(path, added)]
    return [
        operation
        for number, term in enumerate(predicates.terms(spec) or ())
        for operation in _narrowing(f"{path}/nodeSelectorTerms/{number}", term, excluded)
    ]


def _narrowing(path: str, term: object, excluded: Sequence[str]) -> list[Object]:
    if not isinstance(term, Mapping) or not (term.get(EXPRESSIONS) or term.get(FIELDS)):
        return []
    there = term.get(FIELDS)
    if there is None:
        return [_add(f"{path}/{FIELDS}", _not_in(excluded))]
    absent = [one for one in _not_in(excluded) if isinstance(there, list) and one not in there]
    return [_add(f"{path}/{FIELDS}/-", one) for one in absent]


def _not_in(names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"key": NAME, "operator": "NotIn", "values": [name]} for name in names]


def _add(path: str, value: object) -> Object:
    return {"op": "add", "path": path, "value": value}


def _spec(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = pod.get("spec")
    return spec if isinstance(spec, Mapping) else {}


def _shown(value: object) -> str:
    """Show what a pod says in one line, whatever it is."""
    return repr(value[:_SHOWN]) if isinstance(value, str) else "(no string)"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
