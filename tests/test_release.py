import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent import release
from nodeagent.errors import NodeAgentError
from nodeagent.names import RESERVED_PROFILES, Kind, Reason
from nodeagent.release import PathInfo, Profile, Release, Source, System, references_first
from tests import graphs
from tests.handmade import path

SYSTEM = "x86_64-linux"
ROOT = graphs.path(1)


def a_release(**source: str) -> Release:
    paths = {ROOT: graphs.info(1, (ROOT, graphs.path(0))), graphs.path(0): graphs.info(0)}
    profiles = {"ds": Profile(root=ROOT)}
    systems = {SYSTEM: System(profiles=profiles, paths=paths)}
    return Release(source=Source.model_validate(source), systems=systems)


def changed(*keys: str, to: Any) -> bytes:  # noqa: ANN401 any JSON
    """Give a good manifest with one place changed."""
    document = json.loads(a_release().canonical())
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    return json.dumps(document).encode()


def refused(manifest: bytes) -> NodeAgentError:
    with pytest.raises(NodeAgentError) as refusal:
        release.parse(manifest, release.digest_of(manifest))
    return refusal.value


@given(graphs.dags(), st.data())
def test_a_release_has_one_digest_whatever_the_order(
    paths: dict[str, PathInfo], data: st.DataObject
) -> None:
    shuffled = {
        at: paths[at].model_copy(
            update={"references": tuple(data.draw(st.permutations(paths[at].references)))}
        )
        for at in data.draw(st.permutations(list(paths)))
    }
    shuffled = {at: PathInfo(**dict(one)) for at, one in shuffled.items()}
    one = Release(systems={"a": graphs.system(paths), "b": graphs.system({})})
    two = Release(systems={"b": graphs.system({}), "a": graphs.system(shuffled)})
    assert one.canonical() == two.canonical()


def test_references_are_a_set() -> None:
    info = graphs.info(1, (graphs.path(2), graphs.path(0), graphs.path(2)))
    assert info.references == tuple(sorted({graphs.path(0), graphs.path(2)}))


@given(graphs.dags())
def test_canonical_bytes_are_read_back(paths: dict[str, PathInfo]) -> None:
    one = Release(source=Source(flake="gitéa"), systems={SYSTEM: graphs.system(paths)})
    manifest = one.canonical()
    assert release.parse(manifest, release.digest_of(manifest)) == one
    assert release.parse(manifest, release.digest_of(manifest)).canonical() == manifest


def test_canonical_bytes_are_sorted_tight_utf8_with_nothing_of_time_or_key() -> None:
    manifest = a_release(flake="gitéa").canonical()
    document = json.loads(manifest)
    tight = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert manifest == tight.encode()
    assert sorted(document) == ["apiVersion", "kind", "source", "systems"]
    assert sorted(document["source"]) == ["flake", "lockDigest", "rev"]
    assert sorted(document["systems"][SYSTEM]) == ["paths", "profiles"]
    facts = ["ca", "deriver", "narHash", "narSize", "references"]
    assert sorted(document["systems"][SYSTEM]["paths"][ROOT]) == facts


def test_a_digest_is_the_sha256_of_the_bytes() -> None:
    digest = release.digest_of(b"abc")
    assert digest == f"sha256:{hashlib.sha256(b'abc').hexdigest()}"
    assert release.digest12(digest) == "ba7816bf8f01"
    assert release.manifest_file(digest) == f"releases/{digest[7:]}.json"
    assert release.index_file(digest) == f"releases/{digest[7:]}.index"


def test_another_manifest_than_the_digests_is_refused_unread() -> None:
    with pytest.raises(NodeAgentError, match="has digest") as refusal:
        release.parse(b"not even JSON", release.digest_of(a_release().canonical()))
    assert refusal.value.reason is Reason.MANIFEST_MISMATCH


@pytest.mark.parametrize(
    "manifest",
    [
        *(b"", b"{}", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000),
        changed("apiVersion", to="nodeagent.dev/v2"),
        changed("kind", to="Pins"),
        changed("surprise", to=1),
        changed("source", "lockDigest", to="md5:0"),
        changed("systems", SYSTEM, "surprise", to=1),
        changed("systems", SYSTEM, "profiles", "Ds", to={"root": ROOT}),
        changed("systems", SYSTEM, "profiles", "../x", to={"root": ROOT}),
        changed("systems", SYSTEM, "profiles", "d" * 41, to={"root": ROOT}),
        changed("systems", SYSTEM, "profiles", "ds", to={"root": f"{ROOT}/bin"}),
        changed("systems", SYSTEM, "profiles", "ds", to={"root": ROOT, "kind": "image"}),
        changed("systems", SYSTEM, "paths", "/etc/passwd", to={"narHash": "", "narSize": 1}),
        changed("systems", SYSTEM, "paths", ROOT, "narSize", to=-1),
        changed("systems", SYSTEM, "paths", ROOT, "narSize", to="1"),
        changed("systems", SYSTEM, "paths", ROOT, "narSize", to=1.0),
        changed("systems", SYSTEM, "paths", ROOT, "narSize", to=True),
        changed("systems", SYSTEM, "paths", ROOT, "narSize", to=1 << 63),
        changed("systems", SYSTEM, "paths", ROOT, "narHash", to=f"sha256:{'z' * 52}"),
        changed("systems", SYSTEM, "paths", ROOT, "narHash", to=f"sha256:{'0' * 64}"),
        changed("systems", SYSTEM, "paths", ROOT, "references", to=["../x"]),
        changed("systems", SYSTEM, "paths", ROOT, "deriver", to=f"{ROOT}\n"),
    ],
)
def test_a_malformed_manifest_is_refused_in_one_sentence(manifest: bytes) -> None:
    refusal = refused(manifest)
    assert refusal.reason is Reason.MANIFEST_INVALID
    assert refusal.message.startswith("release ")
    assert "\n" not in refusal.message


