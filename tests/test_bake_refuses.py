"""What a build refuses, and what it leaves behind when it cannot go on."""

import asyncio
import fcntl
import os
import sys
from pathlib import Path

import pytest

from nodeagent.bake.build import Tally, build
from nodeagent.bake.pool import Pool
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from tests.bakery import Bakery, Store, made_up, small


@pytest.fixture
def bakery(tmp_path: Path) -> Bakery:
    return Bakery(tmp_path / "cache")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


async def refusal(bakery: Bakery, *parts: object) -> NodeAgentError:
    with pytest.raises(NodeAgentError) as caught:
        await bakery.bake(*parts)  # type: ignore[arg-type] # parts, as the caller has them
    return caught.value


async def test_every_root_that_is_not_valid_is_named(bakery: Bakery, store: Store) -> None:
    there = store.add("there", {"bin/x": b""})
    one, other = made_up("one"), made_up("other")
    error = await refusal(bakery, store.part(a=one, b=other, c=there))
    assert error.reason == Reason.CLOSURE_INCOMPLETE
    assert f"{one} (profile a) is not valid" in error.message
    assert f"{other} (profile b) is not valid" in error.message
    assert there not in error.message


async def test_every_path_that_is_lost_from_the_disk_is_named(bakery: Bakery, store: Store) -> None:
    data, more = store.add("data", b"1"), store.add("more", b"2")
    root = store.add("env", {"bin/x": b""}, [data, more])
    for path in (data, more):
        store.real(path).unlink()
    error = await refusal(bakery, store.part(ds=root))
    assert error.reason == Reason.CLOSURE_INCOMPLETE
    assert f"{data} is registered, but not on disk" in error.message
    assert f"{more} is registered, but not on disk" in error.message
    assert not bakery.directory.exists()


async def test_a_directory_without_a_store_is_not_made_one(bakery: Bakery, tmp_path: Path) -> None:
    nowhere = Store(tmp_path / "nowhere")
    error = await refusal(bakery, nowhere.part(ds=made_up("x")))
    assert "there is no nix/store under" in error.message
    assert not nowhere.root.exists()


async def test_stores_that_disagree_on_a_path_are_refused(bakery: Bakery, tmp_path: Path) -> None:
    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    path = one.add("same", {"bin/x": b"one"})
    other.add("same", {"bin/x": b"other"})
    error = await refusal(bakery, one.part(ds=path), other.part("aarch64-linux", ds=path))
    assert error.reason == Reason.PATH_CONFLICT
    assert path in error.message


async def test_every_path_that_is_not_what_the_database_says_is_named(
    bakery: Bakery, store: Store
) -> None:
    changed, longer, shorter = (store.add(name, b"12345678") for name in ("c", "l", "s"))
    device = store.add("d", {"inner/file": b"12345678"})
    root = store.add("env", {"bin/x": b""}, [changed, longer, shorter, device])
    store.real(changed).write_bytes(b"12345679")
    store.real(longer).write_bytes(b"1" * 100)
    store.real(shorter).write_bytes(b"")
    (store.real(device) / "inner/file").unlink()
    os.mkfifo(store.real(device) / "inner/file")
    error = await refusal(bakery, store.part(ds=root))
    assert error.reason == Reason.PATH_DAMAGED
    assert f"{changed}: its contents have hash sha256:" in error.message
    assert f"{longer}: it is larger than" in error.message
    assert f"{shorter}: it has 112 bytes instead of 120" in error.message
    assert f"{device}: " in error.message
    assert "neither file, directory nor symlink" in error.message


async def test_beside_a_damaged_path_the_others_are_baked_but_nothing_that_needs_it(
    bakery: Bakery, store: Store
) -> None:
    good, bad = store.add("good", b"good"), store.add("bad", b"bad")
    needs_bad = store.add("needs-bad", {"x": b""}, [bad])
    root = store.add("env", {"bin/x": b""}, [good, needs_bad])
    store.real(bad).write_bytes(b"dab")
    await refusal(bakery, store.part(ds=root))
    assert bakery.cache.narinfo(good)
    assert not any(bakery.cache.narinfo(path) for path in (bad, needs_bad, root))
    assert not list((bakery.directory / "releases").iterdir())
    store.real(bad).write_bytes(b"bad")
    built = await bakery.bake(store.part(ds=root))
    assert (built.baked, built.reused) == (3, 1)


