"""What a fault costs: requests of the agents, exactly, and lines of their logs.

A FlowSchema of the tests' own matches the agents' account and nobody else, so that the API server
counts each of their requests. It forgets the counts when it starts anew.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from integration.fleet import AGENTS, NAMESPACE, Fleet

NAME: Final = "nodeagent-test"
VERSION: Final = "flowcontrol.apiserver.k8s.io/v1"
FLOW: Final = f'flow_schema="{NAME}"'
COUNTED: Final = re.compile(
    rf"^apiserver_flowcontrol_(?:dispatched|rejected)_requests_total{{.*{FLOW}.*}} (\d+)",
    re.MULTILINE,
)
# Only agents apply server-side to these; a dry one asks for what a policy must refuse.
APPLIED: Final = re.compile(
    r'^apiserver_request_total{.*dry_run="",.*resource="(nodes|nodestores)",.*'
    r'subresource="(\w*)",.*verb="APPLY",.*} (\d+)',
    re.MULTILINE,
)
Tree = dict[str, Any]


@dataclass(frozen=True)
class Counts:
    """Counts what agents do."""

    fleet: Fleet

    @property
    def requests(self) -> int:
        """Count their requests since the API server started, refused ones included."""
        return sum(map(int, COUNTED.findall(self._metrics())))

    @property
    def writes(self) -> Mapping[str, int]:
        """Count what they wrote since the API server started, by resource."""
        counted: dict[str, int] = {}
        for resource, subresource, count in APPLIED.findall(self._metrics()):
            place = "/".join(filter(None, (resource, subresource)))
            counted[place] = counted.get(place, 0) + int(count)
        return counted

    def lines(self, node: str | None = None) -> list[Tree]:
        """Give what agents have logged, or the agent of a node, since their containers started."""
        pods = [self.fleet.agent(node)] if node else [*AGENTS[2:], "--tail=-1"]
        said = self.fleet.kubectl("logs", "-n", NAMESPACE, *pods)
        return [json.loads(line) for line in said.splitlines() if line.startswith("{")]

    def warnings(self, node: str | None = None) -> list[str]:
        """Give the reasons that agents have warned of, once for each time."""
        return [str(one["reason"]) for one in self.lines(node) if one["level"] == "warning"]

    def _metrics(self) -> str:
        return self.fleet.kubectl("get", "--raw", "/metrics")


@contextlib.contextmanager
def counting(fleet: Fleet) -> Iterator[Counts]:
    """Have the API server count the agents' requests."""
    account = {"namespace": NAMESPACE, "name": "nodeagent"}
    subject = {"kind": "ServiceAccount", "serviceAccount": account}
    fleet.kubectl("apply", "-f", "-", stdin=json.dumps(flow_schema(subject, "global-default")))
    try:
        yield Counts(fleet)
    finally:
        fleet.kubectl("delete", "flowschema", NAME, "--ignore-not-found")


def flow_schema(subject: Tree, level: str) -> Tree:
    """Make what gives all requests of a subject this priority level."""
    every = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
    rules = {"clusterScope": True, "namespaces": ["*"]}
    return {
        "apiVersion": VERSION,
        "kind": "FlowSchema",
        "metadata": {"name": NAME},
        "spec": {
            "priorityLevelConfiguration": {"name": level},
            "matchingPrecedence": 2,  # 1 is that of the admins
            "rules": [{"subjects": [subject], "resourceRules": [{**every, **rules}]}],
        },
    }
