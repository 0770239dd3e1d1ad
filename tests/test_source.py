import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from watchfiles import Change

from nodeagent import pins, release, source
from nodeagent.cache import Cache
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.pins import Channel
from nodeagent.release import Index, Location
from tests.handmade import ITEM, CacheFiles, Item, digest, index_of, manifest, path, seal
from tests.handmade import pins as pinned

Matters = Callable[[Change, str], bool]
PINS = pinned(stable=Channel(current=seal(7)))
MANIFEST = manifest(Item(path("ds")))
DIGEST = release.digest_of(MANIFEST)
INDEX = Index(
    paths={
        ITEM.path: Location(
            url="nar/a.nar", compression="zstd", file_hash=ITEM.info.nar_hash, file_size=1
        )
    }
)


def fault(call: Callable[[], object]) -> NodeAgentError:
    with pytest.raises(NodeAgentError) as caught:
        call()
    return caught.value


def test_pins_are_read(tmp_path: Path) -> None:
    (tmp_path / "pins.json").write_bytes(pins.render(PINS))
    assert source.read_pins(tmp_path / "pins.json") == PINS


@pytest.mark.parametrize("name", ["pins.json", ".", "no/pins.json"])
def test_pins_that_are_not_there_are_missing(tmp_path: Path, name: str) -> None:
    assert fault(lambda: source.read_pins(tmp_path / name)).reason is Reason.PINS_MISSING


@pytest.mark.parametrize("data", [b"", b"{}", b"rubbish", b" " * (pins.MAX_PINS_BYTES + 1)])
def test_pins_that_are_none_are_invalid(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "pins.json").write_bytes(data)
    error = fault(lambda: source.read_pins(tmp_path / "pins.json"))
    assert error.reason is Reason.PINS_INVALID


def test_cache_names_are_resolved_in_the_order_of_the_pins() -> None:
    known = {"a": "http://a", "b": "http://b", "c": "http://c"}
    assert source.caches_for(["c", "a"], known) == [("c", "http://c"), ("a", "http://a")]


@pytest.mark.parametrize(("known", "told"), [({"main": "http://a"}, "main"), ({}, "none")])
def test_a_cache_that_this_node_does_not_know_is_named(known: dict[str, str], told: str) -> None:
    error = fault(lambda: source.caches_for(["evil"], known))
    assert error.reason is Reason.CACHE_UNKNOWN
    assert f"it has: {told}" in error.message
    assert "--caches evil=ADDRESS" in error.message


def cache(tmp_path: Path, name: str, **files: bytes) -> Cache:
    """Make a cache that has these of `manifest` and `index`."""
    made = CacheFiles(tmp_path / name)
    places = {"manifest": release.manifest_file(DIGEST), "index": index_of(MANIFEST)}
    for kind, data in files.items():
        made.write(places[kind], data)
    return Cache(name, made.url)


def unreachable(tmp_path: Path) -> Cache:
    (tmp_path / "file").touch()
    return Cache("down", (tmp_path / "file").as_uri())


def fetch(*caches: Cache) -> bytes:
    return source.fetch_manifest(caches, DIGEST, len(MANIFEST))


def test_the_first_cache_that_has_the_manifest_gives_it(tmp_path: Path) -> None:
    empty, full = cache(tmp_path, "empty"), cache(tmp_path, "full", manifest=MANIFEST)
    assert fetch(empty, unreachable(tmp_path), full) == MANIFEST
    assert fetch(full, empty) == MANIFEST


def test_a_cache_with_a_wrong_manifest_is_passed_over(tmp_path: Path) -> None:
    wrong = cache(tmp_path, "wrong", manifest=MANIFEST + b" ")
    assert fetch(wrong, cache(tmp_path, "right", manifest=MANIFEST)) == MANIFEST


def test_a_manifest_with_another_digest_is_a_mismatch(tmp_path: Path) -> None:
    for name, data in (("short", b""), ("long", MANIFEST + b" " * 1000)):
        wrong = cache(tmp_path, name, manifest=data)
        assert fault(lambda wrong=wrong: fetch(wrong)).reason is Reason.MANIFEST_MISMATCH  # type: ignore[misc]


def test_a_manifest_far_larger_than_signed_is_not_read(tmp_path: Path) -> None:
    endless = cache(tmp_path, "endless", manifest=MANIFEST + bytes(source.SURPLUS_BYTES + 1))
    assert fault(lambda: fetch(endless)).reason is Reason.CACHE_UNREACHABLE


def test_a_manifest_that_nobody_has_is_missing(tmp_path: Path) -> None:
    error = fault(lambda: fetch(cache(tmp_path, "one"), cache(tmp_path, "two")))
    assert error.reason is Reason.MANIFEST_MISSING
    assert "cache two has no manifest" in error.message


def test_the_fault_of_the_last_cache_is_told(tmp_path: Path) -> None:
    error = fault(lambda: fetch(cache(tmp_path, "one"), unreachable(tmp_path)))
    assert error.reason is Reason.CACHE_UNREACHABLE


