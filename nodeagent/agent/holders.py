"""Holders: who on a node may still need a release, and why.

Each answers for itself; one that cannot is silent, and nothing is let go. Whether a container
uses a release is told by its start: it has what pods got then.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from nodeagent import retention
from nodeagent.agent.flow import Flow
from nodeagent.errors import NodeAgentError
from nodeagent.names import RUN_DIR
from nodeagent.release import digest12
from nodeagent.retention import Answer, Container, Generation

if TYPE_CHECKING:
    from nodeagent import kube

PROC: Final = Path("/proc")
LATE: Final = timedelta(minutes=1)
_ROOT: Final = 3  # of a mount, in its line of mountinfo


class Holder(Protocol):
    """Somebody who may need releases."""

    async def ask(self, generations: Sequence[Generation]) -> Answer:
        """Say which of them are needed, and why; or why that is not known."""

    async def containers(self) -> Sequence[Container]:
        """List the containers that it knows of, as of late; none if nobody can be asked."""
        return ()


@dataclass(frozen=True)
class Rollout(Holder):
    """The agent itself: what it wants, what pods get, what a rollback goes to."""

    flow: Flow

    async def ask(self, generations: Sequence[Generation]) -> Answer:
        """Answer from what the agent knows."""
        try:
            needs = dict.fromkeys(self._remembered(), "a rollback goes to it")
        except NodeAgentError as error:  # a newer agent's record
            return Answer("rollout", silent=error.message)
        needs |= {
            digest: f"the gate of profile {name} leads to it"
            for digest, name in self._gates(generations)
        }
        held, wanted = self.flow.ledger.state.held, self.flow.report.wanted
        needs |= {held.release: "pods get it"} if held else {}
        needs |= {wanted.release: "the pins select it"} if wanted else {}
        return Answer("rollout", needs)

    def _remembered(self) -> list[str]:
        """Give the two releases that were taken last in each channel, however often each was."""
        found = list[str]()
        for memory in self.flow.ledger.state.channels.values():
            taken = dict.fromkeys(one.peek().release for one in reversed(memory.accepted))
            found += [*taken][:2]
        return found

    def _gates(self, generations: Sequence[Generation]) -> list[tuple[str, str]]:
        known = {digest12(one.digest): one.digest for one in generations}
        return [(known[short], name) for name, short in self.flow.gates.open() if short in known]


@dataclass
class Pods(Holder):
    """The pods of this node, as the API server knows them."""

    node: "kube.Node"
    clock: Callable[[], datetime]
    margin: timedelta
    _known: Sequence[Container] = ()
    _known_at: datetime | None = None

    async def ask(self, generations: Sequence[Generation]) -> Answer:
        """Answer for every container that has our mounts."""
        try:
            containers = await self._look()
        except NodeAgentError as error:
            return Answer("pods", silent=error.message)
        return Answer("pods", retention.used(generations, containers, self.margin))

    async def containers(self) -> Sequence[Container]:
        """List them as they were at the last look, and look anew where that was long ago."""
        if self._known_at is None or abs(self.clock() - self._known_at) > LATE:
            self._known_at = self.clock()  # also where nobody answers, who is not asked each time
            with contextlib.suppress(NodeAgentError):
                await self._look()
        return self._known

    async def _look(self) -> Sequence[Container]:
        found, now = await self.node.containers((RUN_DIR,)), self.clock()
        self._known = [Container(name, _start(started, now)) for name, started in found]
        self._known_at = now
        return self._known


def _start(told: datetime | None, now: datetime) -> datetime | None:
    """Give a container's start: now if it is being made, unknown if the clock was ahead then."""
    return now if told is None else told if told <= now else None


@dataclass(frozen=True)
class Mounts(Holder):
    """The processes of this machine, where there is no API server to ask."""

    run_dir: Path
    proc: Path = PROC

    async def ask(self, generations: Sequence[Generation]) -> Answer:
        """Answer for every mount that lies in a release's directory."""
        used = self._roots()
        above = f"/{self.run_dir.name}/releases/"
        places = {one.digest: f"{above}{digest12(one.digest)}/" for one in generations}
        return Answer(
            "mounts",
            {
                digest: f"process {pid} has it mounted"
                for digest, place in places.items()
                for pid, roots in used.items()
                if any(place in f"{root}/".replace(f"{above}.", above) for root in roots)
            },
        )

    def _roots(self) -> dict[str, set[str]]:
        """List, by process, which directories of file systems it has mounted."""
        found = {}
        for directory in self.proc.glob("[0-9]*"):
            try:
                lines = (directory / "mountinfo").read_text(errors="replace").splitlines()
            except OSError:  # it ended
                continue
            found[directory.name] = {line.split(" ")[_ROOT] for line in lines}
        return found
