import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest
import zstandard
from hypothesis import given, settings

from nodeagent import keys, storepath
from nodeagent.cache import Cache
from nodeagent.names import Reason
from nodeagent.narinfo import NarInfo
from nodeagent.realise import worker
from nodeagent.realise.jobs import Done, Event, Failed, Job, Progress, Where
from nodeagent.realise.worker import Pourer
from tests import nars
from tests.handmade import CACHE_KEY, ITEM, STRANGER, CacheFiles, Item, path

OTHER: Final = nars.File(b"something else")


@dataclass
class Bench:
    """A cache in a directory, and what pours from it."""

    files: CacheFiles
    staging: Path
    said: list[Event]
    pourer: Pourer

    @property
    def target(self) -> Path:
        return self.staging / storepath.basename(ITEM.path)

    @property
    def left(self) -> set[str]:
        return {entry.name for entry in os.scandir(self.staging)}

    def poured(self, job: Job) -> Done:
        """Pour what must go well."""
        done = self.pourer.pour(job)
        assert isinstance(done, Done), done
        assert self.left <= {self.target.name}
        return done

    def refused(self, job: Job) -> Reason:
        """Pour what must fail, and leave nothing behind."""
        failed = self.pourer.pour(job)
        assert isinstance(failed, Failed), failed
        assert failed.message
        assert self.left == set()
        return Reason(failed.reason)


@pytest.fixture
def bench(scratch: Path) -> Bench:
    files, staging, said = CacheFiles(scratch / "cache"), scratch / "staging", list[Event]()
    files.root.mkdir()
    staging.mkdir()
    trusted = keys.parse_public([CACHE_KEY.public])
    pourer = Pourer([Cache("main", files.url)], trusted, staging, said.append)
    return Bench(files, staging, said, pourer)


def tree_at(place: Path) -> nars.Tree:
    return nars.read(os.fsencode(place))


def put(tree: nars.Tree, place: Path) -> Path:
    place.parent.mkdir(exist_ok=True)
    nars.write(tree, os.fsencode(place))
    return place


def test_a_path_is_brought_by_its_narinfo_and_equals_what_was_packed(bench: Bench) -> None:
    where = bench.files.add(ITEM)
    assert bench.poured(ITEM.job()) == Done(where.sigs, fetched=True)
    assert tree_at(bench.target) == ITEM.tree


def test_with_an_index_no_narinfo_is_needed(bench: Bench) -> None:
    where = bench.files.add(ITEM)
    for file in bench.files.root.glob("*.narinfo"):
        file.unlink()
    assert bench.poured(ITEM.job(where)) == Done(where.sigs, fetched=True)


@settings(max_examples=25)  # tests of the format itself take many more
@given(nars.trees())
def test_any_tree_arrives_as_it_was(tree: nars.Tree) -> None:
    with nars.scratch() as scratch:
        files, item = CacheFiles(scratch), Item(path("any"), tree)
        where = files.add(item)
        trusted = keys.parse_public([CACHE_KEY.public])
        pourer = Pourer([Cache("main", files.url)], trusted, scratch, lambda _: None)
        assert pourer.pour(item.job(where)) == Done(where.sigs, fetched=True)
        assert tree_at(scratch / storepath.basename(item.path)) == tree


@given(nars.trees())
@settings(max_examples=25)
def test_a_large_tree_arrives_as_it_was(tree: nars.Tree) -> None:
    with pytest.MonkeyPatch.context() as patched, nars.scratch() as scratch:
        patched.setattr(worker, "LARGE_BYTES", 0)
        files, item = CacheFiles(scratch), Item(path("any"), tree)
        where = files.add(item)
        trusted = keys.parse_public([CACHE_KEY.public])
        pourer = Pourer([Cache("main", files.url)], trusted, scratch, lambda _: None)
        assert pourer.pour(item.job(where)) == Done(where.sigs, fetched=True)
        assert tree_at(scratch / storepath.basename(item.path)) == tree


@pytest.mark.parametrize("size", [0, 4096, -1])
def test_a_large_tree_that_is_cut_is_corrupt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(worker, "LARGE_BYTES", 0)
    large = Item(path("large"), nars.File(os.urandom(3 << 20)))
    where = bench.files.add(large)
    file = bench.files.root / where.url
    file.write_bytes(file.read_bytes()[:size])
    assert bench.refused(large.job(where)) is Reason.NAR_CORRUPT


