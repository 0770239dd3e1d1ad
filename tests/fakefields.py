"""Objects of the API, flat: each field's path to its value, so that owners are sets of paths."""

import copy
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final

# Lists that are maps, and the field that tells their items apart; other lists are one value.
KEYS: Final = {"conditions": "type", "profiles": "name", "ownerReferences": "uid"}

Field = tuple[Any, ...]  # names, and for an item of such a list (key, value)
Flat = dict[Field, Any]
Tree = Mapping[str, Any]


def flat(tree: Tree) -> Flat:
    """Spread an object out."""
    return dict(_leaves(tree, (), ""))


def nest(fields: Flat) -> dict[str, Any]:
    """Put an object together; it shares nothing with the fields."""
    root: dict[str, Any] = {}
    for path, value in fields.items():
        here: Any = root
        for step, following in itertools.pairwise(path):
            here = _enter(here, step, [] if isinstance(following, tuple) else {})
        if value in ([], {}):  # then others may have put something in it
            here.setdefault(path[-1], copy.copy(value))
        else:
            here[path[-1]] = copy.deepcopy(value)
    return root


def merged(old: Tree, patch: Tree) -> dict[str, Any]:
    """Merge as RFC 7396 does: maps by name, null removes, a list replaces a list."""
    new = dict(old)
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        elif isinstance(value, Mapping):
            new[key] = merged(new.get(key, {}), value)
        else:
            new[key] = value
    return new


def _leaves(value: Any, path: Field, name: str) -> Iterator[tuple[Field, Any]]:  # noqa: ANN401 any JSON
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key), key)
    elif isinstance(value, list) and value and name in KEYS:
        for item in value:
            yield from _leaves(item, (*path, (KEYS[name], item[KEYS[name]])), "")
    else:
        yield path, copy.deepcopy(value)


def _enter(here: Any, step: Any, empty: Any) -> Any:  # noqa: ANN401 any JSON
    if not isinstance(step, tuple):
        return here.setdefault(step, empty)
    key, value = step
    for item in here:
        if item[key] == value:
            return item
    here.append({key: value})
    return here[-1]
