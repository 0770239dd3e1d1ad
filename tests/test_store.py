import os
import threading
from pathlib import Path
from typing import Final

import pytest

from nodeagent import store
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.store import StoreFiles, swap_symlink, write_file
from tests import nars
from tests.handmade import TREE, path

NEW: Final = nars.File(b"new")


@pytest.fixture
def files(scratch: Path) -> StoreFiles:
    made = StoreFiles(scratch / "host")
    made.claim(share=False)
    return made


def put(tree: nars.Tree, place: Path) -> None:
    """Put a tree somewhere, its top as `nar.unpack` leaves it."""
    nars.write(tree, os.fsencode(place))
    if place.is_dir():
        place.chmod(0o755)


def tree_at(place: Path) -> nars.Tree:
    return nars.read(os.fsencode(place))


def reason(caught: pytest.ExceptionInfo[NodeAgentError]) -> Reason:
    assert "; " in caught.value.message
    return caught.value.reason


def test_an_empty_root_is_claimed_with_all_that_is_needed(scratch: Path) -> None:
    files = StoreFiles(scratch / "deep/host")
    files.claim(share=False)
    for directory in (files.store_dir, files.staging, files.displaced, files.pending):
        assert directory.is_dir()


def test_our_own_store_is_claimed_again(files: StoreFiles) -> None:
    put(NEW, files.real(path("item")))
    files.claim(share=False)
    assert files.on_disk() == {path("item")}


def test_a_store_of_somebody_else_is_refused_and_left_as_it_is(scratch: Path) -> None:
    files = StoreFiles(scratch)
    files.store_dir.mkdir(parents=True)
    put(NEW, files.real(path("item")))
    with pytest.raises(NodeAgentError, match="--share-store") as caught:
        files.claim(share=False)
    assert reason(caught) is Reason.FOREIGN_STORE
    assert not files.ours.exists()


def test_a_store_of_somebody_else_is_shared_if_told_to(scratch: Path) -> None:
    files = StoreFiles(scratch)
    files.store_dir.mkdir(parents=True)
    put(NEW, files.real(path("item")))
    files.claim(share=True)
    files.claim(share=False)


def test_a_store_without_store_paths_is_nobodys(scratch: Path) -> None:
    files = StoreFiles(scratch)
    (files.store_dir / ".links").mkdir(parents=True)
    files.claim(share=False)


@pytest.mark.parametrize("place", ["nix", "nix/store", "nix/var"])
def test_a_store_that_cannot_be_made_is_unusable(scratch: Path, place: str) -> None:
    (scratch / place).parent.mkdir(exist_ok=True)
    (scratch / place).write_text("in the way")
    with pytest.raises(NodeAgentError) as caught:
        StoreFiles(scratch).claim(share=False)
    assert reason(caught) is Reason.STORE_UNUSABLE


def test_staging_on_another_file_system_is_unusable(scratch: Path) -> None:
    elsewhere = Path("/dev/shm")  # a tmpfs wherever Linux runs
    if elsewhere.stat().st_dev == scratch.stat().st_dev:
        pytest.skip("all is on one file system here")
    files = StoreFiles(scratch)
    files.ours.mkdir(parents=True)
    files.staging.symlink_to(elsewhere)
    with pytest.raises(NodeAgentError, match="different file systems") as caught:
        files.claim(share=False)
    assert reason(caught) is Reason.STORE_UNUSABLE


def test_only_store_paths_count_as_on_disk(files: StoreFiles) -> None:
    put(NEW, files.real(path("item")))
    put(NEW, files.store_dir / "README")
    put(NEW, Path(f"{files.real(path('item'))}.lock"))
    put(nars.Directory(), Path(f"{files.real(path('item'))}.drv.chroot"))
    assert files.on_disk() == {path("item")}


def test_a_store_directory_that_is_gone_is_unusable(files: StoreFiles) -> None:
    files.store_dir.rmdir()
    with pytest.raises(NodeAgentError) as caught:
        files.on_disk()
    assert reason(caught) is Reason.STORE_UNUSABLE


def test_staging_keeps_what_is_wanted_and_whole(files: StoreFiles) -> None:
    wanted, other = files.staged(path("wanted")), files.staged(path("other"))
    for place in (wanted, other, Path(f"{wanted}.part"), files.staging / "rubbish"):
        put(TREE, place)
    (files.staging / "link").symlink_to(wanted)
    files.clean_staging([path("wanted"), path("not here")])
    assert list(files.staging.iterdir()) == [wanted]


def test_a_generation_is_rooted_and_its_single_paths_no_longer(files: StoreFiles) -> None:
    files.place([path("item"), path("other")])
    files.set_roots("abc", {"ds": path("item")})
    files.set_roots("abc", {"ds": path("other"), "web": path("item")})
    roots = {str(one.relative_to(files.roots)): str(one.readlink()) for one in links(files)}
    assert roots == {"abc/ds": path("other"), "abc/web": path("item")}


def links(files: StoreFiles) -> list[Path]:
    return [one for one in files.roots.rglob("*") if one.is_symlink()]


def test_roots_that_cannot_be_set_are_told(files: StoreFiles) -> None:
    (files.roots / "abc").write_text("in the way")
    with pytest.raises(NodeAgentError) as caught:
        files.set_roots("abc", {"ds": path("item")})
    assert reason(caught) is Reason.STORE_UNUSABLE


def test_a_file_is_replaced_by_a_new_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    (tmp_path / ".file.new").write_text("left by a crash")
    write_file(file, b"old")
    with file.open("rb") as reader:
        write_file(file, b"new")
        assert reader.read() == b"old"
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_is_never_away_while_it_is_swapped(tmp_path: Path) -> None:
    link, seen, done = tmp_path / "link", set[str](), threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(str(link.readlink()))

    swap_symlink(link, "0")
    (tmp_path / ".link.new").symlink_to("left by a crash")
    looking = threading.Thread(target=look)
    looking.start()
    for turn in range(200):
        swap_symlink(link, str(turn % 2))
    done.set()
    looking.join()
    assert seen <= {"0", "1"}


def test_read_only_trees_can_be_removed(scratch: Path) -> None:
    place = scratch / "tree"
    nars.write(nars.buried(TREE, 5), os.fsencode(place))
    store.remove(place)
    store.remove(place)
    assert not place.exists()


def test_removing_a_link_leaves_what_it_leads_to(scratch: Path) -> None:
    put(TREE, scratch / "tree")
    (scratch / "link").symlink_to("tree")
    store.remove(scratch / "link")
    assert tree_at(scratch / "tree") == TREE


def test_a_tree_deeper_than_python_recurses_can_be_removed(scratch: Path) -> None:
    place, deep = scratch / "deep", os.fsencode(scratch) + b"/deep"
    for _ in range(1500):
        os.mkdir(deep)  # noqa: PTH102 its name is longer than a Path may be
        deep += b"/d"
    store.remove(place)
    assert not place.exists()
