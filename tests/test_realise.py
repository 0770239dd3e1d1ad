import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.nix import Nix, Registration
from nodeagent.plan import Plan, Step
from nodeagent.realise import run as realising
from nodeagent.realise.run import Failure, Means, Tally, realise
from nodeagent.release import Location, PathInfo
from nodeagent.store import StoreFiles
from tests import graphs
from tests.handmade import path

WORKER: Final = """
import json, os, sys, time
setup = json.loads(sys.stdin.readline())
def say(kind, **facts):
    print(json.dumps({"is": kind, **facts}), flush=True)
waiting = []
while line := waiting.pop() if waiting else sys.stdin.readline():
    job = json.loads(line)
    name = job["path"].partition("-")[2]
    with open(os.environ["STANDIN_LOG"], "a") as log:
        log.write(name + "\\n")
    if "slow" in name:
        time.sleep(0.2)
    if "pair" in name:
        waiting.append(sys.stdin.readline())
    if "half" in name:
        say("Progress", bytes=job["nar_size"] // 2)
        open(os.path.join(setup["staging"], os.path.basename(job["path"]) + ".part"), "w").close()
    if "die" in name:
        sys.exit(3)
    if "missing" in name:
        say("Failed", reason="NarMissing", message=name)
    elif "unreachable" in name:
        say("Failed", reason="CacheUnreachable", message=name)
    elif "full" in name:
        say("Failed", reason="StoreUnusable", message=name)
    else:
        say("Progress", bytes=job["nar_size"] + 99)
        if not job["found"]:
            open(os.path.join(setup["staging"], os.path.basename(job["path"])), "w").close()
        say("Done", sigs=["key:" + name], fetched=not job["found"])
"""


@dataclass(frozen=True)
class Registry(Nix):
    """A Nix that minds what it is given, and keeps it."""

    files: StoreFiles = field(kw_only=True)
    known: dict[str, Registration] = field(default_factory=dict)
    batches: list[list[str]] = field(default_factory=list)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def register(self, batch: Sequence[Registration]) -> None:
        self.entered.set()
        await self.gate.wait()
        for one in batch:
            assert os.path.lexists(self.files.real(one.path)), "registered before it was there"
            assert set(one.info.references) <= self.known.keys() | {one.path}, "not closed"
            self.known[one.path] = one
        self.batches.append([one.path for one in batch])


