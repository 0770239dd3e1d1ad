"""Which nodes a pod may run on: the scheduler's node predicates, over the raw spec. Pure.

The rules are those of the plugins NodeAffinity, TaintToleration and NodeUnschedulable of Kubernetes
1.36; a cordoned node is one with a taint. A pod is looked at once for all nodes, whose sets are
ints. The spec is raw JSON: what the API server refuses anyway may fit nowhere, and never raises.
`spec.nodeName` is not looked at.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from nodeagent.admission.fleet import Fleet, Node, Taint
from nodeagent.admission.nodes import NATURAL, Nodes, integer, union

REQUIRED: Final = ("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
EXPRESSIONS: Final = "matchExpressions"
FIELDS: Final = "matchFields"
NAME: Final = "metadata.name"  # the one field that there is

_LABEL_VALUE: Final = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_CANONICAL: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")


def fits(spec: Mapping[str, Any], node: Node) -> bool:
    """Tell whether the scheduler would take a node for a pod, as far as it is the node's."""
    return bool(matching(spec, Nodes((node,))))


def usable(spec: Mapping[str, Any], fleet: Fleet) -> list[Node]:
    """Give the nodes that a pod fits on."""
    nodes = Nodes(fleet.nodes.values())
    return nodes.pick(matching(spec, nodes))


def matching(spec: Mapping[str, Any], nodes: Nodes) -> int:
    """Give the set of the nodes that a pod fits on."""
    found = _selected(spec.get("nodeSelector"), nodes)
    alternatives = terms(spec)
    if alternatives is not None:
        found &= union(_term(term, nodes) for term in alternatives)
    return found & ~_repelling(spec.get("tolerations"), nodes)


def terms(spec: Mapping[str, Any]) -> Sequence[Any] | None:
    """Give the terms of the required node affinity; None where nothing is required."""
    inner: Any = spec
    for key in REQUIRED:
        inner = inner.get(key) if isinstance(inner, Mapping) else inner
        if inner is None:
            return None
    found = inner.get("nodeSelectorTerms") if isinstance(inner, Mapping) else None
    return found if isinstance(found, list) else ()


def rules(spec: Mapping[str, Any]) -> int:
    """Count what has to be looked at, without looking at it."""
    selector = spec.get("nodeSelector")
    count = len(selector) if isinstance(selector, Mapping) else 0
    for term in terms(spec) or ():
        asked = term if isinstance(term, Mapping) else {}
        count += 1 + len(_items(asked.get(EXPRESSIONS))) + len(_items(asked.get(FIELDS)))
    return count + len(_items(spec.get("tolerations")))


def _items(value: object) -> Sequence[Any]:
    """Read a list; what is none is taken for a list of one thing that makes no sense."""
    if value is None:
        return ()
    return value if isinstance(value, list) else (None,)


def _selected(selector: object, nodes: Nodes) -> int:
    if selector is None:
        return nodes.every
    if not isinstance(selector, Mapping):
        return 0
    found = nodes.every
    for key, value in selector.items():
        found &= nodes.column(key).valued.get(value, 0) if isinstance(value, str) else 0
    return found


def _term(term: object, nodes: Nodes) -> int:
    """Give the nodes that a term matches; an empty one matches none."""
    if not isinstance(term, Mapping):
        return 0
    expressions, fields = _items(term.get(EXPRESSIONS)), _items(term.get(FIELDS))
    found = nodes.every if expressions or fields else 0
    for one in fields:
        found &= _field(one, nodes)
    for one in expressions:
        if not found:
            break
        found &= _expression(one, nodes)
    return found


def _expression(asked: object, nodes: Nodes) -> int:
    """Give the nodes whose labels match; one without sense makes its term match nothing."""
    if not isinstance(asked, Mapping):
        return 0
    key, values = asked.get("key"), _items(asked.get("values"))
    if not isinstance(key, str) or not all(map(_is_label_value, values)):
        return 0
    column = nodes.column(key)
    match asked.get("operator"):
        case "In":
            return union(column.valued.get(value, 0) for value in values)
        case "NotIn" if values:
            return nodes.every & ~union(column.valued.get(value, 0) for value in values)
        case "Exists" if not values:
            return column.having
        case "DoesNotExist" if not values:
            return nodes.every & ~column.having
        case "Gt" | "Lt" as operator if len(values) == 1:
            bound = integer(values[0], NATURAL)
            return 0 if bound is None else column.compared(operator, bound)
    return 0


def _field(asked: object, nodes: Nodes) -> int:
    """Give the nodes whose name matches."""
    if not isinstance(asked, Mapping) or asked.get("key") != NAME:
        return 0
    values = _items(asked.get("values"))
    if len(values) != 1 or not isinstance(values[0], str):
        return 0
    match asked.get("operator"):
        case "In":
            return nodes.named.get(values[0], 0)
        case "NotIn":
            return nodes.every & ~nodes.named.get(values[0], 0)
    return 0


def _repelling(tolerations: object, nodes: Nodes) -> int:
    """Give the nodes with a taint that is not tolerated."""
    if not nodes.tainted:
        return 0
    allowed = [one for one in _items(tolerations) if isinstance(one, Mapping)]
    return union(
        found
        for taint, found in nodes.tainted.items()
        if not any(_tolerates(one, taint) for one in allowed)
    )


def _tolerates(toleration: Mapping[str, Any], taint: Taint) -> bool:
    """Tell whether a taint is tolerated; an empty key is every key, an empty effect every one."""
    key, effect = toleration.get("key") or "", toleration.get("effect") or ""
    if key not in ("", taint.key) or effect not in ("", taint.effect):
        return False
    value = toleration.get("value") or ""
    match toleration.get("operator") or "Equal":
        case "Exists":
            return True
        case "Equal":
            return bool(value == taint.value)
        case "Gt" | "Lt" as operator:  # alpha in 1.36: while it is off, the API server refuses them
            return _compares(integer(taint.value, _CANONICAL), operator, value)
    return False


def _is_label_value(value: object) -> bool:
    return isinstance(value, str) and _LABEL_VALUE.fullmatch(value) is not None


def _compares(left: int | None, operator: str, value: object) -> bool:
    right = integer(value, _CANONICAL)
    if left is None or right is None:
        return False
    return left > right if operator == "Gt" else left < right
