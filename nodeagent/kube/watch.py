"""Following a collection of the API server: a list, then its changes, for ever.

Of each object only a projection is kept, made as soon as the object is parsed: what is held is
small, however large the objects are. Lists come in pages. (Streaming lists would need no pages,
but from Kubernetes 1.32 on some servers have them and some don't: this way would be needed, too.)
A watch goes on from the last version only while that is recent, for the next sign of life may be
a minute away; else, and where the server has lost the thread, the collection is listed anew. Until
a list is whole, what was known before stands.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from nodeagent.errors import NodeAgentError
from nodeagent.kube.api import Api
from nodeagent.kube.faults import BusyError, LostError, SilentError

JSON: Final = "application/json"
METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_CHANGES: Final = frozenset({"ADDED", "MODIFIED", "DELETED"})

P = TypeVar("P")
Object = Mapping[str, Any]


@dataclass(frozen=True)
class Collection(Generic[P]):
    """What to follow: objects of one namespace, or that have none, chosen by fields or labels.

    `project` gives what is kept of an object: None for one that does not count. `page` is how many
    come at once: less of large ones. Those of all namespaces (`everywhere`) have the names
    `namespace/name`.
    """

    path: str
    project: Callable[[Object], P | None]
    fields: str | None = None
    labels: str | None = None
    metadata_only: bool = False
    page: int = 500
    everywhere: bool = False

    def name(self, item: Object) -> str:
        """Give the name by which an object is known."""
        metadata = item["metadata"]
        own = str(metadata["name"])
        return f"{metadata['namespace']}/{own}" if self.everywhere else own

    def query(self, whole: str = METADATA) -> dict[str, Any]:
        """Give what each request for it says; `whole` is how its metadata alone is called."""
        return {
            "field_selector": self.fields,
            "label_selector": self.labels,
            "header_params": {"Accept": whole if self.metadata_only else JSON},
        }


@dataclass(frozen=True)
class Listed(Generic[P]):
    """All there is, by name."""

    objects: Mapping[str, P]


@dataclass(frozen=True)
class Changed(Generic[P]):
    """One object is otherwise; None if it is gone, or does not count any more."""

    name: str
    found: P | None


@dataclass(frozen=True)
class Alive:
    """Nothing has changed, and the server says so."""


@dataclass(frozen=True)
class Failed:
    """What went wrong; it is tried again, and what was known stands."""

    error: NodeAgentError


Change = Listed[P] | Changed[P] | Alive | Failed


@dataclass(frozen=True)
class Times:
    """How long things take, in seconds.

    A server sends a bookmark about each minute, but none of what never changed since it started:
    after `silence` a list tells how things are. `fresh` and a minute together, too, stay below the
    age at which a snapshot counts as stale.
    """

    silence: float = 70.0
    fresh: float = 20.0
    session: float = 300.0
    retry: float = 0.5
    retry_max: float = 15.0

    def wait(self, failures: int) -> float:
        """Give the wait after so many failures, never the same: clients come back one by one."""
        most = min(self.retry * 2.0 ** min(failures, 16), self.retry_max)
        return most * random.uniform(0.5, 1.0)  # noqa: S311 no secret


async def follow(
    api: Api,
    collection: Collection[P],
    times: Times = Times(),
) -> AsyncGenerator[Change[P], None]:
    """List and watch a collection until closed; failures are told among the changes."""
    now = asyncio.get_running_loop().time
    version, heard, failures = "", 0.0, 0
    while True:
        wait = 0.0
        try:
            if not version or now() - heard > times.fresh:
                version, objects = await _list(api, collection)
                heard = now()
                yield Listed(objects)
                del objects  # or what changes later would live twice
            async with contextlib.aclosing(_watch(api, collection, version, times)) as events:
                async for latest, change in events:
                    version, heard, failures = latest, now(), -1
                    yield change
        except SilentError:  # the list will tell whether that is a failure
            version, failures = "", 0
            continue
        except NodeAgentError as error:
            if isinstance(error, LostError):
                version = ""
            wait = error.wait if isinstance(error, BusyError) else 0.0
            yield Failed(error)
        failures += 1  # also a session that ends in order, if it brought nothing
        await asyncio.sleep(max(wait, times.wait(failures)))


async def _list(api: Api, collection: Collection[P]) -> tuple[str, dict[str, P]]:
    """Read the whole collection; give its version, too."""
    objects: dict[str, P] = {}
    token = None
    while True:
        version, token = await _page(api, collection, token, objects)
        if not token:
            return version, objects


async def _page(
    api: Api, collection: Collection[P], token: str | None, objects: dict[str, P]
) -> tuple[str, str | None]:
    """Add a page of a list to the objects; give the list's version and the next page's token.

    The page itself is gone when this returns: two of them are never held at once.
    """
    page = await api.get(
        collection.path, limit=collection.page, _continue=token, **collection.query(METADATA_LIST)
    )
    try:
        for item in page["items"] or ():
            found = collection.project(item)
            if found is not None:
                objects[collection.name(item)] = found
        return str(page["metadata"]["resourceVersion"]), page["metadata"].get("continue")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(collection, "a list", error) from None


async def _watch(
    api: Api, collection: Collection[P], version: str, times: Times
) -> AsyncGenerator[tuple[str, Changed[P] | Alive], None]:
    """Read changes since a version, each with its own, until the server ends the session.

    Raises LostError where it does not say what changed.
    """
    seconds = round(times.session * random.uniform(1.0, 2.0))  # noqa: S311 no secret
    asked = [("watch", "true"), ("allowWatchBookmarks", "true"), ("timeoutSeconds", seconds)]
    lines = api.lines(
        collection.path,
        times.silence,
        resource_version=version,
        query_params=asked,
        **collection.query(),
    )
    async with contextlib.aclosing(lines):
        async for line in lines:
            try:
                event = json.loads(line)
                yield _read(collection, event["type"], event["object"])
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise _unreadable(collection, "an event", error) from None


def _read(collection: Collection[P], kind: str, item: Object) -> tuple[str, Changed[P] | Alive]:
    if kind == "ERROR":
        raise LostError(
            f"GET {collection.path}: the watch ended with {item.get('code')} "
            f"{item.get('reason')}: {item.get('message')}; it is listed anew"
        )
    version = str(item["metadata"]["resourceVersion"])
    if kind not in _CHANGES:
        return version, Alive()
    found = None if kind == "DELETED" else collection.project(item)
    return version, Changed(collection.name(item), found)


def _unreadable(collection: Collection[P], what: str, error: Exception) -> LostError:
    return LostError(
        f"GET {collection.path}: {what} that cannot be read ({type(error).__name__}: {error}); "
        "it is listed anew"
    )
