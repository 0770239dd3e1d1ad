"""What is kept of each object: the few fields that admission asks for, and nothing else of it."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from nodeagent.admission.fleet import Node, Taint
from nodeagent.names import CONDITION, Kind

CORDONED: Final = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
_KINDS: Final = {kind.value: kind for kind in Kind}

Object = Mapping[str, Any]
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Known:
    """A Node by itself; `uid` tells it from an earlier one of its name."""

    uid: str
    node: Node


@dataclass(frozen=True, slots=True)
class Store:
    """A NodeStore: the uids of its owners, and the profiles whose gates are open."""

    owners: frozenset[str]
    profiles: Mapping[str, Kind]


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent's pod: on which node, and whether it is Ready and stays."""

    node: str
    ready: bool


def join(known: Known | None, store: Store | None, *, agent_ready: bool) -> Node | None:
    """Put together what is known of a node; its NodeStore counts only if it is that Node's own."""
    if known is None:
        return None
    node = known.node
    return Node(
        name=node.name,
        labels=node.labels,
        taints=node.taints,
        ready=node.ready,
        store_ready=node.store_ready,
        told=node.told,
        agent_ready=agent_ready,
        profiles=store.profiles if store is not None and known.uid in store.owners else {},
    )


def node(item: Object) -> Known:
    """Take what a Node says of itself."""
    spec, conditions = item.get("spec") or {}, _conditions(item)
    ours = conditions.get(CONDITION, {})
    told = ours.get("lastHeartbeatTime")
    return Known(
        item["metadata"]["uid"],
        Node(
            name=sys.intern(item["metadata"]["name"]),
            labels=labels(item),
            taints=_taints(spec.get("taints") or (), cordoned=bool(spec.get("unschedulable"))),
            ready=_is_true(conditions, "Ready"),
            store_ready=_is_true(conditions, CONDITION),
            told=datetime.fromisoformat(told).timestamp() if told else None,
        ),
    )


def store(item: Object) -> Store:
    """Take what a NodeStore publishes; a kind that is not known here is left out."""
    told = (item.get("status") or {}).get("profiles") or ()
    open_ones = {
        sys.intern(one["name"]): _KINDS[one["kind"]]
        for one in told
        if one.get("gate") is True and one.get("kind") in _KINDS
    }
    owners = item["metadata"].get("ownerReferences") or ()
    return Store(frozenset(one["uid"] for one in owners if one["kind"] == "Node"), open_ones)


def agent(item: Object) -> Agent | None:
    """Take an agent's pod: None until it has a node."""
    name = (item.get("spec") or {}).get("nodeName")
    if not name:
        return None
    stays = not item["metadata"].get("deletionTimestamp")
    return Agent(sys.intern(name), stays and _is_true(_conditions(item), "Ready"))


def labels(item: Object) -> Labels:
    """Take an object's labels; thousands of objects share the strings."""
    found = item["metadata"].get("labels") or {}
    return {sys.intern(key): sys.intern(value) for key, value in found.items()}


def _taints(found: Iterable[Object], *, cordoned: bool) -> tuple[Taint, ...]:
    taints = tuple(
        Taint(*map(sys.intern, (one["key"], one.get("value") or "", one["effect"])))
        for one in found
    )
    if not cordoned or any((one.key, one.effect) == _CORDON for one in taints):
        return taints
    return (*taints, CORDONED)  # the taint itself comes a moment later


_CORDON: Final = (CORDONED.key, CORDONED.effect)


def _conditions(item: Object) -> Mapping[str, Object]:
    return {one["type"]: one for one in (item.get("status") or {}).get("conditions") or ()}


def _is_true(conditions: Mapping[str, Object], kind: str) -> bool:
    return conditions.get(kind, {}).get("status") == "True"
