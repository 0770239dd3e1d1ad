import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from nodeagent import store
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.store import StoreFiles
from tests import nars
from tests.handmade import TREE, path

OLD: Final = nars.File(b"old")
NEW: Final = nars.File(b"new")


@pytest.fixture
def files(scratch: Path) -> StoreFiles:
    made = StoreFiles(scratch / "host")
    made.claim(share=False)
    return made


def put(tree: nars.Tree, place: Path) -> None:
    """Put a tree somewhere, its top as `nar.unpack` leaves it."""
    nars.write(tree, os.fsencode(place))
    if isinstance(tree, nars.Directory):
        place.chmod(0o755)


def tree_at(place: Path) -> nars.Tree:
    return nars.read(os.fsencode(place))


def test_what_is_staged_is_placed_as_a_store_has_it(files: StoreFiles) -> None:
    put(TREE, files.staged(path("tree")))
    put(NEW, files.staged(path("file")))
    put(nars.Link(b"/nowhere"), files.staged(path("link")))
    files.place([path("tree"), path("file"), path("link")])
    assert tree_at(files.real(path("tree"))) == TREE
    assert files.real(path("tree")).stat().st_mode & 0o7777 == 0o555
    assert tree_at(files.real(path("file"))) == NEW
    assert tree_at(files.real(path("link"))) == nars.Link(b"/nowhere")
    assert files.on_disk() == {path("tree"), path("file"), path("link")}
    assert {one.name for one in files.store_dir.iterdir()} == {
        one.removeprefix("/nix/store/") for one in files.on_disk()
    }
    assert not any(files.staging.iterdir())


def test_a_link_that_leads_further_than_a_path_may_be_is_placed(files: StoreFiles) -> None:
    far = nars.Link(b"t" * 4095)
    put(far, files.staged(path("link")))
    files.place([path("link")])
    put(far, files.staged(path("link")))
    files.place([path("link")])
    assert tree_at(files.real(path("link"))) == far


def test_without_syncing_the_same_is_placed(files: StoreFiles) -> None:
    put(NEW, files.staged(path("file")))
    replace(files, durable=False).place([path("file")])
    assert tree_at(files.real(path("file"))) == NEW


def test_what_is_placed_is_rooted_first(files: StoreFiles) -> None:
    files.store_dir.rmdir()  # nothing can be placed
    put(NEW, files.staged(path("file")))
    with pytest.raises(NodeAgentError):
        files.place([path("file")])
    assert [one.readlink() for one in files.pending.iterdir()] == [Path(path("file"))]


def test_a_path_that_lies_there_already_is_rooted_and_left(files: StoreFiles) -> None:
    put(OLD, files.real(path("file")))
    files.place([path("file")])
    files.place([path("file")])
    assert tree_at(files.real(path("file"))) == OLD
    assert [one.readlink() for one in files.pending.iterdir()] == [Path(path("file"))]


def test_a_damaged_path_is_exchanged_and_the_old_one_kept(files: StoreFiles) -> None:
    put(OLD, files.real(path("file")))
    put(NEW, files.staged(path("file")))
    with files.real(path("file")).open("rb") as bound:
        files.place([path("file")])
        assert bound.read() == b"old"
    assert tree_at(files.real(path("file"))) == NEW
    assert [tree_at(one) for one in files.displaced.iterdir()] == [OLD]


def test_a_damaged_tree_is_exchanged_whatever_lies_there(files: StoreFiles) -> None:
    for old in (TREE, nars.Link(b"/nowhere"), NEW):
        store.remove(files.real(path("tree")))
        nars.write(old, os.fsencode(files.real(path("tree"))))
        if not os.access(files.real(path("tree")), os.W_OK, follow_symlinks=False):
            pytest.skip("only root can move a read-only directory")
        put(TREE, files.staged(path("tree")))
        files.place([path("tree")])
        assert tree_at(files.real(path("tree"))) == TREE
    assert len(list(files.displaced.iterdir())) == 3