def test_progress_is_told_while_a_path_pours(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_SAY_EVERY_SECONDS", 0.0)
    large = Item(path("large"), nars.File(bytes(1 << 20)))
    bench.pourer.pour(large.job(bench.files.add(large)))
    said = [event.bytes for event in bench.said if isinstance(event, Progress)]
    assert len(said) > 1
    assert sum(said) == len(large.nar)


WRONG: Final[dict[str, Callable[[Where], Where]]] = {
    "address": lambda where: replace(where, url="nar/not-there.nar"),
    "compression": lambda where: replace(where, compression="xz"),
    "signature": lambda where: replace(where, sigs=[ITEM.sign(STRANGER), "rubbish"]),
    "signature of another path": lambda where: replace(where, sigs=[Item(path("other")).sign()]),
    "archive": lambda where: replace(where, url="nar/other.nar"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_where_the_index_is_wrong_the_narinfo_is_asked(bench: Bench, fault: str) -> None:
    where = bench.files.add(ITEM)
    bench.files.write("nar/other.nar", zstandard.compress(nars.encode(OTHER)))
    assert bench.poured(ITEM.job(WRONG[fault](where))) == Done(where.sigs, fetched=True)
    assert tree_at(bench.target) == ITEM.tree


def test_where_index_and_narinfo_agree_nothing_is_tried_twice(bench: Bench) -> None:
    where = bench.files.add(ITEM, pack=lambda data: zstandard.compress(data[:-8]))
    assert bench.refused(ITEM.job(where)) is Reason.NAR_CORRUPT


def test_the_next_cache_is_asked_for_what_one_has_not(bench: Bench, scratch: Path) -> None:
    empty = Cache("empty", (scratch / "empty").as_uri())
    bench.pourer.caches.insert(0, empty)
    bench.files.add(ITEM)
    bench.poured(ITEM.job())


def test_without_any_cache_none_can_be_reached(bench: Bench) -> None:
    bench.pourer.caches.clear()
    assert bench.refused(ITEM.job()) is Reason.CACHE_UNREACHABLE


def test_a_path_without_a_narinfo_is_missing(bench: Bench) -> None:
    assert bench.refused(ITEM.job()) is Reason.NAR_MISSING


def test_a_path_without_its_archive_is_missing(bench: Bench) -> None:
    where = bench.files.add(ITEM)
    (bench.files.root / where.url).unlink()
    assert bench.refused(ITEM.job(where)) is Reason.NAR_MISSING


def test_a_cache_that_cannot_be_read_is_unreachable(bench: Bench) -> None:
    where = replace(bench.files.add(ITEM), url="nar")  # a directory
    assert bench.refused(ITEM.job(where)) is Reason.CACHE_UNREACHABLE


PACKS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "cut": lambda data: zstandard.compress(data)[:-20],
    "short": lambda data: zstandard.compress(data[:-8]),
    "garbled": lambda data: b"no zstd" + data,
    "empty": lambda _: b"",
    "other": lambda _: zstandard.compress(nars.encode(OTHER)),
    "changed": lambda data: zstandard.compress(data.replace(b"#!/bin/sh", b"#!/bin/SH", 1)),
    "no archive": lambda data: zstandard.compress(bytes(len(data))),
}


@pytest.mark.parametrize("fault", PACKS)
def test_an_archive_that_is_not_the_path_is_corrupt(bench: Bench, fault: str) -> None:
    bench.files.add(ITEM, pack=PACKS[fault])
    assert bench.refused(ITEM.job()) is Reason.NAR_CORRUPT


def test_an_unknown_compression_is_corrupt(bench: Bench) -> None:
    bench.files.add(ITEM, compression="br")
    assert bench.refused(ITEM.job()) is Reason.NAR_CORRUPT


TALES: Final[dict[str, Callable[[NarInfo], NarInfo]]] = {
    "path": lambda info: replace(info, path=path("other")),
    "hash": lambda info: replace(info, nar_hash=storepath.nar_hash(bytes(32))),
    "size": lambda info: replace(info, nar_size=info.nar_size + 8),
    "references": lambda info: replace(info, references=info.references[:1]),
}


@pytest.mark.parametrize("lie", TALES)
def test_a_narinfo_that_differs_from_the_manifest_is_corrupt(bench: Bench, lie: str) -> None:
    bench.files.add(ITEM, tell=TALES[lie])
    assert bench.refused(ITEM.job()) is Reason.NAR_CORRUPT


@pytest.mark.parametrize("text", [b"", b"StorePath: nowhere\n", b"\xff\xfe"])
def test_a_narinfo_that_cannot_be_read_is_corrupt(bench: Bench, text: bytes) -> None:
    bench.files.write(f"{storepath.hash_part(ITEM.path)}.narinfo", text)
    assert bench.refused(ITEM.job()) is Reason.NAR_CORRUPT


def test_a_path_that_no_trusted_key_signed_is_not_even_fetched(bench: Bench) -> None:
    where = bench.files.add(ITEM, key=STRANGER)
    (bench.files.root / where.url).unlink()
    assert bench.refused(ITEM.job(where)) is Reason.PATH_UNTRUSTED


def test_a_signature_of_another_path_is_none(bench: Bench) -> None:
    bench.files.add(ITEM, tell=lambda info: replace(info, sigs=(Item(path("other")).sign(),)))
    assert bench.refused(ITEM.job()) is Reason.PATH_UNTRUSTED


def test_a_signature_over_other_facts_is_none(bench: Bench) -> None:
    where = bench.files.add(ITEM, tell=lambda info: replace(info, references=()))
    assert bench.refused(replace(ITEM.job(where), references=())) is Reason.PATH_UNTRUSTED


def test_a_staging_directory_that_is_gone_is_the_disks_fault(bench: Bench) -> None:
    where = bench.files.add(ITEM)
    bench.staging.rmdir()
    failed = bench.pourer.pour(ITEM.job(where))
    assert isinstance(failed, Failed)
    assert failed.reason == Reason.STORE_UNUSABLE


@pytest.mark.parametrize("place", ["store/item", "staging"])
def test_a_whole_tree_that_was_found_is_adopted_without_a_fetch(
    bench: Bench, scratch: Path, place: str
) -> None:
    found = bench.target if place == "staging" else scratch / place
    put(ITEM.tree, found)
    where = bench.files.add(ITEM)
    (bench.files.root / where.url).unlink()
    assert bench.poured(ITEM.job(where, found)) == Done(where.sigs, fetched=False)
    assert tree_at(found) == ITEM.tree


def test_a_found_tree_is_adopted_only_with_a_trusted_signature(bench: Bench) -> None:
    put(ITEM.tree, bench.target)
    failed = bench.pourer.pour(ITEM.job(bench.files.add(ITEM, key=STRANGER), bench.target))
    assert isinstance(failed, Failed)
    assert failed.reason == Reason.PATH_UNTRUSTED


def spoil(place: Path) -> None:
    file = place / "bin/hello"
    mode = file.stat().st_mode
    file.chmod(0o755)
    with file.open("r+b") as out:
        out.write(b"XX")
    file.chmod(mode)


def truncate(place: Path) -> None:
    (place / "bin/hello").chmod(0o755)
    os.truncate(place / "bin/hello", 0)
    (place / "bin/hello").chmod(0o555)


DAMAGE: Final[dict[str, Callable[[Path], object]]] = {
    "other bytes": spoil,
    "truncated": truncate,
    "writable": lambda place: (place / "bin/hello").chmod(0o755),
    "a pipe": lambda place: os.mkfifo(place / "pipe"),
    "not there": lambda place: place.rename(place.with_name("elsewhere")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_tree_that_was_found_is_fetched_anew(
    bench: Bench, scratch: Path, damage: str
) -> None:
    found = put(ITEM.tree, scratch / "store/item")
    found.chmod(0o755)
    DAMAGE[damage](found)
    assert bench.poured(ITEM.job(bench.files.add(ITEM), found)).fetched
    assert tree_at(bench.target) == ITEM.tree


def test_a_damaged_tree_in_staging_gives_way_to_the_fetched_one(bench: Bench) -> None:
    spoil(put(ITEM.tree, bench.target))
    assert bench.poured(ITEM.job(bench.files.add(ITEM), bench.target)).fetched
    assert tree_at(bench.target) == ITEM.tree


def test_what_a_killed_worker_left_half_done_is_in_nobodys_way(bench: Bench) -> None:
    put(ITEM.tree, bench.target.with_name(f"{bench.target.name}.part"))
    bench.poured(ITEM.job(bench.files.add(ITEM)))
