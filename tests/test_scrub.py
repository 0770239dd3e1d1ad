import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent import log, messages, process
from nodeagent.agent import scrub as scrubbing
from nodeagent.agent.flow import Flow
from nodeagent.agent.scrub import Scrubbing
from nodeagent.errors import NodeAgentError
from nodeagent.ledger import Held, Ledger
from nodeagent.metrics import Metrics
from nodeagent.names import Reason
from nodeagent.nix import Registration
from nodeagent.report import Report
from nodeagent.store import StoreFiles
from nodeagent.verify import worker
from nodeagent.verify.scrub import WORKER, Scrub
from nodeagent.verify.worker import Event, Hashed, Job, Progress, Unreadable, hash_tree
from tests import nars
from tests.handmade import Item, digest, path

ITEMS: Final = [
    Item(path("item")),
    Item(path("file"), nars.File(b"plain")),
    Item(path("link"), nars.Link(b"/nowhere")),
]
CONTENTS: Final = [Registration(item.path, item.info) for item in ITEMS]
MORTAL: Final = """
import json, os, sys
for line in sys.stdin:
    tree = json.loads(line)["tree"]
    print(json.dumps({"is": "Progress", "bytes": 10}), flush=True)
    if tree.endswith("-file") and not os.path.exists(tree + ".died"):
        open(tree + ".died", "w").close()
        sys.exit(3)
    print(json.dumps({"is": "Unreadable", "fault": "read badly"}), flush=True)
"""

EVENTS = st.one_of(
    st.builds(Progress, st.integers(0)),
    st.builds(Hashed, st.text(), st.integers(0)),
    st.builds(Unreadable, st.text()),
)


@given(st.builds(Job, st.text(), st.none() | st.floats(1, 1e12)), EVENTS)
def test_messages_arrive_as_they_were_sent_on_one_line(job: Job, event: Event) -> None:
    assert messages.decode(messages.encode(job), Job) == job
    assert worker.read_event(messages.encode(event)) == event
    assert messages.encode(job).count(b"\n") == messages.encode(event).count(b"\n") == 1


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.path[44:])
def test_a_tree_is_hashed_as_it_is(scratch: Path, item: Item) -> None:
    nars.write(item.tree, os.fsencode(scratch / "tree"))
    found = hash_tree(Job(str(scratch / "tree")), lambda _: None)
    assert found == Hashed(item.info.nar_hash, item.info.nar_size)


def test_a_tree_that_is_gone_or_no_tree_is_told(scratch: Path) -> None:
    os.mkfifo(scratch / "pipe")
    for name in ("pipe", "nowhere"):
        found = hash_tree(Job(str(scratch / name)), lambda _: None)
        assert isinstance(found, Unreadable)
        assert name in found.fault


def test_a_slow_tree_is_paced_and_tells_how_far_it_is(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, said = [0.0], list[Progress]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    tree = nars.File(b"x" * 2_000_000)
    nars.write(tree, os.fsencode(scratch / "tree"))
    found = hash_tree(Job(str(scratch / "tree"), bytes_per_second=100_000), said.append)
    assert isinstance(found, Hashed)
    assert now[0] == pytest.approx(found.nar_size / 100_000)
    assert len(said) > 1
    assert sum(one.bytes for one in said) <= found.nar_size


async def test_ctrl_c_is_the_agents_business(scratch: Path) -> None:
    async with process.started(WORKER, stderr=None) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for _ in range(2):
            child.stdin.write(messages.encode(Job(str(scratch / "nowhere"))))
            assert isinstance(worker.read_event(await child.stdout.readline()), Unreadable)
            child.send_signal(signal.SIGINT)
        child.stdin.close()
        assert await child.wait() == 0


@dataclass
class Bench:
    """A store with three whole paths, and what a scrub says of them."""

    files: StoreFiles
    judged: dict[str, str | None] = field(default_factory=dict)
    pause: asyncio.Lock = field(default_factory=asyncio.Lock)

    def scrub(self, worker: Sequence[str] = WORKER, bytes_per_second: float | None = None) -> Scrub:
        return Scrub(self.files, 2, self.judge, self.pause, bytes_per_second, worker)

    def judge(self, content: Registration, fault: str | None) -> None:
        self.judged[content.path] = fault

    def flip(self, item: Item) -> None:
        """Change a byte and nothing that a walk sees."""
        file = self.files.real(item.path)
        if file.is_dir():
            file /= "bin/hello"
        was, mode = file.stat(), file.stat().st_mode
        file.chmod(0o644)
        with file.open("r+b") as out:
            out.write(b"!")
        file.chmod(mode)
        os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))


@pytest.fixture
def bench(scratch: Path) -> Bench:
    made = StoreFiles(scratch)
    made.claim(share=False)
    for item in ITEMS:
        nars.write(item.tree, os.fsencode(made.real(item.path)))
    return Bench(made)


async def test_whole_contents_are_all_read_and_judged_whole(bench: Bench) -> None:
    scrub = bench.scrub()
    assert await scrub.run(CONTENTS) == []
    assert bench.judged == dict.fromkeys((item.path for item in ITEMS), None)
    assert scrub.tally.bytes_done == scrub.tally.bytes_total == sum(len(it.nar) for it in ITEMS)
    assert (scrub.tally.paths_done, scrub.tally.paths_total, scrub.tally.damaged) == (3, 3, 0)