def test_a_path_that_cannot_be_exchanged_stays_and_that_is_told(files: StoreFiles) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        if Path(name).stat().st_dev == files.store_dir.stat().st_dev:
            pytest.skip("all is on one file system here")
        files.staging.rmdir()
        files.staging.symlink_to(name)
        put(OLD, files.real(path("file")))
        put(NEW, files.staged(path("file")))
        with pytest.raises(NodeAgentError) as caught:
            files.place([path("file")])
    assert caught.value.reason is Reason.STORE_UNUSABLE
    assert tree_at(files.real(path("file"))) == OLD


def test_the_longest_name_can_be_displaced(files: StoreFiles) -> None:
    longest = path("n" * 211)
    put(OLD, files.real(longest))
    put(NEW, files.staged(longest))
    files.place([longest])
    assert tree_at(files.real(longest)) == NEW


def place_aside(files: StoreFiles) -> threading.Thread:
    placing = threading.Thread(target=files.place, args=[[path("file")]])
    placing.start()
    time.sleep(0.05)
    return placing


@pytest.fixture
def held(files: StoreFiles) -> Iterator[int]:
    """Give Nix's lock on a path, held by somebody else, while the path waits in staging."""
    put(NEW, files.staged(path("file")))
    fd = os.open(f"{files.real(path('file'))}.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield fd
    os.close(fd)


def test_a_path_that_somebody_has_locked_is_waited_for(files: StoreFiles, held: int) -> None:
    placing = place_aside(files)
    assert files.on_disk() == set()
    fcntl.flock(held, fcntl.LOCK_UN)
    placing.join()
    assert files.on_disk() == {path("file")}


def test_a_path_that_stays_locked_is_told_and_placed_later(files: StoreFiles, held: int) -> None:
    hasty, lock = replace(files, lock_seconds=0.1), f"{files.real(path('file'))}.lock"
    put(NEW, files.staged(path("link")))
    with pytest.raises(NodeAgentError) as caught:
        hasty.place([path("link"), path("file")])
    assert caught.value.reason is Reason.STORE_UNUSABLE
    assert f"{lock} for 0.1 s" in caught.value.message
    assert f"`fuser {lock}`" in caught.value.message
    assert files.on_disk() == {path("link")}
    fcntl.flock(held, fcntl.LOCK_UN)
    hasty.place([path("link"), path("file")])
    assert files.on_disk() == {path("link"), path("file")}


def test_a_lock_that_cannot_be_had_is_left_as_it_is(files: StoreFiles, held: int) -> None:
    with pytest.raises(NodeAgentError):
        replace(files, lock_seconds=0.0).place([path("file")])
    lock = Path(f"{files.real(path('file'))}.lock")
    assert lock.stat().st_ino == os.fstat(held).st_ino
    assert lock.stat().st_size == 0  # else its holder would be taken for one who is done


def test_a_lock_whose_file_was_deleted_meanwhile_is_taken_anew(
    files: StoreFiles, held: int
) -> None:
    placing = place_aside(files)
    lock = Path(f"{files.real(path('file'))}.lock")
    lock.unlink()  # as Nix does when it is done
    os.write(held, b"d")
    with lock.open("w") as again:
        fcntl.flock(again, fcntl.LOCK_EX)
        fcntl.flock(held, fcntl.LOCK_UN)
        time.sleep(0.05)
        assert files.on_disk() == set()
    placing.join()
    assert files.on_disk() == {path("file")}


def test_whoever_waits_for_our_lock_learns_that_its_file_is_gone(files: StoreFiles) -> None:
    put(NEW, files.staged(path("file")))
    file = Path(f"{files.real(path('file'))}.lock")
    with file.open("wb") as waiting:  # opened before, as one who waits has
        files.place([path("file")])
        assert os.fstat(waiting.fileno()).st_size == 1
    assert not file.exists()
