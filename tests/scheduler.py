"""The scheduler's node predicates, plain and slow, as its documentation tells them: a reference.

It shares nothing with `nodeagent.admission`, and is for pods that the API server accepts. Beside
it stand the pods and fleets that both are asked about.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final

from nodeagent.admission.fleet import Fleet, Node, Taint
from nodeagent.names import Kind

NOW: Final = 1_800_000_000.0
PROFILES: Final = {"ds": Kind.ENV, "llm": Kind.MODELS}
FRESH_SECONDS: Final = 15 * 60
KEYS: Final = ("zone", "disk", "gpus")
VALUES: Final = ("a", "b", "3", "007", "12", "99999999999999999999", "")
NAMES: Final = tuple(f"node{number}" for number in range(1, 8))
OPERATORS: Final = ("In", "In", "NotIn", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")
OURS: Final = ("nodeagent.dev/ready", "profile.nodeagent.dev/ds", "profile.nodeagent.dev/llm")
TAINTS: Final = (
    Taint("dedicated", "a", "NoSchedule"),
    Taint("dedicated", "b", "NoExecute"),
    Taint("dedicated", "b", "PreferNoSchedule"),
    Taint("level", "7", "NoSchedule"),
    Taint("node.kubernetes.io/unschedulable", "", "NoSchedule"),
)


def schedulable(spec: Mapping[str, Any], node: Node) -> bool:
    """Tell whether a node passes a pod's nodeSelector, required node affinity and tolerations."""
    for key, value in (spec.get("nodeSelector") or {}).items():
        if node.labels.get(key) != value:
            return False
    node_affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is not None:
        terms = required.get("nodeSelectorTerms") or []
        if not any(term_matches(term, node) for term in terms):
            return False
    for taint in node.taints:
        if taint.effect == "PreferNoSchedule":
            continue
        if not any(tolerates(one, taint) for one in spec.get("tolerations") or []):
            return False
    return True


def term_matches(term: Mapping[str, Any], node: Node) -> bool:
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not expressions and not fields:
        return False
    return all(requirement_holds(one, node.labels) for one in expressions) and all(
        requirement_holds(one, {"metadata.name": node.name}) for one in fields
    )