async def test_a_worker_that_dies_ends_the_build_with_a_reason(
    bakery: Bakery, store: Store
) -> None:
    root = store.add("env", {"bin/x": b""})
    bakery.pool = Pool(workers=1, argv=(sys.executable, "-c", "raise SystemExit(7)"))
    error = await refusal(bakery, store.part(ds=root))
    assert "its worker died (7)" in error.message


async def test_a_worker_that_cannot_be_started_is_one_error(bakery: Bakery, store: Store) -> None:
    root = store.add("env", {"bin/x": b""})
    bakery.pool = Pool(workers=2, argv=("no-such-program",))
    error = await refusal(bakery, store.part(ds=root))
    assert "cannot start no-such-program" in error.message


async def test_a_cancelled_build_leaves_whole_files_and_the_next_goes_on(
    bakery: Bakery, store: Store
) -> None:
    parts = [store.add(f"part{number}", os.urandom(4 << 20)) for number in range(12)]
    root = store.add("env", {"bin/x": b""}, parts)
    begun = asyncio.Event()

    def watch(tally: Tally) -> None:
        if tally.paths_done >= 2:
            begun.set()

    building = asyncio.create_task(build([store.part(ds=root)], bakery.means, on_progress=watch))
    await begun.wait()
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    assert not bakery.hidden()
    assert not any(name.startswith("releases") for name in bakery.visible())
    built = await bakery.bake(store.part(ds=root))
    assert built.reused >= 2
    assert built.baked + built.reused == 13


async def test_what_an_earlier_build_left_half_written_is_removed(
    bakery: Bakery, store: Store
) -> None:
    root = store.add("env", {"bin/x": b""})
    await bakery.bake(store.part(ds=root))
    for name in (".narinfo.part", "nar/.123.part", "releases/.x.json.part"):
        (bakery.directory / name).write_bytes(b"half")
    await bakery.bake(store.part(ds=root))
    assert not bakery.hidden()


async def test_a_second_build_into_the_same_directory_is_refused(
    bakery: Bakery, store: Store
) -> None:
    root = store.add("env", {"bin/x": b""})
    bakery.directory.mkdir()
    with (bakery.directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        error = await refusal(bakery, store.part(ds=root))
    assert "another nodeagent writes to" in error.message


async def test_a_cache_directory_that_cannot_be_written_is_named(
    bakery: Bakery, store: Store
) -> None:
    root = store.add("env", {"bin/x": b""})
    bakery.directory.write_text("in the way")
    error = await refusal(bakery, store.part(ds=root))
    assert str(bakery.directory) in error.message
    assert "give another --cache" in error.message


async def test_a_nar_that_cannot_be_written_ends_the_build(bakery: Bakery, store: Store) -> None:
    root = store.add("env", {"bin/x": b""})
    gone = f"import shutil; shutil.rmtree({str(bakery.directory / 'nar')!r})"
    run = "import runpy; runpy.run_module('nodeagent.bake.worker', run_name='__main__')"
    bakery.pool = Pool(workers=1, argv=(sys.executable, "-c", f"{gone}; {run}"))
    error = await refusal(bakery, store.part(ds=root))
    assert "No such file or directory" in error.message
    assert root in error.message


async def test_a_cache_for_another_store_directory_is_left_alone(
    bakery: Bakery, store: Store
) -> None:
    root = store.add("env", {"bin/x": b""})
    bakery.directory.mkdir()
    (bakery.directory / "nix-cache-info").write_text("StoreDir: /gnu/store\n")
    error = await refusal(bakery, store.part(ds=root))
    assert "is not for /nix/store" in error.message


async def test_a_cache_keeps_the_priority_that_somebody_gave_it(
    bakery: Bakery, store: Store
) -> None:
    root = store.add("env", {"bin/x": b""})
    bakery.directory.mkdir()
    told = "StoreDir: /nix/store\nPriority: 10\n"
    (bakery.directory / "nix-cache-info").write_text(told)
    await bakery.bake(store.part(ds=root))
    assert (bakery.directory / "nix-cache-info").read_text() == told


async def test_a_store_is_never_written_to(bakery: Bakery, tmp_path: Path) -> None:
    store, root = small(tmp_path / "store")
    before = {file: file.lstat().st_mtime_ns for file in store.root.rglob("*")}
    await bakery.bake(store.part(ds=root))
    assert {file: file.lstat().st_mtime_ns for file in store.root.rglob("*")} == before