def test_without_a_cache_none_can_be_reached() -> None:
    assert fault(fetch).reason is Reason.CACHE_UNREACHABLE


def test_the_index_is_read(tmp_path: Path) -> None:
    full = cache(tmp_path, "full", index=INDEX.model_dump_json(by_alias=True).encode())
    assert source.fetch_index([full], DIGEST) == INDEX.paths


def test_an_index_that_cannot_be_had_or_read_is_looked_for_elsewhere(tmp_path: Path) -> None:
    good = cache(tmp_path, "good", index=INDEX.model_dump_json(by_alias=True).encode())
    bad = cache(tmp_path, "bad", index=b"rubbish")
    caches = [cache(tmp_path, "empty"), unreachable(tmp_path), bad, good]
    assert source.fetch_index(caches, DIGEST) == INDEX.paths


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"paths":{"x":1}}'])
def test_a_broken_index_is_as_none(tmp_path: Path, data: bytes) -> None:
    assert source.fetch_index([cache(tmp_path, "bad", index=data)], DIGEST) == {}
    assert source.fetch_index([], digest(1)) == {}


class Watched:
    """A directory under watch; `change` waits for the next call."""

    def __init__(self, file: Path, matters: Matters | None = None) -> None:
        self.news = asyncio.Event()
        self.task = asyncio.create_task(source.watch(file.parent, self.news.set, matters, 20))

    async def change(self, act: Callable[[], object]) -> None:
        self.news.clear()
        act()
        async with asyncio.timeout(5):
            await self.news.wait()

    async def started(self, directory: Path) -> None:
        """Knock until the watcher hears it."""
        for knock in range(200):
            (directory / f"knock-{knock}").touch()
            await asyncio.sleep(0.05)
            (directory / f"knock-{knock - 1}").unlink(missing_ok=True)
            if self.news.is_set():
                return
        pytest.fail("nothing was heard in ten seconds")

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "POLL_SECONDS", 0.05)


def swap(directory: Path, version: int) -> None:
    """Do as the kubelet does when a mounted ConfigMap changes."""
    data = directory / f"..version-{version}"
    data.mkdir()
    (data / "pins.json").write_text(str(version))
    (directory / "..data_tmp").symlink_to(data.name)
    (directory / "..data_tmp").rename(directory / "..data")


async def test_the_swap_of_a_configmap_is_seen(tmp_path: Path) -> None:
    swap(tmp_path, 1)
    (tmp_path / "pins.json").symlink_to("..data/pins.json")
    watched = Watched(tmp_path / "pins.json")
    await watched.started(tmp_path)
    for version in (2, 3):
        await watched.change(lambda version=version: swap(tmp_path, version))  # type: ignore[misc]
        assert (tmp_path / "pins.json").read_text() == str(version)
    await watched.stop()


async def test_a_file_that_is_replaced_is_seen(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "pins.json")
    await watched.started(tmp_path)
    (tmp_path / ".new").write_text("new")
    await watched.change(lambda: (tmp_path / ".new").rename(tmp_path / "pins.json"))
    await watched.stop()


async def test_a_directory_that_comes_later_is_looked_for(tmp_path: Path) -> None:
    directory = tmp_path / "later"
    watched = Watched(directory / "pins.json")
    await watched.change(lambda: None)  # a look now and then, until there is something to watch
    directory.mkdir()
    await watched.started(directory)
    await asyncio.sleep(0.2)
    await watched.change((directory / "pins.json").touch)
    await watched.stop()


@pytest.mark.parametrize(
    ("change", "name", "lost"),
    [
        (Change.deleted, path("ds"), True),
        (Change.deleted, f"{path('ds')}.lock", False),
        (Change.added, path("ds"), False),
        (Change.modified, path("ds"), False),
    ],
)
def test_only_what_is_deleted_may_be_a_loss(change: Change, name: str, lost: bool) -> None:
    assert source.is_loss(change, name) is lost


async def test_a_store_path_that_goes_wakes_us_and_one_that_comes_does_not(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for name in ("there", "moved"):
        (store / name).mkdir(parents=True)
    watched = Watched(store / "x", source.is_loss)
    await watched.started(store)
    await asyncio.sleep(0.2)
    watched.news.clear()
    (store / "new.lock").touch()
    (tmp_path / "new").mkdir()
    (tmp_path / "new").rename(store / "new")
    (store / "there/inside").touch()
    (store / "new.lock").unlink()
    await asyncio.sleep(0.2)
    assert not watched.news.is_set()
    await watched.change((store / "moved").rmdir)
    await watched.change(lambda: (store / "new").rename(tmp_path / "taken"))
    await watched.stop()


def test_a_fifo_in_the_place_of_the_pins_stops_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pins.json")
    assert fault(lambda: source.read_pins(tmp_path / "pins.json")).reason is Reason.PINS_INVALID
