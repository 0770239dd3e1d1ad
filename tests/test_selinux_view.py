"""What a node says of itself whose containers cannot read what it published."""

from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from nodeagent import readiness
from nodeagent.agent.flow import Flow
from nodeagent.agent.loop import Loop
from nodeagent.agent.scrub import Scrubbing
from nodeagent.agent.view import AgentView
from nodeagent.config import AgentSettings
from nodeagent.keys import parse_public
from nodeagent.ledger import Ledger
from nodeagent.metrics import Metrics
from nodeagent.names import Reason
from nodeagent.nix import Nix
from nodeagent.publish import Gates, Generation
from nodeagent.realise.run import Means
from nodeagent.report import Report
from nodeagent.select import Node
from nodeagent.selinux import LABEL, SELinux
from nodeagent.store import StoreFiles
from tests.collecting import collecting
from tests.handmade import SYSTEM, Item, digest, path, system

ROOT = Item(path("ds"), references=(path("lib"),))


@pytest.fixture
def flow(tmp_path: Path) -> Flow:
    """Give a flow that published one profile, whose store is there."""
    files = StoreFiles(tmp_path / "host", durable=False)
    files.claim(share=False)
    for item in (ROOT, Item(path("lib"))):
        (files.real(item.path) / "bin").mkdir(parents=True)
    gates = Gates(tmp_path / "run", str(files.store_dir))
    generation = Generation(digest(1), 1, system(ROOT, Item(path("lib"))))
    gates.publish(files, generation)
    means = Means(files, Nix(files.root), [], [], 1)
    ledger = Ledger(tmp_path / "state")
    return Flow(means, ledger, gates, Report(), Metrics(), SYSTEM, "boot-1", generation)


def shown(flow: Flow, *closed: Path) -> AgentView:
    """Give the view of an agent that SELinux confines; these places lack the label."""
    node = SELinux("system_u:system_r:spc_t:s0", lambda one: "" if one in closed else LABEL)
    logger = structlog.get_logger()
    loop = Loop(AgentSettings(), Node("node1", "fleet", "stable", parse_public([])), flow, logger)
    scrubbing = Scrubbing(flow, loop.wake, logger)
    return AgentView(loop, SYSTEM, scrubbing, collecting(flow), node)


async def test_a_node_whose_store_is_labelled_is_ready(flow: Flow) -> None:
    view = shown(flow)
    assert readiness.is_ready(await view.checks())
    assert view.profiles() == (frozenset({"ds"}), frozenset())


@pytest.mark.parametrize("place", ["store", "path", "gate"])
async def test_a_node_whose_containers_cannot_read_is_not_ready_and_says_why(
    flow: Flow, place: str
) -> None:
    closed = {
        "store": flow.means.files.store_dir,
        "path": flow.means.files.real(path("lib")),
        "gate": flow.gates.release(digest(1), "ds"),
    }[place]
    view = shown(flow, closed)
    told = readiness.condition(await view.checks(), "it")
    assert (told.ready, told.reason) == (False, Reason.SELINUX_UNLABELLED)
    assert f"SELinux lets no container read {closed}; add daemonset/components" in told.message
    assert view.profiles() == (frozenset({"ds"}), frozenset({"ds"}))  # so that it gets no label


async def test_without_selinux_labels_are_nobodys_business(flow: Flow) -> None:
    view = replace(shown(flow, flow.means.files.store_dir), selinux=SELinux())
    assert readiness.is_ready(await view.checks())