@pytest.mark.parametrize("item", ITEMS[:2], ids=lambda item: item.path[44:])
async def test_a_flipped_byte_is_found(bench: Bench, item: Item) -> None:
    bench.flip(item)
    scrub = bench.scrub(bytes_per_second=1e9)
    await scrub.run(CONTENTS)
    faults = {name: fault for name, fault in bench.judged.items() if fault}
    assert faults.keys() == {item.path}
    assert item.info.nar_hash in faults[item.path]
    assert scrub.tally.damaged == 1


async def test_a_path_that_is_gone_is_damaged(bench: Bench) -> None:
    bench.files.real(ITEMS[2].path).unlink()
    await bench.scrub().run(CONTENTS)
    assert bench.judged[ITEMS[2].path]


async def test_nothing_to_read_starts_nobody(bench: Bench) -> None:
    assert await bench.scrub(worker=["/nowhere"]).run([]) == []


async def test_a_path_whose_worker_died_is_unread_and_the_others_are_read(bench: Bench) -> None:
    scrub = bench.scrub(worker=(sys.executable, "-S", "-E", "-c", MORTAL))
    assert await scrub.run(CONTENTS) == [ITEMS[1].path]
    assert bench.judged.keys() == {ITEMS[0].path, ITEMS[2].path}
    assert scrub.tally.bytes_done == scrub.tally.bytes_total - len(ITEMS[1].nar)


async def test_no_path_is_begun_while_a_pass_pours(bench: Bench) -> None:
    task = None
    async with bench.pause:
        task = asyncio.create_task(bench.scrub().run(CONTENTS))
        await asyncio.sleep(0.3)
        assert not bench.judged
    await task
    assert len(bench.judged) == 3


async def test_a_cancelled_scrub_ends_its_workers(bench: Bench) -> None:
    async with bench.pause:
        task = asyncio.create_task(bench.scrub().run(CONTENTS))
        await asyncio.sleep(0.1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert task.cancelled()
    assert not bench.judged


class StandInFlow:
    """What a scrub asks of a flow, over real files and a real ledger."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self.boot_id, self.pours = "boot-1", bench.pause
        self.published, self.means = None, self
        self.files, self.workers, self.nix = bench.files, 2, self
        self.ledger, self.report, self.metrics = Ledger(directory), Report(), Metrics()
        self.hashed: set[str] = set()
        self.damaged: dict[str, str] = {}

    def registered(self, paths: list[str]) -> list[Registration]:
        return [one for one in CONTENTS if one.path in paths]

    def condemn(self, name: str, fault: str) -> None:
        self.damaged[name] = fault


def of(
    flow: StandInFlow, wake: Callable[[], None] = lambda: None, worker: Sequence[str] = WORKER
) -> Scrubbing:
    return Scrubbing(cast("Flow", flow), wake, log.get(), worker)


@pytest.fixture
def flow(bench: Bench, tmp_path: Path) -> StandInFlow:
    (tmp_path / "releases").mkdir()
    made = StandInFlow(bench, tmp_path)
    held = Held(channel="stable", serial=7, release=digest(7), caches=("main",))
    made.ledger.publish(held, "boot-0")
    return made


async def test_what_an_owed_scrub_finds_wakes_the_loop(bench: Bench, flow: StandInFlow) -> None:
    bench.flip(ITEMS[0])
    woken: list[bool] = []
    one = of(flow, lambda: woken.append(True))
    with one.owed():
        assert one.due
        assert one.progress() is None
        await one.run()
    assert flow.damaged.keys() == {ITEMS[0].path}
    assert woken == [True]
    progress = one.progress()
    assert progress is not None
    assert (progress.running, progress.paths_done, progress.damaged) == (False, 3, 1)
    assert flow.ledger.state.scrubbed_boot == flow.ledger.state.clean_end == "boot-1"


async def test_nothing_is_scrubbed_where_nothing_is_owed(flow: StandInFlow) -> None:
    flow.ledger.scrubbed("boot-1", 1)
    one = of(flow, worker=["/nowhere"])
    with one.owed():
        await one.run()
    assert one.progress() is None


async def test_a_path_that_was_fetched_anew_meanwhile_is_not_blamed(
    bench: Bench, flow: StandInFlow
) -> None:
    bench.flip(ITEMS[0])
    one = of(flow, lambda: pytest.fail("woken"))
    with one.owed():
        async with bench.pause:
            task = asyncio.create_task(one.run())
            await asyncio.sleep(0.2)
            flow.hashed.update(item.path for item in ITEMS)
        await task
    assert flow.damaged == {}


async def test_a_scrub_whose_worker_died_is_told_and_goes_on_with_the_rest(
    flow: StandInFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubbing, "RETRY_SECONDS", 0.01)
    mortal = (sys.executable, "-S", "-E", "-c", MORTAL)
    one = of(flow, worker=mortal)
    with one.owed():
        await one.run()
    assert flow.report.problem is not None
    assert flow.report.problem.reason is Reason.WORKER_DIED
    assert flow.damaged == {item.path: "read badly" for item in ITEMS}
    assert flow.ledger.state.scrubbed_boot == "boot-1"


async def test_an_agent_that_fails_before_its_scrub_ended_leaves_it_owed(flow: StandInFlow) -> None:
    one = of(flow)
    with pytest.raises(NodeAgentError), one.owed():
        raise NodeAgentError(Reason.NIX_FAILED, "no nix")
    assert flow.ledger.begin("boot-1")