def requirement_holds(one: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, operator, values = one["key"], one["operator"], one.get("values") or []
    if operator == "In":
        return key in labels and labels[key] in values
    if operator == "NotIn":
        return key not in labels or labels[key] not in values
    if operator == "Exists":
        return key in labels
    if operator == "DoesNotExist":
        return key not in labels
    number, bound = integer(labels.get(key, "")), integer(values[0])
    if number is None or bound is None:
        return False
    return number > bound if operator == "Gt" else number < bound


def tolerates(toleration: Mapping[str, Any], taint: Taint) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.effect:
        return False
    if toleration.get("key") and toleration["key"] != taint.key:
        return False
    operator, value = toleration.get("operator") or "Equal", toleration.get("value") or ""
    if operator == "Exists":
        return True
    if operator == "Equal":
        return bool(value == taint.value)
    number, bound = integer(taint.value), integer(value)
    if number is None or bound is None:
        return False
    return number > bound if operator == "Gt" else number < bound


def integer(text: str) -> int | None:
    """Read an int64 as Go does."""
    try:
        number = int(text)
    except ValueError:
        return None
    return number if -(2**63) <= number < 2**63 else None


def ready(node: Node, profiles: Mapping[str, Kind], now: float = NOW) -> bool:
    """Tell whether a node has the labels of profiles, and says now that it publishes them."""
    labelled = node.labels.get("nodeagent.dev/ready") == "true" and all(
        node.labels.get(f"profile.nodeagent.dev/{name}") == "true" for name in profiles
    )
    return labelled and publishes(node, profiles, now)


def publishes(node: Node, profiles: Mapping[str, Kind], now: float = NOW) -> bool:
    told = node.told is not None and now - node.told <= FRESH_SECONDS
    whole = all(node.profiles.get(name) == kind for name, kind in profiles.items())
    return node.ready and node.store_ready and node.agent_ready and told and whole


def applied(pod: Mapping[str, Any], operations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Apply a JSON patch that only adds and never replaces."""
    patched: Any = copy.deepcopy(dict(pod))
    for operation in operations:
        assert operation["op"] == "add", operation
        _, *parts = operation["path"].split("/")
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in parts]
        target = patched
        for part in way:
            target = target[int(part)] if isinstance(target, list) else target[part]
        value = copy.deepcopy(operation["value"])
        if isinstance(target, list):
            assert last == "-", operation
            target.append(value)
        else:
            assert target.get(last) is None, operation
            target[last] = value
    return dict(patched)


def on_node(name: str, operator: str = "In") -> dict[str, Any]:
    return {"key": "metadata.name", "operator": operator, "values": [name]}


def requiring(*terms: object) -> dict[str, Any]:
    """Give the part of a spec that requires one of these terms."""
    required = {"nodeSelectorTerms": list(terms)}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    }


def spec(random: Random) -> dict[str, Any]:
    """Make what a pod asks of nodes: often nothing, or a part of it."""
    made: dict[str, Any] = {}
    if random.random() < 0.3:
        made["nodeSelector"] = {random.choice(KEYS): random.choice(VALUES)}
    if random.random() < 0.2:
        made["nodeSelector"] = dict.fromkeys(random.sample(OURS, 2), "true")
    if random.random() < 0.6:
        required = {"nodeSelectorTerms": _some(random, _term, 3) or [{}]}
        node_affinity = {"requiredDuringSchedulingIgnoredDuringExecution": required}
        preferred: dict[str, Any] = {"preferredDuringSchedulingIgnoredDuringExecution": []}
        choices: tuple[dict[str, Any], ...] = (
            {},
            preferred,
            node_affinity,
            node_affinity | preferred,
            node_affinity,
        )
        made["affinity"] = {"nodeAffinity": random.choice(choices)}
    elif random.random() < 0.3:
        made["affinity"] = random.choice(({}, {"podAntiAffinity": {}}))
    if random.random() < 0.7:
        made["tolerations"] = _some(random, _toleration, 3)
    return made


def _some(random: Random, make: Callable[[Random], Any], most: int) -> list[Any]:
    return [make(random) for _ in range(random.randint(0, most))]


def _term(random: Random) -> dict[str, Any]:
    made = {
        "matchExpressions": _some(random, _expression, 2),
        "matchFields": _some(random, _field, 2),
    }
    return {key: value for key, value in made.items() if value or random.random() < 0.2}


def _expression(random: Random) -> dict[str, Any]:
    key, operator = random.choice((*KEYS, *KEYS, *OURS[:2])), random.choice(OPERATORS)
    if operator in ("Exists", "DoesNotExist"):
        return {"key": key, "operator": operator}
    values = random.sample(VALUES, 2 if operator in ("In", "NotIn") else 1)
    return {"key": key, "operator": operator, "values": values}


def _field(random: Random) -> dict[str, Any]:
    operator = random.choice(("In", "NotIn", "NotIn"))
    return {"key": "metadata.name", "operator": operator, "values": [random.choice(NAMES)]}


def _toleration(random: Random) -> dict[str, Any]:
    effect = {"effect": random.choice(("NoSchedule", "NoExecute", ""))}
    if random.random() < 0.4:
        key = {"key": random.choice(TAINTS).key} if random.random() < 0.5 else {}
        return {"operator": "Exists", **key, **(effect if random.random() < 0.4 else {})}
    like = random.choice(TAINTS)
    operator = {"operator": "Equal"} if random.random() < 0.5 else {}
    value = random.choice((like.value, like.value, "a", ""))
    return {
        "key": like.key,
        "value": value,
        **operator,
        **(effect if random.random() < 0.4 else {}),
    }


def node(random: Random, name: str) -> Node:
    """Make a node that, but for a flaw or two, is ready for all profiles."""
    flaws = set(random.sample(range(10), random.choice((0, 0, 1, 2))))
    labels = {key: random.choice(VALUES) for key in KEYS if random.random() < 0.7}
    labels |= {key: "true" for flaw, key in enumerate(OURS) if flaw not in flaws}
    published = {"ds": Kind.ENV, "llm": Kind.ENV if 8 in flaws else Kind.MODELS}
    return Node(
        name=name,
        labels=labels | ({OURS[0]: "false"} if 9 in flaws else {}),
        taints=tuple(random.sample(TAINTS, random.choice((0, 0, 1, 2)))),
        ready=3 not in flaws,
        store_ready=4 not in flaws,
        agent_ready=5 not in flaws,
        told=None if 6 in flaws else NOW - random.choice((-60, 0, 0, 0, 900, 901)),
        profiles={} if 7 in flaws else published,
    )


def fleet(random: Random) -> Fleet:
    """Make a fleet of a few nodes."""
    return Fleet({name: node(random, name) for name in NAMES[: random.randint(0, len(NAMES))]})
