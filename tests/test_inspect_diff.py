"""What changes from one release to another, in words."""

from collections.abc import Mapping

import pytest

from nodeagent.bake import diff
from nodeagent.release import PathInfo, Profile, Release, System
from tests.bakery import SYSTEM, made_up

HASH = "sha256:" + "0" * 52
OTHER_HASH = "sha256:" + "1" * 52


def manifest(paths: Mapping[str, PathInfo], system: str = SYSTEM, **profiles: str) -> Release:
    named = {name: Profile(root=root) for name, root in profiles.items()}
    return Release(systems={system: System(profiles=named, paths=paths)})


def info(size: int = 100, nar_hash: str = HASH) -> PathInfo:
    return PathInfo(nar_hash=nar_hash, nar_size=size)


def compare(old: Release, new: Release) -> diff.Diff:
    return diff.diff(("sha256:" + "a" * 64, old), ("sha256:" + "b" * 64, new), None)


def test_releases_that_are_alike_have_nothing_to_say() -> None:
    one = manifest({made_up("a-1"): info()}, ds=made_up("a-1"))
    assert list(diff.lines(compare(one, one)))[1:] == [f"{SYSTEM}: nothing changes"]


def test_a_package_in_another_version_is_a_change_and_not_two() -> None:
    old, new = made_up("numpy-2.3.1"), made_up("numpy-2.4.0")
    found = compare(manifest({old: info()}, ds=old), manifest({new: info(2000)}, ds=new))
    system = found.systems[SYSTEM]
    assert system.changed == (diff.Change(name="numpy", old=("2.3.1",), new=("2.4.0",)),)
    assert (system.added, system.removed, system.profiles_moved) == ((), (), ("ds",))
    assert list(diff.lines(found))[1:] == [
        f"{SYSTEM}: 1 path to fetch, 2.0 kB",
        "  profile ds moved",
        "  ~ numpy 2.3.1 → 2.4.0",
    ]


def test_a_package_that_was_only_rebuilt_is_called_so() -> None:
    old = made_up("numpy-2.3")
    new = old.replace(old[11:43], "0" * 32)
    found = compare(manifest({old: info()}), manifest({new: info()}))
    assert "  ~ numpy 2.3 rebuilt" in list(diff.lines(found))


def test_the_same_path_with_other_contents_is_fetched_and_named() -> None:
    path = made_up("numpy-2.3")
    found = compare(manifest({path: info()}), manifest({path: info(7, OTHER_HASH)}))
    assert found.systems[SYSTEM].rewritten == (path,)
    assert found.systems[SYSTEM].fetch_nar_bytes == 7
    assert any("numpy-2.3 has other contents" in line for line in diff.lines(found))


def test_what_came_and_what_went_is_listed() -> None:
    gone, come, kept = made_up("gone-1"), made_up("come-1"), made_up("kept")
    old = manifest({gone: info(), kept: info()}, a=kept, b=gone)
    new = manifest({come: info(), kept: info()}, a=kept, c=come)
    system = compare(old, new).systems[SYSTEM]
    assert (system.added, system.removed) == ((come,), (gone,))
    assert (system.profiles_added, system.profiles_removed) == (("c",), ("b",))
    told = "\n".join(diff.lines(compare(old, new)))
    assert "profile b removed" in told
    assert f"- {gone[11:]}" in told


def test_a_release_that_only_loses_paths_fetches_nothing() -> None:
    one, other = made_up("one-1"), made_up("other-1")
    found = compare(manifest({one: info(), other: info()}), manifest({one: info()}))
    assert f"{SYSTEM}: nothing to fetch" in list(diff.lines(found))


def test_a_system_that_only_one_release_has_differs_in_everything() -> None:
    path = made_up("a-1")
    found = compare(manifest({}), manifest({path: info()}, "aarch64-linux", ds=path))
    assert found.systems["aarch64-linux"].added == (path,)
    assert found.systems["aarch64-linux"].profiles_added == ("ds",)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("numpy-2.3", ("numpy", "2.3")),
        ("python3.11-numpy-2.3", ("python3.11-numpy", "2.3")),
        ("ds", ("ds", "")),
        ("ds-env", ("ds-env", "")),
        ("glibc-2.38-bin", ("glibc", "2.38-bin")),
        ("libgcc-s1", ("libgcc-s1", "")),
    ],
)
def test_a_store_path_is_split_as_nix_splits_names(name: str, expected: tuple[str, str]) -> None:
    assert diff.package(made_up(name)) == expected
