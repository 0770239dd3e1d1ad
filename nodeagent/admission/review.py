"""What an API server asks: an AdmissionReview, its pod as raw JSON, and how to read that.

The pod stays as it came, so unknown fields survive; nothing in it is trusted to have its type.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, NoReturn

API_VERSION: Final = "admission.k8s.io/v1"
SHOWN_LETTERS: Final = 80
PODS: Final = ("", "v1", "pods")


class Entry(StrEnum):
    """Which entry of the webhook configuration called: it opted in by namespace, or by pod."""

    NAMESPACE = "namespace"
    POD = "pod"


@dataclass(frozen=True)
class Malformed:
    """Why something is no AdmissionReview, in a sentence."""

    message: str


@dataclass(frozen=True, kw_only=True)
class Review:
    """A request; `resource` is group, version and plural, `size` the bytes that it came in.

    `namespace` is the request's: in what a controller makes, the pod's own may be absent.
    """

    uid: str
    entry: Entry
    resource: tuple[str, str, str] = PODS
    sub_resource: str = ""
    operation: str = "CREATE"
    namespace: str = ""
    name: str = ""
    user: str = ""
    dry_run: bool = False
    pod: Mapping[str, Any]
    size: int = 0

    @property
    def creates_pod(self) -> bool:
        """Whether this is a pod that is being made, and no sub-resource of one."""
        return self.operation == "CREATE" and self.resource == PODS and not self.sub_resource

    @property
    def spec(self) -> Mapping[str, Any]:
        """The pod's spec, empty if it has none."""
        return table(self.pod.get("spec"))

    @property
    def annotations(self) -> Mapping[str, Any]:
        """The pod's annotations."""
        return table(table(self.pod.get("metadata")).get("annotations"))

    @cached_property
    def containers(self) -> tuple["Container", ...]:
        """Its containers of all kinds."""
        return containers(self.spec)

    @property
    def labels(self) -> Mapping[str, Any]:
        """The pod's labels."""
        return table(table(self.pod.get("metadata")).get("labels"))


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a pod of any kind; `at` is its JSON pointer."""

    at: str
    raw: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its name, empty if it has none."""
        return text(self.raw.get("name"))


def parse(data: bytes, entry: Entry) -> Review | Malformed:
    """Read a request's body."""
    try:
        document = json.loads(data.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        return Malformed(f"the body is no JSON: {shown(str(error))}")
    if not isinstance(document, dict):
        return Malformed("the body is no JSON object")
    for key, wanted in (("apiVersion", API_VERSION), ("kind", "AdmissionReview")):
        if document.get(key) != wanted:
            return Malformed(f"{key} is {shown(str(document.get(key)))}, not {wanted}")
    request = document.get("request")
    if not isinstance(request, dict):
        return Malformed("request is missing")
    if not text(request.get("uid")):
        return Malformed("request.uid is missing")
    return _review(request, entry, len(data))


def containers(spec: Mapping[str, Any]) -> tuple[Container, ...]:
    """List the containers of a pod: init containers, sidecars among them, then the others."""
    return tuple(
        Container(f"/spec/{kind}/{number}", one)
        for kind in ("initContainers", "containers")
        for number, one in enumerate(rows(spec.get(kind)))
        if isinstance(one, dict)
    )


def table(value: object) -> Mapping[str, Any]:
    """Take an object as it is, and anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def rows(value: object) -> Sequence[Any]:
    """Take an array as it is, and anything else as an empty one."""
    return value if isinstance(value, list) else ()


def text(value: object) -> str:
    """Take a string as it is, and anything else as an empty one."""
    return value if isinstance(value, str) else ""


def shown(words: str) -> str:
    """Make somebody else's words fit into a sentence: one line, printable, not long."""
    start = "".join(letter if letter.isprintable() else " " for letter in words[:SHOWN_LETTERS])
    return start + ("…" if len(words) > SHOWN_LETTERS else "")


def _review(request: Mapping[str, Any], entry: Entry, size: int) -> Review | Malformed:
    resource = table(request.get("resource"))
    review = Review(
        uid=text(request.get("uid")),
        entry=entry,
        resource=(
            text(resource.get("group")),
            text(resource.get("version")),
            text(resource.get("resource")),
        ),
        sub_resource=text(request.get("subResource")),
        operation=text(request.get("operation")),
        namespace=text(request.get("namespace")),
        name=_name(request),
        user=text(table(request.get("userInfo")).get("username")),
        dry_run=request.get("dryRun") is True,
        pod=table(request.get("object")),
        size=size,
    )
    if review.creates_pod and not review.pod:
        return Malformed("request.object is no pod")
    return review


def _name(request: Mapping[str, Any]) -> str:
    """Name the pod as far as it is known: what controllers make has only the start of a name."""
    metadata = table(table(request.get("object")).get("metadata"))
    return (
        text(request.get("name"))
        or text(metadata.get("name"))
        or text(metadata.get("generateName"))
    )


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
