"""The snapshot: five watched collections, joined by node whatever comes first.

Two more tell the breaker of trouble. Admission does without them where they cannot be watched.
"""

import asyncio
import contextlib
import functools
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from nodeagent import policy as policies
from nodeagent.admission.fleet import Fleet, Node
from nodeagent.errors import NodeAgentError
from nodeagent.fleet import projection
from nodeagent.fleet.breaker import Break, Breaker
from nodeagent.fleet.projection import Agent
from nodeagent.fleet.table import Table
from nodeagent.kube import Api, watch
from nodeagent.kube.watch import METADATA, Change, Collection, Failed, Times
from nodeagent.names import NODE_STORE_VERSION, Reason
from nodeagent.policy import Policy

POLICY_NAME: Final = "nodeagent-policy"
POLICY_KEY: Final = "policy.json"
RESOURCES: Final = ("nodes", "nodestores", "pods", "namespaces", "policy")
FIND_SECONDS: Final = 0.5
GRAIN_SECONDS: Final = 5.0  # `heard` is that much behind at most: not each event is a new Fleet
STEP_SECONDS: Final = 1.0  # what a clock is set back at once, not slowed down by
_AGENTS: Final = "app.kubernetes.io/name=nodeagent,app.kubernetes.io/component=agent"
_NAMESPACES: Final = "/api/v1/namespaces"
_NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

Tell = Callable[[str, NodeAgentError], None]
Take = Callable[[Change[Any]], None]


