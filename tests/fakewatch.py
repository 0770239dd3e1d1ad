"""An API server that lists in pages and is watched, with faults on order; objects lie by path.

It knows versions, selectors, metadata alone, and what a real one does with deleted pods and
namespaces. What is watched is told from a log, so a version from before `compact` is too old.
"""

import asyncio
import contextlib
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from aiohttp import web

from tests.fakefields import merged

Tree = dict[str, Any]
Trouble = Callable[[web.Request], web.Response | None]


class FakeWatch:
    """The server's state. `trouble` may answer in its place, `silent` says nothing to watchers.

    Nobody is answered while it is not `awake`. `asked` holds the path and parameters of each
    request, `repeated` parameters that came twice in one, `sessions` the watches that are open.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Tree] = {}
        self.log: list[tuple[int, str, Tree | None, Tree | None]] = []  # path, before, after
        self.version, self.oldest = 100, 0
        self.silent = False
        self.trouble: Trouble = lambda _: None
        self.awake = asyncio.Event()
        self.awake.set()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.repeated: list[str] = []
        self.sessions: list[Session] = []
        self._pages: dict[str, tuple[int, list[Tree]]] = {}
        self._tokens = itertools.count()

    def put(self, path: str, body: Mapping[str, Any]) -> Tree:
        """Have an object there, as it is given; it gets a version, and a uid if it has none."""
        before = self.objects.get(path)
        self.version += 1
        metadata = {"uid": str(uuid.uuid4()), **_placed(path), **body["metadata"]}
        made = {**body, "metadata": {**metadata, "resourceVersion": str(self.version)}}
        self.objects[path] = made
        self._tell(path, before, made)
        return made

    def remove(self, path: str) -> None:
        """Have no object there any more."""
        self.version += 1
        gone = self.objects.pop(path)
        gone["metadata"]["resourceVersion"] = str(self.version)
        self._tell(path, gone, None)

    def compact(self) -> None:
        """Forget all that was before."""
        self.version += 1
        self.oldest = self.version

    def bookmark(self) -> None:
        """Give every watcher a sign of life."""
        sign = {"metadata": {"resourceVersion": str(self.version)}}
        self.say(_line("BOOKMARK", sign))

    def say(self, raw: bytes) -> None:
        """Send bytes to every watcher."""
        for session in self.sessions:
            session.say(raw)

    def end(self) -> None:
        """End all watches as a server does in time."""
        for session in self.sessions:
            session.events.put_nowait(None)

    def cut(self, rest: bytes = b"") -> None:
        """Break the connections of all watches, after these bytes."""
        for session in self.sessions:
            session.cut = True
            session.events.put_nowait(rest or None)

    def watching(self, path: str) -> int:
        """Count the watches of a collection."""
        return sum(session.path == path for session in self.sessions)

    def times(self, path: str, *, watched: bool) -> int:
        """Count how often a collection was listed or watched."""
        return sum(where == path and ("watch" in query) is watched for where, query in self.asked)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer."""
        self.asked.append((request.path, dict(request.query)))
        self.repeated += [key for key in set(request.query) if len(request.query.getall(key)) > 1]
        await self.awake.wait()
        if (answer := self.trouble(request)) is not None:
            return answer
        if request.method == "GET" and request.query.get("watch") == "true":
            return await Session(self, request).serve()
        body = await request.json() if request.can_read_body else {}
        status, found = self._answer(request, body)
        return web.json_response(found, status=status)

    def _answer(self, request: web.Request, body: Tree) -> tuple[int, Any]:
        path = request.path.removesuffix("/status").removesuffix("/finalize")
        match request.method:
            case "POST":
                return 201, self.put(f"{path}/{body['metadata']['name']}", body)
            case "GET" if _is_collection(path):
                return self._list(request)
            case _ if path not in self.objects:
                return failure(404, "NotFound", f"{path} not found")
            case "PATCH":
                return 200, self.put(path, merged(self.objects[path], body))
            case "DELETE":
                self._delete(path, now=request.query.get("gracePeriodSeconds") == "0")
            case "PUT":  # /finalize: nothing holds a namespace any more
                self.remove(path)
        return 200, _shown(request, self.objects.get(path, {"metadata": {}}))

    def _delete(self, path: str, *, now: bool) -> None:
        """A namespace waits for its finalizer, a pod on a node for its kubelet."""
        found = self.objects[path]
        bound = found.get("spec", {}).get("nodeName") or path.split("/")[-2] == "namespaces"
        if bound and not now:
            self.put(
                path, merged(found, {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
            )
        else:
            self.remove(path)

    def _list(self, request: web.Request) -> tuple[int, Any]:
        token = request.query.get("continue")
        if token is None:
            chosen = Selector(request)
            items = [one for path, one in sorted(self.objects.items()) if chosen(path, one)]
            version = self.version
        else:
            version, items = self._pages.pop(token)
            if version < self.oldest:
                return failure(410, "Expired", "the provided continue parameter is too old")
        limit = int(request.query.get("limit", len(items)))
        metadata = {"resourceVersion": str(version)}
        if items[limit:]:
            metadata["continue"] = f"page-{next(self._tokens)}"
            self._pages[metadata["continue"]] = version, items[limit:]
        return 200, {"metadata": metadata, "items": [_shown(request, one) for one in items[:limit]]}

    def _tell(self, path: str, before: Tree | None, after: Tree | None) -> None:
        self.log.append((self.version, path, before, after))
        for session in self.sessions:
            session.tell(*self.log[-1])


class Selector:
    """Which objects a request is about."""

    def __init__(self, request: web.Request) -> None:
        self.place = request.path
        self.labels = _pairs(request.query.get("labelSelector", ""))
        self.fields = _pairs(request.query.get("fieldSelector", ""))

    def __call__(self, path: str, one: Tree | None) -> bool:
        """Tell whether an object is one of them."""
        if one is None or self.place not in {path.rpartition("/")[0], _everywhere(path)}:
            return False
        labels = set((one["metadata"].get("labels") or {}).items())
        return labels >= self.labels and all(
            _field(one, name) == value for name, value in self.fields
        )


class Session:
    """A watch."""

    def __init__(self, server: FakeWatch, request: web.Request) -> None:
        self.server, self.request, self.path = server, request, request.path
        self.chosen = Selector(request)
        self.events: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.cut = False

    def say(self, raw: bytes) -> None:
        if not self.server.silent:
            self.events.put_nowait(raw)

    def tell(self, version: int, path: str, before: Tree | None, after: Tree | None) -> None:
        was, is_now = self.chosen(path, before), self.chosen(path, after)
        if not was and not is_now:
            return
        kind = ("MODIFIED" if was else "ADDED") if is_now else "DELETED"
        shown = after if is_now else {**(before or {}), "metadata": {**(before or {})["metadata"]}}
        assert shown is not None
        shown["metadata"]["resourceVersion"] = str(version)
        self.say(_line(kind, _shown(self.request, shown)))

    async def serve(self) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(self.request)
        since = int(self.request.query["resourceVersion"])
        if since < self.server.oldest:
            _, why = failure(410, "Expired", f"too old resource version: {since}")
            await response.write(_line("ERROR", why))
            return response
        for one in self.server.log:
            if one[0] > since:
                self.tell(*one)
        self.server.sessions.append(self)
        try:
            while (event := await self.events.get()) is not None:
                await response.write(event)
                if self.cut:
                    break
        finally:
            self.server.sessions.remove(self)
        if self.cut and self.request.transport is not None:
            self.request.transport.close()  # what was written still leaves
        return response


def failure(code: int, reason: str, message: str) -> tuple[int, Tree]:
    """Make a Status object."""
    return code, {"kind": "Status", "code": code, "reason": reason, "message": message}


@contextlib.asynccontextmanager
async def serving(server: FakeWatch) -> AsyncIterator[str]:
    """Serve on loopback; give the address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        server.end()
        await runner.cleanup()


def _is_collection(path: str) -> bool:
    parts = path.split("/")
    return len(parts) == (4 if parts[1] == "api" else 5) or (
        len(parts) == 6 and parts[3] == "namespaces"
    )


def _placed(path: str) -> Tree:
    """Give the namespace of what lies in one."""
    parts = path.split("/")
    return {"namespace": parts[4]} if parts[3] == "namespaces" and len(parts) > 5 else {}


def _everywhere(path: str) -> str:
    """Give the collection of all namespaces that an object is in; empty if it is in none."""
    parts = path.split("/")
    return "/".join([*parts[:3], parts[5]]) if _placed(path) else ""


def _field(one: Tree, name: str) -> str:
    """Give what a field selector compares; a pod without a phase is Pending."""
    found: Any = one
    for key in name.split("."):
        found = (found or {}).get(key)
    return found or ("Pending" if name == "status.phase" else "")


def _shown(request: web.Request, one: Tree) -> Tree:
    only = "as=PartialObjectMetadata" in request.headers.get("Accept", "")
    return {"metadata": one["metadata"]} if only else one


def _line(kind: str, item: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def _pairs(text: str) -> set[tuple[str, str]]:
    return {(term.partition("=")[0], term.partition("=")[2]) for term in text.split(",") if term}
