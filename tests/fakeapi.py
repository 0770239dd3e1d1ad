"""An API server that behaves: objects, server-side apply by owner, JSON patches, faults on order.

Objects are kept flat, as a map of each field's path to its value: then who owns what, and what
an apply takes away, is arithmetic of sets. `tests.fakeserving` puts it behind a client or a socket.
"""

import itertools
import re
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.fakefields import Field, Flat, Tree, flat, merged, nest

STRANGER: Final = "Bearer stranger"  # who has no rights
APPLY: Final = "application/apply-patch+yaml"
KINDS: Final = {"nodes": "", "pods": "", "events": "", "nodestores": "nodeagent.dev"}
IDENTITY: Final = frozenset(
    {("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace")}
)
_SELECTABLE: Final = re.compile(
    r"spec\.nodeName|status\.phase|metadata\.name|involvedObject\.[a-z]+"
)
_TERM: Final = re.compile(r"(?P<field>[^!=]+)(?P<sign>!=|=)(?P<value>.*)")
_PATH: Final = re.compile(
    r"(?P<place>(?:/api|/apis/[^/]+)/[^/]+(?:/namespaces/[^/]+)?/(?P<kind>[a-z]+))"
    r"(?:/(?P<name>[^/]+)(?:/(?P<sub>status))?)?"
)
_VERBS: Final = {"GET": "get", "POST": "create", "PATCH": "patch"}