@dataclass
class Snapshot:
    """What the API server says of the fleet, kept by `run`; `namespace` is ours.

    `on_problem` hears what goes wrong with which resource, once until that is well again, and
    `on_break` for which namespace the breaker opens and why, or closes: None. `clock` gives unix
    seconds and may be set, `steady` seconds that only grow.
    """

    api: Api
    namespace: str
    on_problem: Tell = lambda _, __: None
    times: Times = field(default_factory=Times)
    clock: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    policy: Policy | None = None
    on_break: Break = lambda _, __: None

    def __post_init__(self) -> None:
        """Know nothing yet."""
        self.problems: dict[str, NodeAgentError] = {}
        self.policy_problem: NodeAgentError | None = None
        self._tables = self._all_tables()
        self._agents: defaultdict[str, set[str]] = defaultdict(set)  # the Ready ones, by node
        self._nodes: dict[str, Node] = {}
        self._heard: dict[str, float] = {}
        self._stale: set[str] = set()  # fields of the Fleet below
        self._fleet = Fleet()
        self._ahead = self.clock() - self.steady()
        self._finding = asyncio.Lock()
        self._breaker = Breaker(self.on_break, self.clock, self.steady)

    @property
    def whole(self) -> bool:
        """Tell whether every resource was listed once."""
        return self._heard.keys() >= set(RESOURCES)

    @property
    def objects(self) -> Mapping[str, int]:
        """Count what is known of each resource."""
        return {resource: len(table.objects) for resource, table in self._tables.items()}

    async def run(self) -> None:
        """Follow everything until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for resource, table in self._tables.items():
                take = functools.partial(self._take, resource)
                work = self._follow(resource, table.collection, take)
                tasks.create_task(work, name=f"snapshot of {resource}")
            for resource, sign in self._breaker.signs.items():
                take = functools.partial(self._breaker.take, resource)
                work = self._follow(resource, sign.collection, take)
                tasks.create_task(work, name=f"snapshot of {resource}")

    def fleet(self) -> Fleet:
        """Give what is known now, never changed afterwards.

        It is the same object while nothing was heard, and `nodes` is while no node changed.
        """
        self._follow_clock()
        before, broken = self._fleet, self._breaker.broken()
        if (
            self._stale
            or broken != before.broken
            or any(
                at - before.heard.get(resource, 0.0) >= GRAIN_SECONDS
                for resource, at in self._heard.items()
            )
        ):
            self._fleet = replace(
                before,
                nodes=dict(self._nodes) if "nodes" in self._stale else before.nodes,
                namespaces=dict(self._tables["namespaces"].objects)
                if "namespaces" in self._stale
                else before.namespaces,
                heard=dict(self._heard),
                broken=broken,
            )
            self._stale.clear()
        return self._fleet

    async def find_namespace(self, name: str) -> bool:
        """Tell whether there is such a namespace; one that is not known yet is read, once.

        Reads wait for each other, and all of that takes FIND_SECONDS at most.
        """
        known = self._tables["namespaces"]
        if name not in known.objects and _NAMESPACE.fullmatch(name):
            with contextlib.suppress(TimeoutError, NodeAgentError):  # then it is not known
                async with asyncio.timeout(FIND_SECONDS), self._finding:
                    if name not in known.objects:
                        found = await self._read_namespace(name)
                        if name not in known.objects:  # what was watched meanwhile is newer
                            known.put(name, found)
        return name in known.objects

    async def _read_namespace(self, name: str) -> projection.Labels | None:
        found = await self.api.find(f"{_NAMESPACES}/{name}", header_params={"Accept": METADATA})
        return None if found is None else projection.labels(found)

    async def _follow(self, resource: str, collection: Collection[Any], take: Take) -> None:
        changes = watch.follow(self.api, collection, self.times)
        async with contextlib.aclosing(changes):
            async for change in changes:
                if isinstance(change, Failed):
                    self._fail(resource, change.error)
                    continue
                take(change)
                self.problems.pop(resource, None)

    def _take(self, resource: str, change: Change[Any]) -> None:
        self._tables[resource].take(change)
        self._follow_clock()
        self._heard[resource] = self.clock()

    def _fail(self, resource: str, error: NodeAgentError) -> None:
        """Tell of a problem; out of reach is one, however many words there are for it."""
        before, self.problems[resource] = self.problems.get(resource), error
        away = error.reason is Reason.API_UNREACHABLE
        same = before is not None and before.reason is error.reason
        if not same or not (away or f"{before}" == f"{error}"):
            self.on_problem(resource, error)

    def _follow_clock(self) -> None:
        """Date what was heard anew when the clock was set back: else it would never be old."""
        ahead = self.clock() - self.steady()
        back, self._ahead = self._ahead - ahead, ahead
        if back > STEP_SECONDS:
            self._heard = {resource: at - back for resource, at in self._heard.items()}
            self._fleet = replace(self._fleet, heard=dict(self._heard))

    def _all_tables(self) -> dict[str, Table[Any]]:
        """Say what is watched, and what to do with news of each; large objects come in few."""
        ours = f"{_NAMESPACES}/{self.namespace}"
        stores = f"/apis/{NODE_STORE_VERSION}/nodestores"
        named = f"metadata.name={POLICY_NAME}"
        return {
            "nodes": Table(
                Collection("/api/v1/nodes", projection.node, page=50),
                lambda name, _, __: self._join(name),
            ),
            "nodestores": Table(
                Collection(stores, projection.store, page=100),
                lambda name, _, __: self._join(name),
            ),
            "pods": Table(
                Collection(f"{ours}/pods", projection.agent, labels=_AGENTS, page=100),
                self._take_agent,
            ),
            "namespaces": Table(
                Collection(_NAMESPACES, projection.labels, metadata_only=True),
                lambda _, __, ___: self._stale.add("namespaces"),
            ),
            "policy": Table(
                Collection(f"{ours}/configmaps", _policy_text, fields=named),
                self._take_policy,
            ),
        }

    def _join(self, name: str) -> None:
        """Put a node together anew."""
        found = projection.join(
            self._tables["nodes"].objects.get(name),
            self._tables["nodestores"].objects.get(name),
            agent_ready=bool(self._agents.get(name)),
        )
        if found == self._nodes.get(name):
            return
        if found is None:
            del self._nodes[name]
        else:
            self._nodes[name] = found
        self._stale.add("nodes")

    def _take_agent(self, pod: str, before: Agent | None, now: Agent | None) -> None:
        """Know where an agent is Ready: a node may have a pod that goes and one that comes."""
        if before is not None:
            self._agents[before.node].discard(pod)
        if now is not None and now.ready:
            self._agents[now.node].add(pod)
        for node in {one.node for one in (before, now) if one is not None}:
            if not self._agents[node]:
                del self._agents[node]
            self._join(node)

    def _take_policy(self, _: str, __: str | None, text: str | None) -> None:
        """Read the policy: one that is invalid changes nothing, one that is gone allows nothing."""
        try:
            self.policy = None if text is None else policies.parse(text.encode())
            self.policy_problem = None
        except NodeAgentError as error:
            message = (
                f"ConfigMap {self.namespace}/{POLICY_NAME}: {POLICY_KEY}: {error.message}; what "
                "was read before stays in force until this is corrected"
            )
            self.policy_problem = NodeAgentError(error.reason, message)
            self.on_problem("policy", self.policy_problem)


def _policy_text(item: projection.Object) -> str:
    text: str = (item.get("data") or {}).get(POLICY_KEY, "")
    return text
