"""What becomes of releases, cycle by cycle, where Nix and the pods are stood in for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs

from nodeagent import release, roots, status
from nodeagent.agent.collecting import STALLED, Collecting
from nodeagent.agent.flow import Flow
from nodeagent.errors import NodeAgentError
from nodeagent.ledger import Held, Ledger
from nodeagent.metrics import Metrics
from nodeagent.names import Reason
from nodeagent.nix import Nix, Registration
from nodeagent.publish import Gates
from nodeagent.realise.run import Means
from nodeagent.report import Problem, Report
from nodeagent.retention import Answer, Container, Step
from nodeagent.store import StoreFiles
from tests.collecting import Told, collecting
from tests.handmade import NOW, SYSTEM, Item, manifest, path
from tests.statuses import agent

LIB: Final = Item(path("lib"))
SILENT: Final = Answer("pods", silent="the API server gave no answer")
HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True)
class Registry(Nix):
    """A Nix that knows what it is told, and that finds nothing alive."""

    known: dict[str, Registration] = field(default_factory=dict)

    def valid(self) -> dict[str, str]:
        return {name: one.info.nar_hash for name, one in self.known.items()}

    def registered(self, paths: Iterable[str]) -> list[Registration]:
        return [self.known[name] for name in paths if name in self.known]

    def live(self, roots: Iterable[str]) -> set[str]:
        needed = {*roots} & self.known.keys()
        return needed | {one for name in needed for one in self.known[name].info.references}

    async def delete(self, paths: Iterable[str]) -> list[str]:
        for name in paths:
            del self.known[name]
        return []


@dataclass
class Node:
    """A node whose time goes by as a test says, and that published releases 1, 2, 3 in turn."""

    flow: Flow
    nix: Registry
    problems: list[Problem]
    now: datetime = NOW

    def publish(self, number: int) -> str:
        root = Item(path(f"ds-{number}"), references=(LIB.path,))
        data = manifest(LIB, root)
        name, ledger = release.digest_of(data), self.flow.ledger
        ledger.keep_manifest(name, data)
        for item in (LIB, root):
            self.nix.known[item.path] = Registration(item.path, item.info)
        self.flow.means.files.set_roots(release.digest12(name), {"ds": root.path})
        held = Held(channel="stable", serial=number, release=name, caches=("main",))
        ledger.publish(held, "boot-1", self.now)
        return name

    async def cycles(self, collecting: Collecting, count: int = 3) -> None:
        for _ in range(count):
            await collecting.cycle()
            self.now += HOUR

    @property
    def paths(self) -> set[str]:
        return {*self.nix.known}


@pytest.fixture
def node(scratch: Path) -> Node:
    files, problems = StoreFiles(scratch / "host", durable=False), list[Problem]()
    files.claim(share=False)
    (scratch / "state/releases").mkdir(parents=True)
    nix = Registry(files.root)
    report = Report(problems.append, clock=lambda: made.now)
    means, gates = Means(files, nix, [], [], 1), Gates(scratch / "run", str(files.store_dir))
    flow = Flow(means, Ledger(scratch / "state"), gates, report, Metrics(), SYSTEM, "boot-1")
    made = Node(flow, nix, problems)
    for number in (1, 2, 3):
        made.publish(number)
        made.now += HOUR
    return made


async def test_what_nobody_needs_goes_with_what_only_it_needed(node: Node) -> None:
    collection = collecting(node.flow, keep=1)
    await node.cycles(collection)
    assert node.paths == {LIB.path, path("ds-2"), path("ds-3")}
    assert len(node.flow.ledger.kept) == 2


async def test_pods_are_asked_only_where_something_may_go(node: Node) -> None:
    told = Told()
    await node.cycles(collecting(node.flow, told, keep=2))
    assert told.asked == 0
    await node.cycles(collecting(node.flow, told, keep=1), 1)
    assert told.asked == 1


async def test_while_pods_are_silent_nothing_goes_and_that_is_seen(node: Node) -> None:
    told = Told(SILENT)
    collection = collecting(node.flow, told)
    with capture_logs() as logs:
        await node.cycles(collection, STALLED - 1)
        assert node.problems == []
        await node.cycles(collection, 3)
    assert node.paths == {LIB.path, *(path(f"ds-{number}") for number in (1, 2, 3))}
    assert [one["event"] for one in logs] == ["nothing is collected"]
    [problem] = node.problems
    assert problem.reason is Reason.COLLECTION_STALLED
    assert "the API server gave no answer" in problem.message
    told.answer = Answer("pods")
    await node.cycles(collection)
    assert collection.missed == 0
    assert node.paths == {LIB.path, path("ds-3")}


async def test_what_is_needed_again_in_its_grace_stays(node: Node) -> None:
    told = Told()
    collection = collecting(node.flow, told, grace=2 * HOUR.total_seconds(), keep=1)
    await node.cycles(collection, 1)
    [first] = [one.digest for one in await collection.judge() if one.step is Step.WAIT]
    told.answer = Answer("pods", {first: "container a/b/c may use it"})
    await node.cycles(collection, 4)
    assert node.flow.ledger.state.history.generations[first].withdrawn is None
    assert path("ds-1") in node.paths


async def test_of_a_store_that_others_share_only_our_roots_go(node: Node) -> None:
    files = node.flow.means.files
    files.shared.touch()
    await node.cycles(collecting(node.flow))
    assert path("ds-1") in node.paths
    assert len(list(files.roots.iterdir())) == 2  # of the release that is left, and `pending`


async def test_damage_of_a_path_that_went_is_forgotten(node: Node) -> None:
    node.flow.damaged[path("ds-1")] = "flipped"
    await node.cycles(collecting(node.flow, keep=1))
    assert node.flow.damaged == {}


async def test_a_manifest_that_cannot_be_read_keeps_everything(node: Node) -> None:
    [first, *_] = sorted(node.flow.ledger.kept)
    (node.flow.ledger.directory / release.manifest_file(first)).write_text("{}")
    before = node.paths
    with pytest.raises(NodeAgentError):
        await node.cycles(collecting(node.flow, keep=0))
    assert node.paths == before


async def test_a_manifest_that_is_gone_keeps_everything(node: Node) -> None:
    last = node.flow.ledger.state.held
    assert last is not None
    (node.flow.ledger.directory / release.manifest_file(last.release)).unlink()
    before = node.paths
    with pytest.raises(NodeAgentError, match="is gone"):
        await node.cycles(collecting(node.flow, keep=0))
    assert node.paths == before


def test_roots_lead_to_store_paths_whatever_lies_below_or_around(tmp_path: Path) -> None:
    links = {
        "a": path("a"),
        "deep/er/b": f"{path('b')}/bin/b",
        "auto/c": "/home/somebody/result",
        "d": "/nix/store",
        "e": "/nix/store/.links",
    }
    for name, target in links.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(target)
    (tmp_path / "no link").touch()
    assert roots.rooted(tmp_path) == {path("a"), path("b")}


def test_an_agent_that_refuses_to_collect_is_told_with_its_reason() -> None:
    with agent("{}") as url, pytest.raises(NodeAgentError) as caught:
        status.collect(url, dry=True, paths=False)
    assert caught.value.reason is Reason.AGENT_UNREACHABLE
    assert "kubectl exec" in caught.value.message


async def test_a_full_disk_keeps_nothing_from_going(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NodeAgentError(Reason.DISK_SHORT, "no space left")

    monkeypatch.setattr(node.flow.ledger, "_write", refuse)
    assert await collecting(node.flow, keep=9).make_room()
    assert node.paths == {LIB.path, path("ds-3")}


class Bound(Told):
    """A holder that knows of containers."""

    async def containers(self) -> Sequence[Container]:
        times = {"team/a/c": NOW - 2 * HOUR, "team/b/c": NOW, "team/c/c": None}
        return [Container(name, started) for name, started in times.items()]


async def test_the_containers_that_have_run_since_before_a_repair_are_named(node: Node) -> None:
    assert await collecting(node.flow, Bound()).bound_before(NOW - HOUR) == ["team/a/c"]


async def test_a_release_that_went_is_not_missed_where_that_could_not_be_noted(node: Node) -> None:
    ledger = node.flow.ledger
    before = ledger.state.history
    collection = collecting(node.flow)
    await node.cycles(collection)
    ledger.remember(before)
    collection.keep = 2
    await node.cycles(collection)
    assert node.problems == []
    assert [one.digest for one in await collection.judge()] == ledger.kept
    assert [*ledger.state.history.generations] == ledger.kept
