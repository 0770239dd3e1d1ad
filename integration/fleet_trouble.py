"""What tests of trouble share: bounds, and how an agent is asked when nobody else answers."""

from collections.abc import Mapping
from typing import Final

import pytest
import urllib3

from integration.fleet import Fleet
from nodeagent import names, release
from nodeagent.agent import patience
from nodeagent.names import Metric, Reason

# Requests of one try: the Node, whether a policy guards it, the NodeStore, and what is written.
TRY: Final = 6
# What `make soak` runs alone.
SOAK: Final = (pytest.mark.soak, pytest.mark.timeout(1800, func_only=True))


def tries(seconds: float) -> int:
    """Bound the tries of one agent in some time: each waits twice as long as the last."""
    count, wait = 1, patience.RETRY_SECONDS
    while seconds > 0:
        count, seconds = count + 1, seconds - wait
        wait = min(2 * wait, patience.RETRY_MAX_SECONDS)
    return count


def metric(agent: str, line: str) -> int:
    """Add up an agent's metric, asked directly; 0 if it does not answer."""
    try:
        text = urllib3.request("GET", f"{agent}/metrics", retries=False, timeout=5).data.decode()
    except urllib3.exceptions.HTTPError:
        return 0
    found = [one for one in text.splitlines() if one.startswith(line)]
    return sum(int(float(one.rpartition(" ")[2])) for one in found)


def missed(agent: str, reason: Reason) -> int:
    """Say how often an agent was refused for a reason."""
    return metric(agent, f'{Metric.REFUSALS}{{reason="{reason}"}} ')


def refusals(fleet: Fleet, reason: Reason) -> Mapping[str, int]:
    """Say how often each agent was refused so far, by its address."""
    return {agent: missed(agent, reason) for agent in map(fleet.address, fleet.nodes)}


def until_refused(fleet: Fleet, reason: Reason, before: Mapping[str, int], times: int) -> None:
    """Wait until each agent was refused so many times more."""
    for agent, count in before.items():
        fleet.until(
            f"refused {times} times for {reason}: {agent}",
            lambda agent=agent, count=count: missed(agent, reason) >= count + times,  # type: ignore[misc]
            seconds=900,
        )


def until_poured(fleet: Fleet, manifest: bytes) -> None:
    """Wait until each node's gate leads into a release, whatever the API server knows."""
    digest12 = release.digest12(release.digest_of(manifest))
    for node in fleet.nodes:
        fleet.until(f"poured: {node}", lambda node=node: digest12 in _gate(fleet, node))  # type: ignore[misc]


def held_up(fleet: Fleet, manifest: bytes) -> None:
    """Give agents pins for a release that they cannot fetch yet."""
    fleet.promote(manifest)
    fleet.deliver()
    for node in fleet.nodes:
        fleet.until_problem(node, Reason.CACHE_UNREACHABLE)


def containers(fleet: Fleet) -> list[str]:
    """Name the agents' containers."""
    return [str(fleet.agent_container(node)["containerID"]) for node in fleet.nodes]


def _gate(fleet: Fleet, node: str) -> str:
    """Give where a node's gate leads, looked at on the node itself."""
    place = f"{names.RUN_DIR}/profiles/ds"
    return fleet.cluster.sh(node, ["readlink", "-f", place], check=False).stdout