@pytest.mark.parametrize("name", sorted(RESERVED_PROFILES))
def test_a_reserved_profile_name_is_refused(name: str) -> None:
    refusal = refused(changed("systems", SYSTEM, "profiles", name, to={"root": ROOT}))
    assert f"reserved profile name: {name}" in refusal.message


@given(st.binary(max_size=300))
def test_noise_is_refused_as_a_manifest_and_as_an_index(noise: bytes) -> None:
    assert refused(noise).reason is Reason.MANIFEST_INVALID
    with pytest.raises(NodeAgentError) as refusal:
        release.parse_index(noise)
    assert refusal.value.reason is Reason.MANIFEST_INVALID


def test_a_profile_is_an_env_unless_it_says_otherwise() -> None:
    assert Profile(root=ROOT).kind is Kind.ENV


@given(graphs.graphs(), st.sets(st.integers(0, 9), max_size=3))
def test_missing_is_what_is_named_but_not_described(
    paths: dict[str, PathInfo], roots: set[int]
) -> None:
    profiles = {f"p{root}": Profile(root=graphs.path(root)) for root in roots}
    named = {profile.root for profile in profiles.values()}
    named |= {ref for info in paths.values() for ref in info.references}
    missing = System(profiles=profiles, paths=paths).missing()
    assert set(missing) == {one for one in named if one not in paths}
    assert list(missing) == sorted(missing)


@given(graphs.dags())
def test_a_complete_closure_misses_nothing(paths: dict[str, PathInfo]) -> None:
    assert graphs.system(paths).missing() == ()


@pytest.mark.parametrize("lacking", [1, 20, 21, 200])
def test_an_incomplete_closure_is_refused_naming_what_it_lacks(lacking: int) -> None:
    references = tuple(graphs.path(number) for number in range(2, 2 + lacking))
    paths = {ROOT: graphs.info(1, references)}
    system = System(profiles={"ds": Profile(root=ROOT)}, paths=paths)
    refusal = refused(Release(systems={SYSTEM: system}).canonical())
    assert refusal.reason is Reason.CLOSURE_INCOMPLETE
    assert f"lacks {lacking} store paths" in refusal.message
    assert sum(one in refusal.message for one in references) == min(lacking, 20)


def test_a_system_is_picked_by_name_or_refused_naming_the_others() -> None:
    one = a_release()
    assert release.for_system(one, SYSTEM) is one.systems[SYSTEM]
    with pytest.raises(NodeAgentError, match="only x86_64-linux") as refusal:
        release.for_system(one, "aarch64-linux")
    assert refusal.value.reason is Reason.SYSTEM_MISSING
    with pytest.raises(NodeAgentError, match="only nothing"):
        release.for_system(Release(systems={}), SYSTEM)


def test_a_systems_size_is_that_of_all_its_nars() -> None:
    assert a_release().systems[SYSTEM].size == 1 + 2


@given(graphs.dags())
def test_references_come_first(paths: dict[str, PathInfo]) -> None:
    order = list(references_first(paths))
    at = {one: position for position, one in enumerate(order)}
    assert sorted(order) == sorted(paths)
    for one, info in paths.items():
        assert all(at[reference] <= at[one] for reference in info.references)


@given(graphs.graphs(), st.randoms())
def test_every_path_comes_once_in_an_order_of_its_own(
    paths: dict[str, PathInfo],
    random: Any,  # noqa: ANN401 Hypothesis' own Random
) -> None:
    items = list(paths.items())
    random.shuffle(items)
    order = list(references_first(paths))
    assert sorted(order) == sorted(paths)
    assert list(references_first(dict(items))) == order


def test_a_long_chain_needs_no_deep_stack() -> None:
    names = [f"/nix/store/{'0' * 32}-{number:05}" for number in range(20_000)]
    info = graphs.info(0)
    paths = {
        name: info.model_copy(update={"references": names[at + 1 : at + 2]})
        for at, name in enumerate(names)
    }
    assert list(references_first(paths)) == names[::-1]


@given(graphs.dags())
def test_a_closure_is_what_its_root_reaches(paths: dict[str, PathInfo]) -> None:
    for root in paths:
        reached = release.closure(paths, root)
        assert root in reached
        for one in reached:
            assert reached >= set(paths[one].references)
        for one in reached - {root}:
            assert any(one in paths[other].references for other in reached - {one})


def test_an_index_is_read_and_may_lack_paths() -> None:
    where = {"url": "nar/x.nar.zst", "compression": "zstd", "fileSize": 1, "sigs": ["a:b"]}
    where["fileHash"] = graphs.info(1).nar_hash
    index = release.parse_index(json.dumps({"paths": {ROOT: where}}).encode())
    assert index.paths[ROOT].sigs == ("a:b",)
    assert release.parse_index(b'{"paths":{}}').paths == {}


def test_profiles_that_other_systems_have_are_told_with_those_systems() -> None:
    def part(*profiles: str) -> System:
        return System(profiles={name: Profile(root=path(name)) for name in profiles}, paths={})

    both = Release(
        source=Source(), systems={"x86_64-linux": part("ds"), "aarch64-linux": part("ds", "ml")}
    )
    assert release.elsewhere(both, "x86_64-linux") == {"ml": ("aarch64-linux",)}
    assert release.elsewhere(both, "aarch64-linux") == {}
    assert release.elsewhere(both, "riscv64-linux") == {
        "ds": ("aarch64-linux", "x86_64-linux"),
        "ml": ("aarch64-linux",),
    }