@dataclass
class Bench:
    """A node's store, a stand-in worker, and a plan."""

    means: Means
    nix: Registry
    log: Path
    tally: Tally = field(default_factory=Tally)

    async def run(self, plan: Plan, index: dict[str, Location] | None = None) -> list[Failure]:
        return list(await realise(plan, self.means, index or {}, self.tally))

    @property
    def files(self) -> StoreFiles:
        return self.means.files

    @property
    def jobs(self) -> list[str]:
        """List what the workers were given, in order."""
        return self.log.read_text().split() if self.log.exists() else []

    @property
    def waiting(self) -> set[str]:
        return {name.partition("-")[2] for name in os.listdir(self.files.staging)}  # noqa: PTH208 names are enough


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(realising, "COMMIT_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("STANDIN_LOG", str(tmp_path / "log"))
    files = StoreFiles(tmp_path / "host", durable=False)
    files.claim(share=False)
    nix = Registry(files.root, files=files)
    nix.gate.set()
    worker = (sys.executable, "-S", "-E", "-c", WORKER)
    return Bench(Means(files, nix, [("main", "file:///")], [], 2, worker), nix, tmp_path / "log")


def plan(**references: str) -> Plan:
    """Plan paths, each with the names that it refers to, in this order."""
    steps = [
        Step(path(name), info([path(one) for one in needs.split()]))
        for name, needs in references.items()
    ]
    return Plan(tuple(steps), frozenset())


def info(references: Sequence[str] = ()) -> PathInfo:
    nar_hash = graphs.info(0).nar_hash
    return PathInfo(nar_hash=nar_hash, nar_size=100, references=tuple(references))


def known(bench: Bench) -> set[str]:
    return {one.partition("-")[2] for one in bench.nix.known}


async def test_every_path_of_a_plan_is_placed_and_registered(bench: Bench) -> None:
    assert await bench.run(plan(lib="", app="lib app", top="app lib")) == []
    assert known(bench) == {"lib", "app", "top"}
    assert bench.files.on_disk() == bench.nix.known.keys()
    assert bench.nix.known[path("app")].sigs == ["key:app"]
    assert bench.waiting == set()


async def test_an_empty_plan_starts_no_worker(bench: Bench) -> None:
    assert await bench.run(plan()) == []
    assert bench.jobs == []


async def test_the_tally_ends_at_the_sizes_of_the_nars(bench: Bench) -> None:
    await bench.run(plan(a="", half="", c=""))
    assert (bench.tally.bytes_done, bench.tally.paths_done) == (300, 3)
    assert bench.tally.paths_fetched == 3


async def test_what_failed_counts_for_nothing(bench: Bench) -> None:
    await bench.run(plan(a="", halfmissing="", halfdie=""))
    assert (bench.tally.bytes_done, bench.tally.paths_done) == (100, 1)


async def test_a_tree_that_lies_in_the_store_is_offered_and_registered(bench: Bench) -> None:
    bench.files.real(path("found")).touch()
    await bench.run(plan(found=""))
    assert bench.tally.paths_fetched == 0
    assert known(bench) == {"found"}


async def test_what_an_earlier_pass_left_in_staging_is_used(bench: Bench) -> None:
    bench.files.staged(path("found")).touch()
    bench.files.staged(path("unwanted")).touch()
    await bench.run(plan(found=""))
    assert bench.tally.paths_fetched == 0
    assert known(bench) == {"found"}
    assert bench.waiting == set()


async def test_a_path_that_failed_leaves_its_dependents_staged(bench: Bench) -> None:
    failures = await bench.run(plan(lib="", missing="lib", app="missing", other="lib"))
    assert failures == [Failure(path("missing"), Reason.NAR_MISSING, "missing")]
    assert known(bench) == {"lib", "other"}
    assert bench.waiting == {"app"}


async def test_what_waited_in_staging_is_committed_by_the_next_pass(bench: Bench) -> None:
    await bench.run(plan(missing="", app="missing"))
    bench.files.staged(path("missing")).touch()  # it was mended
    renamed = plan(lib="", app="lib")
    assert await bench.run(renamed) == []
    assert known(bench) == {"lib", "app"}
    assert bench.tally.paths_fetched == 2


@pytest.mark.parametrize("name", ["unreachable", "full"])
async def test_trouble_that_concerns_all_paths_stops_the_pass(bench: Bench, name: str) -> None:
    one_worker = Means(bench.files, bench.nix, [], [], 1, bench.means.worker)
    todo = plan(**{"first": "", name: "", "later": "", "last": ""})
    failures = await realise(todo, one_worker, {}, bench.tally)
    assert [failure.path for failure in failures] == [path(name)]
    assert bench.jobs[:2] == ["first", name]
    assert known(bench) == {"first"}


async def test_what_has_no_room_is_not_begun(bench: Bench) -> None:
    huge = info().model_copy(update={"nar_size": 1 << 60})
    with pytest.raises(NodeAgentError, match="free are") as caught:
        await bench.run(Plan((Step(path("a"), huge),), frozenset()))
    assert caught.value.reason is Reason.DISK_SHORT
    assert bench.jobs == []


async def test_a_worker_that_dies_costs_its_path_alone(bench: Bench) -> None:
    failures = await bench.run(plan(a="", die="", b="", die2="", c="", d=""))
    assert {failure.path for failure in failures} == {path("die"), path("die2")}
    assert {failure.reason for failure in failures} == {Reason.WORKER_DIED}
    assert "died (3)" in failures[0].message
    assert known(bench) == {"a", "b", "c", "d"}


async def test_a_worker_has_its_next_small_path_before_it_is_done_with_one(bench: Bench) -> None:
    one_worker = Means(bench.files, bench.nix, [], [], 1, bench.means.worker)
    assert await realise(plan(pair="", a=""), one_worker, {}, bench.tally) == ()


async def test_a_pass_that_gave_up_pours_what_it_began_and_no_more(bench: Bench) -> None:
    one_worker = Means(bench.files, bench.nix, [], [], 1, bench.means.worker)
    many = {f"later{number}": "" for number in range(50)}
    await realise(plan(unreachable="", **many), one_worker, {}, bench.tally)
    assert known(bench) == set()


async def test_what_a_worker_left_half_done_goes_with_the_pass(bench: Bench) -> None:
    failures = await bench.run(plan(halfdie=""))
    assert [failure.reason for failure in failures] == [Reason.WORKER_DIED]
    assert bench.waiting == set()


async def test_workers_that_all_die_are_not_started_for_every_path(bench: Bench) -> None:
    failures = await bench.run(plan(**{f"die{number}": "" for number in range(40)}))
    assert {failure.reason for failure in failures} == {Reason.WORKER_DIED}
    assert len(failures) < realising.MAX_DEATHS + bench.means.workers


async def test_a_worker_that_cannot_start_is_told(bench: Bench) -> None:
    nowhere = Means(bench.files, bench.nix, [], [], 2, ("/nowhere/worker",))
    with pytest.raises(ExceptionGroup) as caught:
        await realise(plan(a=""), nowhere, {}, bench.tally)
    assert caught.group_contains(NodeAgentError, match="/nowhere/worker")


async def test_no_more_workers_are_started_than_there_are_paths(bench: Bench) -> None:
    many = Means(bench.files, bench.nix, [], [], 64, bench.means.worker)
    assert await realise(plan(a=""), many, {}, bench.tally) == ()


async def cancelled_in_commit(bench: Bench, todo: Plan) -> None:
    """Cancel a pass while it registers, then let the registration go on."""
    bench.nix.gate.clear()
    task = asyncio.create_task(bench.run(todo))
    await bench.nix.entered.wait()
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    bench.nix.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_pass_finishes_the_commit_that_it_is_in(bench: Bench) -> None:
    await cancelled_in_commit(bench, plan(a="", slow="", b="slow"))
    assert "a" in known(bench)
    assert len(bench.nix.batches) == 1


async def test_what_a_cancelled_pass_finished_the_next_one_finds(bench: Bench) -> None:
    todo = plan(a="", slow="", b="slow")
    await cancelled_in_commit(bench, todo)
    rest = tuple(step for step in todo.steps if step.path not in bench.nix.known)
    await bench.run(Plan(rest, frozenset(bench.nix.known)))
    assert known(bench) == {"a", "slow", "b"}


async def test_a_batch_never_grows_beyond_what_is_registered_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realising, "MAX_BATCH", 2)
    await bench.run(plan(a="", b="a", c="b", d="c", e="d"))
    assert max(len(batch) for batch in bench.nix.batches) <= 2
    assert len(bench.nix.known) == 5


async def test_a_registration_that_fails_ends_the_pass(bench: Bench) -> None:
    @dataclass(frozen=True)
    class Broken(Registry):
        async def register(self, batch: Sequence[Registration]) -> None:
            raise NodeAgentError(Reason.NIX_FAILED, "no")

    broken = Broken(bench.files.root, files=bench.files)
    means = Means(bench.files, broken, [], [], 2, bench.means.worker)
    with pytest.raises((NodeAgentError, ExceptionGroup)):
        await realise(plan(a="", slow=""), means, {}, bench.tally)


async def test_the_index_tells_the_worker_where_to_look(bench: Bench) -> None:
    location = Location(
        url="nar/a", compression="zstd", file_hash=info().nar_hash, file_size=1, sigs=("s",)
    )
    assert await bench.run(plan(a=""), {path("a"): location}) == []


def test_the_workers_of_an_agent_are_this_package() -> None:
    assert (sys.executable, "-m", "nodeagent.realise.worker") == realising.WORKER
