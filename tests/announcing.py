"""An agent that announces itself to the fake API server, in simulated time."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import structlog
from structlog.testing import LogCapture

from nodeagent import kube, readiness
from nodeagent.agent.announce import Announcer
from nodeagent.metrics import Metrics
from nodeagent.names import CONDITION, LABEL_PROFILE_PREFIX, LABEL_READY, Phase
from nodeagent.readiness import Check, Evidence
from nodeagent.report import Problem, ProfileStatus, Progress, Status, Target
from tests.fakeapi import FakeApi
from tests.fakeserving import Direct
from tests.handmade import NOW, digest, path
from tests.statuses import IDLE, POURING

NODE: Final = "/api/v1/nodes/node-1"
STATUS: Final = f"{NODE}/status"
STORE: Final = "/apis/nodeagent.dev/v1alpha1/nodestores/node-1"
EVENTS: Final = "/api/v1/namespaces/default/events"
PODS: Final = "/api/v1/namespaces/default/pods"
T = TypeVar("T")
KUBELETS: Final = {"type": "Ready", "status": "True"}
NOTHING: Final = IDLE.model_copy(
    update={"published": None, "wanted": None, "profiles": {}, "phase": Phase.WAITING}
)


class AtOnce(ThreadPoolExecutor):
    """Runs what is submitted at once: simulated time may not wait for a thread."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:  # noqa: ANN401 whatever it takes
        done: Future[T] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class View:
    """What the agent would show; tests change it and wake the announcer."""

    def __init__(self) -> None:
        self.shown: Status = IDLE
        self.lost: frozenset[str] = frozenset()
        self.unguarded = False
        self.spoilt: dict[str, int] = {}

    async def status(self) -> Status:
        return self.shown

    async def checks(self) -> list[Check]:
        problem = self.shown.problem and (self.shown.problem.reason, self.shown.problem.message)
        return readiness.judge(
            Evidence(
                published=self.shown.published is not None,
                absent=sorted(path(name) for name in self.lost),
                problem=problem or None,
                unguarded=self.unguarded,
                spoilt=self.spoilt,
            )
        )

    def guard(self, *, enforced: bool) -> None:
        self.unguarded = not enforced

    def profiles(self) -> tuple[frozenset[str], frozenset[str]]:
        published = frozenset(self.shown.profiles if self.shown.published else ())
        return published, self.lost & published


@functools.cache
def _client() -> Direct:
    """Make the client once for all tests: it reads the system's certificates, which takes long."""
    return Direct(FakeApi())


class World:
    """A cluster with one node, and the agent on it; `log` is what it logs."""

    def __init__(self) -> None:
        self.api, self.view, self.log = FakeApi(), View(), LogCapture()
        self.client = _client()
        self.client.server = self.api
        self.started: float | None = None  # simulated time begins when the test does
        self.announcer: Any = None
        self.taint, self.skew = False, timedelta()
        self.register()

    def register(self) -> None:
        """Make the Node, as a kubelet does."""
        labels = {"zone": "b"}
        self.api.create(
            "/api/v1/nodes",
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": "node-1", "labels": labels},
                "status": {"conditions": [KUBELETS]},
            },
        )

    def clock(self) -> datetime:
        now = asyncio.get_running_loop().time()
        self.started = now if self.started is None else self.started
        return NOW + self.skew + timedelta(seconds=round(now - self.started, 3))

    def new(self) -> Announcer:
        """Make an announcer that knows nothing, as a new process does."""
        api = kube.Api(self.client)
        view: Any = self.view
        return Announcer(
            kube.Node(api, "node-1"),
            kube.NodeStore(api, "node-1"),
            kube.Events(api, "node-1", self.clock),
            view,
            Metrics(),
            structlog.wrap_logger(None, processors=[self.log]),
            self.clock,
            startup_taint=self.taint,
        )

    @contextlib.asynccontextmanager
    async def agent(self, seconds: float = 1.0) -> AsyncIterator[Announcer]:
        """Run an agent, from its start to its end; enters when it has run for a moment."""
        asyncio.get_running_loop().set_default_executor(AtOnce())
        self.announcer = self.new()
        task = asyncio.create_task(self.announcer.forever())
        await asyncio.sleep(seconds)
        yield self.announcer
        assert not task.done(), task.exception()
        task.cancel()
        await asyncio.wait([task])

    async def show(self, *, seconds: float = 1.0, **fields: object) -> None:
        """Let the agent have this to tell, and a moment to tell it."""
        self.view.shown = self.view.shown.model_copy(update=fields)
        self.announcer.wake()
        await asyncio.sleep(seconds)

    async def lose(self, *profiles: str) -> None:
        self.view.lost = frozenset(profiles)
        await self.show()

    @property
    def writes(self) -> dict[str, int]:
        """Count the writes since this was last asked, by path."""
        counted: dict[str, int] = {}
        for request, count in self.api.writes.items():
            where = request.partition(" ")[2]
            counted[where] = counted.get(where, 0) + count
        self.api.writes.clear()
        return counted

    @property
    def labels(self) -> set[str]:
        """List the labels of ours that the Node has."""
        found = self.api.read(NODE)["metadata"]["labels"]
        assert found.pop("zone") == "b", "the label of somebody else"
        return set(found)

    @property
    def condition(self) -> dict[str, str]:
        """Give the Node's condition of ours; {} if it has none."""
        return self.conditions.get(CONDITION, {})

    @property
    def conditions(self) -> dict[str, dict[str, str]]:
        """Give all conditions of ours that the Node has, by type."""
        conditions = {one["type"]: one for one in self.api.read(NODE)["status"]["conditions"]}
        assert conditions.pop("Ready", KUBELETS) == KUBELETS, "the condition of somebody else"
        return conditions

    @property
    def told(self) -> dict[str, Any]:
        """Give the NodeStore's status."""
        status: dict[str, Any] = self.api.read(STORE)["status"]
        return status

    @property
    def events(self) -> list[tuple[str, str]]:
        """List the events: reason and message."""
        found = [self.api.read(one) for one in self.api.objects if one.startswith(EVENTS)]
        return [(one["reason"], one["message"]) for one in found]

    @property
    def warnings(self) -> list[str]:
        return [one["event"] for one in self.log.entries if one["log_level"] == "warning"]


def labels(*profiles: str) -> set[str]:
    """Name the labels of a node that has these profiles."""
    return {LABEL_READY, *(f"{LABEL_PROFILE_PREFIX}{name}" for name in profiles)}


def published(serial: int, *profiles: str) -> dict[str, Any]:
    """Make up what an agent shows that published a release."""
    target = Target(release=digest(serial), channel="stable", serial=serial)
    made = {
        name: ProfileStatus(root=path(name), kind="env", published=True)
        for name in profiles or ("ds",)
    }
    return {"wanted": target, "published": target, "profiles": made, "phase": Phase.IDLE}


def poured(share: float) -> Progress:
    """Make up how far a pass is."""
    return POURING.model_copy(update={"bytes_done": int(POURING.bytes_total * share)})


def pod(name: str, **spec: object) -> dict[str, Any]:
    """Make up a pod on the node."""
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": "node-1", **spec},
        "status": {"phase": "Running"},
    }


def problem(reason: Any, message: str) -> Problem:  # noqa: ANN401 pydantic checks it
    return Problem(reason=reason, message=message, since=NOW)
