"""What no test of a whole agent can time: damage that is found while a pass runs."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from nodeagent import release
from nodeagent.agent.flow import Flow
from nodeagent.errors import NodeAgentError
from nodeagent.ledger import Held, Ledger
from nodeagent.metrics import Metrics
from nodeagent.names import Reason
from nodeagent.nix import Nix, Registration
from nodeagent.publish import Gates
from nodeagent.realise.run import Means
from nodeagent.release import PathInfo
from nodeagent.report import Report
from nodeagent.store import StoreFiles
from nodeagent.verify import evidence, walk
from tests.handmade import CACHE_KEY, SYSTEM, CacheFiles, Item, manifest, path

LIB: Final = Item(path("lib"))
ROOT: Final = Item(path("ds"), references=(LIB.path,))


@dataclass(frozen=True)
class Registry(Nix):
    """A Nix that keeps what it is given."""

    known: dict[str, Registration] = field(default_factory=dict)

    def valid(self) -> dict[str, str]:
        return {name: one.info.nar_hash for name, one in self.known.items()}

    def registered(self, paths: Iterable[str]) -> list[Registration]:
        return [self.known[name] for name in paths if name in self.known]

    async def register(self, batch: Sequence[Registration]) -> None:
        self.known.update({one.path: one for one in batch})


@dataclass
class Bench:
    """A flow over a real store, a real cache and real workers; Nix alone is stood in for."""

    flow: Flow
    target: Held

    @property
    def hello(self) -> Path:
        return self.flow.means.files.real(LIB.path) / "bin/hello"

    @property
    def is_open(self) -> bool:
        return self.flow.gates.profile("ds").exists()

    async def bring(self) -> None:
        await self.flow.bring(self.target, 0)


@pytest.fixture
async def bench(scratch: Path) -> Bench:
    files, cache = StoreFiles(scratch / "host", durable=False), CacheFiles(scratch / "cache")
    files.claim(share=False)
    for item in (LIB, ROOT):
        cache.add(item)
    data = manifest(LIB, ROOT)
    (scratch / "state/releases").mkdir(parents=True)
    ledger = Ledger(scratch / "state")
    ledger.keep_manifest(release.digest_of(data), data)
    means = Means(files, Registry(files.root), [("main", cache.url)], [CACHE_KEY.public], 1)
    gates = Gates(scratch / "run", str(files.store_dir))
    flow = Flow(means, ledger, gates, Report(), Metrics(), SYSTEM, "boot-1")
    made = Bench(
        flow, Held(channel="c", serial=1, release=release.digest_of(data), caches=("main",))
    )
    await made.bring()
    assert made.is_open
    return made


async def test_damage_that_is_found_after_planning_is_healed_before_gates_open(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, true_walk, once = asyncio.get_running_loop(), walk.damaged, [True]
    whole = bench.hello.read_bytes()
    bench.hello.chmod(0o755)
    bench.hello.write_bytes(b"!" + whole[1:])
    bench.hello.chmod(0o555)

    def late(files: StoreFiles, paths: Mapping[str, PathInfo]) -> dict[str, str]:
        if once and once.pop():
            loop.call_soon_threadsafe(bench.flow.condemn, LIB.path, "flipped")
        return true_walk(files, paths)

    monkeypatch.setattr(walk, "damaged", late)
    await bench.bring()
    assert bench.is_open
    assert bench.hello.read_bytes() == whole
    assert bench.flow.damaged == bench.flow.ledger.state.damaged == {}


async def test_a_condemned_path_shuts_the_gates_at_once_and_is_broken(bench: Bench) -> None:
    bench.flow.condemn(LIB.path, "flipped")
    assert not bench.is_open
    assert bench.flow.broken() == [LIB.path]
    assert bench.flow.ledger.state.damaged == {LIB.path: "flipped"}


async def test_a_path_that_was_condemned_wrongly_is_not_fetched(bench: Bench) -> None:
    inode = bench.hello.parent.stat().st_ino
    bench.flow.condemn(LIB.path, "misread")
    await bench.bring()
    assert bench.is_open
    assert bench.hello.parent.stat().st_ino == inode
    assert bench.flow.damaged == {}


async def test_damage_of_another_release_shuts_nothing(bench: Bench) -> None:
    bench.flow.condemn(path("old"), "flipped")
    assert bench.is_open
    assert bench.flow.broken() == []
    await bench.bring()
    assert bench.flow.damaged.keys() == {path("old")}


async def test_what_a_repair_does_not_heal_fails_the_pass_and_stays_shut(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "damaged", lambda *_: {LIB.path: "rotten"})
    with pytest.raises(NodeAgentError) as caught:
        await bench.bring()
    assert caught.value.reason is Reason.PATH_DAMAGED
    assert "still damaged after a repair (rotten)" in caught.value.message
    assert not bench.is_open


async def test_rubbish_that_cannot_be_removed_at_boot_is_told_and_shuts_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: StoreFiles, __: Collection[str]) -> None:
        raise NodeAgentError(Reason.STORE_UNUSABLE, "it is immutable")

    monkeypatch.setattr(evidence, "tidy", refuse)
    bench.flow.boot_id = "boot-2"
    await bench.flow.restore()
    assert bench.is_open
    assert bench.flow.report.problem is not None
    assert bench.flow.report.problem.message == "it is immutable"