class RefusedError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True)
class Request:
    """What a client asks."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    body: Any = None
    credentials: str = ""

    @property
    def is_dry(self) -> bool:
        return "dryRun" in self.query


class FakeApi:
    """The server's state; `answer` is all that it does.

    Orders for bad times: `away` drops connections, `slow` is a wait before each answer, `faults`
    gives a status for every path that begins so, and `retry_after` what those answers ask for;
    `expired` are credentials that are no longer good. What is `guarded` by a policy refuses all
    that is asked without effect. `writes` counts what came in by method and path, `asked` all
    requests, also those that were dropped, and `queries` holds the parameters that were used.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Flat] = {}
        self.owners: dict[tuple[str, str, str], set[Field]] = {}
        self.writes: Counter[str] = Counter()
        self.asked = 0
        self.away, self.slow, self.guarded = False, 0.0, True
        self.faults: dict[str, int] = {}
        self.retry_after: int | str = 0
        self.expired: set[str] = set()
        self.queries: set[str] = set()
        self._versions = itertools.count(1)

    def headers(self, status: int) -> dict[str, str]:
        """Give what comes with an answer of that status."""
        asks = self.retry_after and status in {429, 503}
        return {"Retry-After": str(self.retry_after)} if asks else {}

    def answer(self, request: Request) -> tuple[int, Any]:
        """Give status and body."""
        self.queries |= request.query.keys()
        try:
            if request.credentials in self.expired:
                raise RefusedError(401, "Unauthorized")
            return self._answer(request)
        except RefusedError as error:
            return error.status, {
                "kind": "Status",
                "status": "Failure",
                "message": error.message,
                "code": error.status,
            }

    def read(self, path: str) -> dict[str, Any]:
        """Read an object as a test does: at once."""
        return nest(self.objects[path])

    def write(self, path: str, patch: Tree) -> None:
        """Merge a patch as somebody else, uncounted; with /status only what is in there."""
        place, part = path.removesuffix("/status"), path.endswith("/status")
        kept = {key: value for key, value in patch.items() if (key == "status") is part}
        self._replace(place, flat(merged(self.read(place), kept)))

    def create(self, place: str, body: Tree) -> dict[str, Any]:
        """Create an object, uncounted."""
        path = f"{place}/{body['metadata']['name']}"
        if path in self.objects:
            raise RefusedError(409, f'{_of(path)} "{body["metadata"]["name"]}" already exists')
        self.objects[path] = flat(body) | {("metadata", "uid"): str(uuid.uuid4())}
        self._touch(path, set(), "", "creator")
        return self.read(path)

    def delete(self, path: str) -> None:
        """Delete an object, and what is known of its owners."""
        del self.objects[path]
        self.owners = {key: owned for key, owned in self.owners.items() if key[0] != path}

    def _answer(self, request: Request) -> tuple[int, Any]:
        if request.method != "GET" and not request.is_dry:
            self.writes[f"{request.method} {request.path}"] += 1
        for start, status in self.faults.items():
            if request.path.startswith(start):
                raise RefusedError(status, f"told to answer {status}")
        found = _PATH.fullmatch(request.path)
        if found is None or found["kind"] not in KINDS:
            raise RefusedError(404, "the server could not find the requested resource")
        if request.credentials == STRANGER:
            raise RefusedError(403, _forbidden(request.method, found["kind"]))
        if not found["name"]:
            return self._collection(request, found["place"])
        path = f"{found['place']}/{found['name']}"
        makes = request.content_type == APPLY and found["kind"] == "nodestores" and not found["sub"]
        if path not in self.objects and not makes:
            raise RefusedError(404, f'{_of(path)} "{found["name"]}" not found')
        return 200, self._one(path, found["sub"] or "", request)

    def _one(self, path: str, sub: str, request: Request) -> Any:  # noqa: ANN401 any JSON
        """Do what is asked of one object that is there."""
        match request.method:
            case "GET":
                pass
            case "PATCH":
                self._patch(path, sub, request)
            case "DELETE":
                self.delete(path)
                return {"kind": "Status", "status": "Success"}
            case _:
                raise RefusedError(405, "the server does not allow this method on the resource")
        return self.read(path)

    def _patch(self, path: str, sub: str, request: Request) -> None:
        if request.is_dry:
            if self.guarded:
                raise RefusedError(403, "ValidatingAdmissionPolicy 'nodeagent' denied request")
            return
        match request.content_type:
            case "application/apply-patch+yaml":
                self._apply(path, sub, request)
            case "application/json-patch+json":
                self._json_patch(path, request.body)
            case "application/merge-patch+json":
                self.write(request.path, request.body)
            case unknown:
                raise RefusedError(
                    415, f"the body of the request was in an unknown format: {unknown}"
                )

    def _collection(self, request: Request, place: str) -> tuple[int, Any]:
        if request.method == "POST":
            return 201, self.create(place, request.body)
        root, _, kind = place.rpartition("/")
        inside = re.compile(f"{root}(?:/namespaces/[^/]+)?/{kind}/[^/]+")
        chosen = _selector(request.query.get("fieldSelector", ""))
        objects = [self.read(path) for path in self.objects if inside.fullmatch(path)]
        return 200, {"kind": "List", "items": [one for one in objects if chosen(one)]}

    def _apply(self, path: str, sub: str, request: Request) -> None:
        """Set what is applied, drop what the same manager applied before and leaves out now."""
        manager = request.query["fieldManager"]
        if path not in self.objects:
            self.create(path.rpartition("/")[0], nest(_identity(request.body)))
        held = self.objects[path]
        applied = {
            key: value
            for key, value in flat(request.body).items()
            if (key[0] == "status") == (sub == "status") and key not in IDENTITY
        }
        foreign = {
            key
            for key, value in applied.items()
            if key in held and held[key] != value and self._owned_by_others(path, sub, manager, key)
        }
        if foreign and request.query.get("force", "").lower() != "true":
            raise RefusedError(409, f"Apply failed with {len(foreign)} conflicts: {foreign}")
        gone = self.owners.get((path, sub, manager), set()) - applied.keys()
        for key in gone:
            if not self._owned_by_others(path, sub, manager, key):
                held.pop(key, None)
        # A list that loses its last item goes with it, though an empty one is applied.
        emptied = {key for key in applied if any(one[: len(key)] == key for one in gone)}
        held.update({key: value for key, value in applied.items() if key not in emptied})
        self._touch(path, foreign, sub, manager)
        self.owners[path, sub, manager] = set(applied)

    def _owned_by_others(self, path: str, sub: str, manager: str, key: Field) -> bool:
        return any(
            key in owned
            for (of, *who), owned in self.owners.items()
            if of == path and who != [sub, manager]
        )

    def _json_patch(self, path: str, operations: list[Mapping[str, Any]]) -> None:
        """Apply `test` and `remove`, all or none."""
        changed: Any = self.read(path)
        for one in operations:
            *way, last = [int(step) if step.isdigit() else step for step in _steps(one["path"])]
            try:
                parent: Any = changed
                for step in way:
                    parent = parent[step]
                if one["op"] == "test" and parent[last] != one["value"]:
                    raise RefusedError(422, f"testing value {one['path']} failed: test failed")
                if one["op"] == "remove":
                    del parent[last]
            except LookupError:
                raise RefusedError(
                    422, "the server rejected our request due to an error in our request"
                ) from None
        self._replace(path, flat(changed))

    def _replace(self, path: str, new: Flat) -> None:
        """Put new fields; who changed a field owns it, and nobody owns what is gone."""
        old = self.objects[path]
        self.objects[path] = new
        changed = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
        self._touch(path, changed, "", "somebody")
        self.owners.setdefault((path, "", "somebody"), set()).update(changed & new.keys())

    def _touch(self, path: str, taken: set[Field], sub: str, manager: str) -> None:
        for (of, *who), owned in self.owners.items():
            if of == path and who != [sub, manager]:
                owned.difference_update(taken)
        self.objects[path]["metadata", "resourceVersion"] = str(next(self._versions))


def _identity(body: Tree) -> Flat:
    return {key: value for key, value in flat(body).items() if key in IDENTITY}


def _of(path: str) -> str:
    """Name the resource that lies there, as messages do."""
    kind = path.split("/")[-2]
    return ".".join(part for part in (kind, KINDS[kind]) if part)


def _forbidden(method: str, kind: str) -> str:
    return (
        f'{kind} is forbidden: User "stranger" cannot {_VERBS[method]} resource "{kind}" in API '
        f'group "{KINDS[kind]}" at the cluster scope'
    )


def _steps(pointer: str) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def _selector(text: str) -> Callable[[Tree], bool]:
    """Read a field selector; only some fields can be selected by."""
    terms = [_TERM.fullmatch(term) for term in text.split(",") if term]
    for term in terms:
        if term is None or not _SELECTABLE.fullmatch(term["field"]):
            raise RefusedError(400, f"field label not supported: {text}")

    def chosen(tree: Tree) -> bool:
        fields = flat(tree)
        return all(
            (fields.get(tuple(term["field"].split(".")), "") == term["value"])
            is (term["sign"] == "=")
            for term in terms
            if term is not None
        )

    return chosen
