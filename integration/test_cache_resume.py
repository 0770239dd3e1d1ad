"""A download that breaks off goes on where it was, here or at another cache, or not at all."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import stamina
import zstandard

from nodeagent import keys, storepath
from nodeagent.cache import ATTEMPTS, Access, Cache, Transport
from nodeagent.names import Reason
from nodeagent.realise.jobs import Done, Failed, Job, Where
from nodeagent.realise.worker import Pourer
from nodeagent.store import remove
from tests import hostile, nars
from tests.handmade import CACHE_KEY, CacheFiles, Item, path
from tests.hostile import Hostile, Misbehaviour

BIG: Final = Item(path("big"), nars.File(os.urandom(400_000)))
FILE: Final = f"nar/{storepath.hash_part(BIG.path)}.nar"
HASH: Final = storepath.nar_hash(bytes(32))


@pytest.fixture(autouse=True)
def _no_waits() -> Iterator[None]:
    with stamina.set_testing(testing=True, attempts=ATTEMPTS):
        yield


class Two:
    """Two caches that have the path, and a worker that prefers the first."""

    def __init__(self, first: Hostile, second: Hostile, staging: Path) -> None:
        self.first, self.second = first, second
        transport = Transport(Access(connect_seconds=1.0, stall_seconds=0.3))
        self.caches = [Cache(f"c{one.port}", one.url, transport) for one in (first, second)]
        trusted = keys.parse_public([CACHE_KEY.public])
        self.pourer = Pourer(self.caches, trusted, staging, lambda _: None)
        self.staging = staging

    def asked(self) -> tuple[int, int]:
        """Count the requests for the archive."""
        return self.first.asked.count(f"/{FILE}"), self.second.asked.count(f"/{FILE}")

    def alone(self) -> None:
        del self.pourer.caches[1:]

    def pour(self, job: Job) -> Done | Failed:
        for cache in self.caches:
            cache.health.until = 0.0
        remove(self.staging / storepath.basename(BIG.path))
        done = self.pourer.pour(job)
        left = {entry.name for entry in os.scandir(self.staging)}
        assert left == ({storepath.basename(BIG.path)} if isinstance(done, Done) else set())
        if isinstance(done, Done):
            found = nars.read(os.fsencode(self.staging / storepath.basename(BIG.path)))
            assert found == BIG.tree
        return done


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    for name in ("one", "other"):
        CacheFiles(tmp_path / name).add(BIG, tell=lambda info: replace(info, file_hash=HASH))
    (tmp_path / "staging").mkdir()
    with hostile.serving(tmp_path / "one") as one, hostile.serving(tmp_path / "other") as other:
        yield Two(one, other, tmp_path / "staging")


def where() -> Where:
    return Where(FILE, "zstd", [BIG.sign()], HASH)


@pytest.fixture(params=["index", "narinfo"])
def job(request: pytest.FixtureRequest) -> Job:
    return BIG.job(where() if request.param == "index" else None)


def test_a_cut_stream_goes_on_where_it_was(two: Two, job: Job) -> None:
    two.first.misbehave = hostile.cut_and_continue
    two.alone()
    assert isinstance(two.pour(job), Done)
    sent = [int(one) for one in two.first.starts]
    assert sent == sorted(set(sent))
    assert len(sent) > 2


@pytest.mark.parametrize("misbehaviour", [hostile.hang_in_body, hostile.drip_rest])
def test_a_stream_that_stalls_goes_on_at_another_cache(
    two: Two, job: Job, misbehaviour: Misbehaviour
) -> None:
    two.first.misbehave = misbehaviour
    assert isinstance(two.pour(job), Done)
    assert two.asked() == (1, 1)
    assert two.second.starts[-1] > 0


def test_a_stream_that_is_cut_again_and_again_goes_on_at_another_cache(two: Two, job: Job) -> None:
    def first_only(wire: hostile.Wire) -> None:
        if not wire.start:
            wire.write(wire.head_of_file()[:150_000])

    two.first.misbehave = first_only
    assert isinstance(two.pour(job), Done)
    assert two.second.starts[-1] > 0


def test_another_cache_with_another_size_begins_anew(two: Two, job: Job) -> None:
    two.first.misbehave = hostile.hang_in_body
    (two.second.root / FILE).write_bytes(zstandard.compress(BIG.nar, 19) + zstandard.compress(b""))
    assert isinstance(two.pour(job), Done)
    assert two.second.starts[-1] == 0


def test_another_cache_with_another_hash_is_not_gone_on_with(two: Two) -> None:
    two.first.misbehave = hostile.hang_in_body
    CacheFiles(two.second.root).add(
        BIG, tell=lambda info: replace(info, file_hash=storepath.nar_hash(b"\1" * 32))
    )
    assert isinstance(two.pour(BIG.job()), Done)
    assert two.second.starts[-1] == 0


MIXED: Final[tuple[Misbehaviour, ...]] = (
    hostile.change_between_ranges,
    hostile.change_in_silence,
    hostile.wrong_range,
    hostile.ignore_ranges,
    hostile.cut,
)


@pytest.mark.parametrize("misbehaviour", MIXED, ids=lambda one: one.__name__)
def test_what_cannot_be_continued_is_begun_anew(
    two: Two, job: Job, misbehaviour: Misbehaviour
) -> None:
    def at_first(wire: hostile.Wire) -> None:
        if two.first.misbehaved == 1 or wire.start:
            misbehaviour(wire)
        else:
            wire.write(wire.head_of_file())

    two.first.misbehave = at_first
    two.alone()
    assert isinstance(two.pour(job), Done)


@pytest.mark.parametrize("misbehaviour", MIXED, ids=lambda one: one.__name__)
def test_what_is_never_whole_comes_from_another_cache_or_is_refused(
    two: Two, job: Job, misbehaviour: Misbehaviour
) -> None:
    two.first.misbehave = misbehaviour
    assert isinstance(two.pour(job), Done)
    two.second.misbehave = misbehaviour
    match two.pour(job):
        case Failed(reason):
            assert Reason(reason) in {Reason.CACHE_UNREACHABLE, Reason.NAR_CORRUPT}
        case Done():  # two halves of two hostile caches can make a whole
            assert misbehaviour is hostile.change_between_ranges


def test_a_stream_of_crumbs_ends(two: Two, job: Job) -> None:
    def crumb(wire: hostile.Wire) -> None:
        wire.write(wire.head_of_file()[:1])

    two.first.misbehave = crumb
    two.alone()
    assert isinstance(two.pour(job), Failed)
    assert len(two.first.asked) < 40


def test_content_encoding_is_not_undone_and_not_continued(two: Two, job: Job) -> None:
    two.first.misbehave = hostile.content_encoding
    assert isinstance(two.pour(job), Done)
    two.alone()
    failed = two.pour(job)
    assert isinstance(failed, Failed)
    assert failed.reason == Reason.NAR_CORRUPT


def test_a_dead_first_cache_costs_one_attempt_not_one_per_path(two: Two, tmp_path: Path) -> None:
    two.first.misbehave, two.first.where = hostile.hang, lambda _: True
    files = CacheFiles(two.second.root)
    for number in range(30):
        item = Item(path(f"small-{number}"), nars.File(b"%d" % number))
        assert isinstance(two.pourer.pour(item.job(files.add(item))), Done)
    assert two.first.connections == 1


def test_a_file_is_not_looked_for_elsewhere_without_its_hash(two: Two) -> None:
    two.first.misbehave = hostile.hang_in_body
    assert isinstance(two.pour(BIG.job(Where(FILE, "zstd", [BIG.sign()]))), Done)
    assert two.second.starts[-1] == 0
