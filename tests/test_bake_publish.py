"""Copying releases from one cache directory to another."""

from pathlib import Path

import pytest

from nodeagent import release
from nodeagent.bake.publish import publish
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from tests.bakery import Bakery, key, small


@pytest.fixture
async def source(tmp_path: Path) -> tuple[Bakery, str, str]:
    """Give a cache with one release, its digest and its root."""
    bakery = Bakery(tmp_path / "source")
    store, root = small(tmp_path / "store")
    return bakery, (await bakery.bake(store.part(ds=root))).digest, root


async def test_a_published_release_is_the_same_files(
    source: tuple[Bakery, str, str], tmp_path: Path
) -> None:
    bakery, digest, _ = source
    target = Bakery(tmp_path / "target")
    done = publish(digest, bakery.directory, target.cache)
    assert (done.digest, done.copied, done.kept) == (digest, 3, 0)
    assert target.visible() == bakery.visible()
    for name in bakery.visible():
        assert (target.directory / name).read_bytes() == (bakery.directory / name).read_bytes()


async def test_what_is_there_already_is_not_copied(
    source: tuple[Bakery, str, str], tmp_path: Path
) -> None:
    bakery, digest, _ = source
    target = Bakery(tmp_path / "target")
    publish(digest, bakery.directory, target.cache)
    done = publish(digest, bakery.directory, target.cache)
    assert (done.copied, done.kept, done.bytes) == (0, 3, 0)


async def test_signatures_that_the_target_has_are_kept(
    source: tuple[Bakery, str, str], tmp_path: Path
) -> None:
    bakery, digest, root = source
    target = Bakery(tmp_path / "target", key("target-1", 2))
    store, _ = small(tmp_path / "store")
    await target.bake(store.part(ds=root))
    publish(digest, bakery.directory, target.cache)
    found = target.cache.narinfo(root)
    assert found is not None
    assert [sig.partition(":")[0] for sig in found.sigs] == ["cache-1", "target-1"]


async def test_a_release_that_is_not_whole_is_refused_before_anything_is_copied(
    source: tuple[Bakery, str, str], tmp_path: Path
) -> None:
    bakery, digest, root = source
    found = bakery.cache.narinfo(root)
    assert found is not None
    (bakery.directory / found.url).unlink()
    target = Bakery(tmp_path / "target")
    with pytest.raises(NodeAgentError) as caught:
        publish(digest, bakery.directory, target.cache)
    assert caught.value.reason == Reason.NAR_MISSING
    assert root in caught.value.message
    assert not target.directory.exists()


async def test_a_release_without_its_index_is_refused(
    source: tuple[Bakery, str, str], tmp_path: Path
) -> None:
    bakery, digest, _ = source
    (bakery.directory / release.index_file(digest)).unlink()
    with pytest.raises(NodeAgentError, match="build it there again"):
        publish(digest, bakery.directory, Bakery(tmp_path / "target").cache)
