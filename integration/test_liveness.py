"""What lives in a store, by our own reckoning and by Nix's; and what a collector may delete."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from integration import closures
from nodeagent import storepath
from nodeagent.nix import Nix, Registration
from nodeagent.release import PathInfo, references_first
from tests import graphs

EXAMPLES: Final = 24  # each a store of its own, made by Nix


async def filled(root: Path, paths: Mapping[str, PathInfo]) -> Nix:
    """Make a store that holds these paths."""
    nix = Nix(root)
    await nix.create()
    for path in paths:
        storepath.real(root, path).mkdir(parents=True)
    order = references_first(paths)
    await nix.register([Registration(path, paths[path]) for path in order])
    return nix


def rooted(root: Path, paths: Iterable[str]) -> None:
    roots = root / "nix/var/nix/gcroots/test"
    roots.mkdir(parents=True, exist_ok=True)
    for path in paths:
        (roots / storepath.basename(path)).symlink_to(path)


def referrers_first(paths: Mapping[str, PathInfo]) -> list[str]:
    return [*references_first(paths)][::-1]


def there(root: Path, paths: Iterable[str]) -> set[str]:
    return {path for path in paths if storepath.real(root, path).is_dir()}


@settings(max_examples=EXAMPLES, deadline=None)
@given(graphs.dags(), st.data())
async def test_we_and_nix_agree_on_what_lives_and_the_rest_can_go(
    paths: Mapping[str, PathInfo], data: st.DataObject
) -> None:
    roots = data.draw(
        st.lists(st.sampled_from(sorted(paths)), unique=True) if paths else st.just([])
    )
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        nix = await filled(root, paths)
        rooted(root, roots)
        told = closures.nix_store(root, "--gc", "--print-live").split()
        live = nix.live(roots)
        assert live == set(told)
        dead = [path for path in referrers_first(paths) if path not in live]
        assert await nix.delete(dead) == []
        assert nix.valid().keys() == live == there(root, paths)


@settings(max_examples=EXAMPLES // 4, deadline=None)
@given(graphs.dags().filter(bool), st.data())
async def test_what_nix_finds_alive_stays_whatever_is_asked_and_the_rest_goes(
    paths: Mapping[str, PathInfo], data: st.DataObject
) -> None:
    roots: Sequence[str] = data.draw(
        st.lists(st.sampled_from(sorted(paths)), min_size=1, unique=True)
    )
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        nix = await filled(root, paths)
        rooted(root, roots)
        live = nix.live(roots)
        alive = await nix.delete(referrers_first(paths))
        assert set(alive) == live == there(root, paths)
