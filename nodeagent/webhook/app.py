"""The application: a review in, an answer out; whatever goes wrong here leaves the pod as it is."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from aiohttp import web

from nodeagent.admission import review
from nodeagent.admission.decision import Decision
from nodeagent.admission.fleet import Fleet
from nodeagent.admission.review import Entry, Malformed, Review, shown
from nodeagent.metrics import ControllerMetrics
from nodeagent.names import SILENT, Outcome
from nodeagent.policy import Policy
from nodeagent.webhook import answer
from nodeagent.webhook.body import Bodies
from nodeagent.webhook.guard import REQUEST_SECONDS, Guard, guard
from nodeagent.webhook.notice import Notices

JSON: Final = "application/json"
QUIET: Final = SILENT | {Outcome.INJECTED, Outcome.ALREADY_INJECTED}  # no line in the log
BY: Final = web.RequestKey("by", float)  # when, by the loop's clock, a request must be complete

Decide = Callable[[Review, Fleet, Policy | None, float], Decision]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Snapshot(Protocol):
    """What is known of the fleet."""

    @property
    def policy(self) -> Policy | None:
        """The policy; None if there is none."""

    def fleet(self) -> Fleet:
        """Give the fleet as it is now."""

    async def find_namespace(self, name: str) -> bool:
        """Read one namespace that is newer than the snapshot, in a bounded time; tell if it is."""


@dataclass
class Webhook:
    """Answers reviews; once `leaving`, it asks whoever comes to connect to somebody else."""

    snapshot: Snapshot
    decide: Decide
    metrics: ControllerMetrics
    notices: Notices
    clock: Callable[[], float] = time.time
    leaving: bool = False
    _bodies: Bodies = field(default_factory=Bodies)

    def app(self) -> web.Application:
        """Build the application."""
        application = web.Application(middlewares=[self._around])
        for entry in Entry:
            application.router.add_post(f"/v1/mutate/{entry}", self._handler(entry))
        return application

    def _handler(self, entry: Entry) -> Handler:
        async def mutate(request: web.Request) -> web.Response:
            if request.content_type != JSON:
                raise web.HTTPUnsupportedMediaType(
                    text=f"a review is {JSON}, not {shown(request.content_type)}\n"
                )
            async with self._bodies.read(request, request[BY]) as body:
                return web.Response(body=await self._answer(body, entry), content_type=JSON)

        return mutate

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Bound a request's time, count it, and say what becomes of its connection."""
        one = guard(request)
        request[BY] = one.begun() if one else asyncio.get_running_loop().time() + REQUEST_SECONDS
        response: web.StreamResponse
        try:
            response = await handler(request)
        except web.HTTPException as error:
            self._settle(one, error)
            raise
        except Exception as error:  # noqa: BLE001 the log shall have it as it has all else
            self._bug(error)
            response = web.Response(status=500, text="a bug of nodeagent; the log has the trace\n")
        self._settle(one, response)
        return response

    def _settle(self, one: Guard | None, response: web.StreamResponse) -> None:
        self.metrics.answered(response.status)
        if self.leaving or one is None or one.door.is_full:
            response.force_close()
        if one is not None:
            one.rested()

    async def _answer(self, body: bytes, entry: Entry) -> bytes:
        began = time.perf_counter()
        asked = self._parse(body, entry)
        if isinstance(asked, Malformed):
            raise web.HTTPBadRequest(text=f"this is no AdmissionReview: {asked.message}\n")
        decision = await self._decision(asked)
        self.metrics.admitted(decision.outcome)
        if decision.outcome not in QUIET:
            self._tell(asked, decision)
        answered = answer.encode(asked.uid, decision)
        self.metrics.admission_seconds.observe(time.perf_counter() - began)
        return answered

    def _parse(self, body: bytes, entry: Entry) -> Review | Malformed:
        try:
            return review.parse(body, entry)
        except Exception as error:  # noqa: BLE001 a bug must not stand in a pod's way
            self._bug(error)
            return Malformed("reading it failed; the log has the trace")

    async def _decision(self, asked: Review) -> Decision:
        try:
            decision = self._decide(asked)
            unknown = decision.outcome is Outcome.NAMESPACE_UNKNOWN
            if unknown and await self.snapshot.find_namespace(asked.namespace):
                decision = self._decide(asked)
        except Exception as error:  # noqa: BLE001 a bug must not stand in a pod's way
            self._bug(error)
            return Decision(Outcome.INTERNAL_ERROR, f"a bug of nodeagent: {type(error).__name__}")
        return decision

    def _decide(self, asked: Review) -> Decision:
        return self.decide(asked, self.snapshot.fleet(), self.snapshot.policy, self.clock())

    def _bug(self, error: Exception) -> None:
        self.notices.tell(
            ("bug", type(error)), "a review met a bug; the pod is left as it is", exc_info=error
        )

    def _tell(self, asked: Review, decision: Decision) -> None:
        self.notices.tell(
            (asked.namespace, decision.outcome),
            "left a pod alone",
            namespace=shown(asked.namespace),
            pod=shown(asked.name),
            reason=decision.outcome,
            message=decision.message,
        )
