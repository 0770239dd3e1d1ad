"""What a build leaves in the cache directory, and what it makes of what is there."""

import os
from pathlib import Path

import pytest
import zstandard

from nodeagent import keys, nar, narinfo, release, storepath
from nodeagent.bake.build import Built, Tally, build
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.narinfo import NarInfo
from nodeagent.release import Source
from tests.bakery import SYSTEM, Bakery, Store, key, made_up, small, trust


@pytest.fixture
def bakery(tmp_path: Path) -> Bakery:
    return Bakery(tmp_path / "cache")


def paths_of(built: Built) -> dict[str, release.PathInfo]:
    return dict(built.release.systems[SYSTEM].paths)


def narinfo_of(bakery: Bakery, path: str) -> NarInfo:
    found = bakery.cache.narinfo(path)
    assert found is not None
    return found


def signed(info: NarInfo, *by: keys.SecretKey) -> bool:
    data = keys.fingerprint(info.path, info.nar_hash, info.nar_size, info.references)
    return all(trust(one).verify_texts(info.sigs, data) for one in by)


async def test_every_path_of_the_closure_has_a_signed_narinfo_and_its_nar(
    tmp_path: Path, bakery: Bakery
) -> None:
    store, root = small(tmp_path)
    built = await bakery.bake(store.part(ds=root))
    assert (built.baked, built.reused) == (3, 0)
    assert paths_of(built).keys() == store.registered.keys()
    for path, info in paths_of(built).items():
        found = narinfo_of(bakery, path)
        assert (found.nar_hash, found.nar_size) == (info.nar_hash, info.nar_size)
        assert set(found.references) == set(info.references)
        assert signed(found, bakery.key)
        packed = (bakery.directory / found.url).read_bytes()
        unpacked = zstandard.ZstdDecompressor().decompress(packed)
        assert unpacked == b"".join(nar.dump(os.fsencode(store.real(path))))


async def test_the_index_says_what_the_narinfos_say(tmp_path: Path, bakery: Bakery) -> None:
    store, root = small(tmp_path)
    built = await bakery.bake(store.part(ds=root))
    file = bakery.directory / release.index_file(built.digest)
    index = release.parse_index(file.read_bytes())
    assert index.paths.keys() == paths_of(built).keys()
    for path, location in index.paths.items():
        found = narinfo_of(bakery, path)
        assert location.model_dump() == {
            "url": found.url,
            "compression": "zstd",
            "file_hash": found.file_hash,
            "file_size": (bakery.directory / found.url).stat().st_size,
            "sigs": found.sigs,
        }


async def test_the_manifest_is_named_by_its_digest_and_can_be_read(
    tmp_path: Path, bakery: Bakery
) -> None:
    store, root = small(tmp_path)
    built = await bakery.bake(store.part(ds=root))
    manifest = (bakery.directory / release.manifest_file(built.digest)).read_bytes()
    assert release.parse(manifest, built.digest) == built.release
    assert built.release.systems[SYSTEM].profiles["ds"].root == root


async def test_nix_is_told_whose_store_the_cache_is_for(tmp_path: Path, bakery: Bakery) -> None:
    store, root = small(tmp_path)
    await bakery.bake(store.part(ds=root))
    told = (bakery.directory / "nix-cache-info").read_text()
    assert told == "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n"


async def test_the_same_inputs_give_the_same_digest_whatever_the_key(tmp_path: Path) -> None:
    one, root = small(tmp_path / "one")
    other, _ = small(tmp_path / "other")
    first = await Bakery(tmp_path / "a").bake(one.part(ds=root))
    second = await Bakery(tmp_path / "b", key("cache-2", 2)).bake(other.part(ds=root))
    assert first.manifest == second.manifest


async def test_the_same_inputs_and_key_give_the_same_files(tmp_path: Path) -> None:
    store, root = small(tmp_path / "store")
    bakeries = [Bakery(tmp_path / "a"), Bakery(tmp_path / "b")]
    for bakery in bakeries:
        await bakery.bake(store.part(ds=root))
    contents = [
        {name: (bakery.directory / name).read_bytes() for name in bakery.visible()}
        for bakery in bakeries
    ]
    assert contents[0] == contents[1]


async def test_the_source_is_part_of_the_release(tmp_path: Path, bakery: Bakery) -> None:
    store, root = small(tmp_path)
    plain = await bakery.bake(store.part(ds=root))
    named = await build([store.part(ds=root)], bakery.means, Source(flake="github:x/y", rev="1"))
    assert named.release.source.rev == "1"
    assert named.digest != plain.digest
    assert named.baked == 0


async def test_what_did_not_change_is_neither_packed_nor_written_again(
    tmp_path: Path, bakery: Bakery
) -> None:
    store, root = small(tmp_path)
    first = await bakery.bake(store.part(ds=root))
    again = await bakery.bake(store.part(ds=root))
    assert (again.digest, again.baked, again.reused) == (first.digest, 0, 3)
    assert again.narinfos_written == 0
    assert again.file_bytes == first.file_bytes


async def test_a_new_version_packs_only_what_is_new(tmp_path: Path, bakery: Bakery) -> None:
    store, root = small(tmp_path)
    await bakery.bake(store.part(ds=root))
    store, root = small(tmp_path, "2")
    built = await bakery.bake(store.part(ds=root))
    assert (built.baked, built.reused) == (1, 2)


@pytest.mark.parametrize("harm", [Path.unlink, lambda file: os.truncate(file, 1)])
async def test_a_nar_that_is_gone_or_cut_is_packed_again(
    tmp_path: Path, bakery: Bakery, harm: object
) -> None:
    store, root = small(tmp_path)
    await bakery.bake(store.part(ds=root))
    assert callable(harm)
    harm(bakery.directory / narinfo_of(bakery, root).url)
    built = await bakery.bake(store.part(ds=root))
    assert (built.baked, built.reused) == (1, 2)


async def test_a_narinfo_that_cannot_be_read_is_made_anew(tmp_path: Path, bakery: Bakery) -> None:
    store, root = small(tmp_path)
    await bakery.bake(store.part(ds=root))
    (bakery.directory / f"{storepath.hash_part(root)}.narinfo").write_text("")
    built = await bakery.bake(store.part(ds=root))
    assert (built.baked, built.narinfos_written) == (1, 1)


async def test_a_new_key_signs_anew_and_keeps_what_others_signed(
    tmp_path: Path, bakery: Bakery
) -> None:
    store, root = small(tmp_path)
    await bakery.bake(store.part(ds=root))
    rotated = Bakery(bakery.directory, key("cache-2", 2))
    built = await rotated.bake(store.part(ds=root))
    assert (built.baked, built.narinfos_written) == (0, 3)
    assert signed(narinfo_of(bakery, root), bakery.key, rotated.key)


async def test_a_signature_by_a_lost_key_of_the_same_name_is_replaced(
    tmp_path: Path, bakery: Bakery
) -> None:
    store, root = small(tmp_path)
    await bakery.bake(store.part(ds=root))
    renewed = Bakery(bakery.directory, key("cache-1", 2))
    await renewed.bake(store.part(ds=root))
    found = narinfo_of(bakery, root)
    assert signed(found, renewed.key)
    assert len(found.sigs) == 1


async def test_a_signature_over_other_references_is_dropped(tmp_path: Path, bakery: Bakery) -> None:
    store, root = small(tmp_path)
    await Bakery(bakery.directory, key("other", 2)).bake(store.part(ds=root))
    store.registered[root]["references"].remove(root)
    store.save()
    await bakery.bake(store.part(ds=root))
    found = narinfo_of(bakery, root)
    assert [sig.partition(":")[0] for sig in found.sigs] == ["cache-1"]
    assert signed(found, bakery.key)


async def test_signatures_that_the_store_has_are_passed_on(tmp_path: Path, bakery: Bakery) -> None:
    store = Store(tmp_path)
    root = store.add("env", {"bin/x": b""}, sigs=["upstream:c2ln"])
    await bakery.bake(store.part(ds=root))
    assert "upstream:c2ln" in narinfo_of(bakery, root).sigs


async def test_a_path_with_other_contents_takes_the_narinfo_and_leaves_the_old_release_whole(
    tmp_path: Path, bakery: Bakery
) -> None:
    store, root = small(tmp_path)
    old = await bakery.bake(store.part(ds=root))
    (store.real(root) / "version").write_bytes(b"another")
    store.register(root, store.registered[root]["references"])
    new = await bakery.bake(store.part(ds=root))
    assert new.baked == 1
    assert narinfo_of(bakery, root).nar_hash == paths_of(new)[root].nar_hash
    index = release.parse_index((bakery.directory / release.index_file(old.digest)).read_bytes())
    assert (bakery.directory / index.paths[root].url).exists()


async def test_two_systems_share_a_release_and_the_paths_that_are_alike(
    tmp_path: Path, bakery: Bakery
) -> None:
    one, one_root = small(tmp_path / "one")
    other = Store(tmp_path / "other")
    data = other.add("data", b"data\n")
    other_root = other.add("env-arm", {"bin/run": b"arm"}, [data])
    arm = "aarch64-linux"
    built = await bakery.bake(one.part(ds=one_root), other.part(arm, ds=other_root))
    assert built.baked == 4
    assert built.release.systems[arm].paths.keys() == {data, other_root}
    assert built.release.systems[arm].profiles["ds"].root == other_root


async def test_narinfos_appear_after_those_they_refer_to(tmp_path: Path, bakery: Bakery) -> None:
    store = Store(tmp_path)
    chain = [store.add("p0", b"0")]
    for number in range(1, 30):
        chain.append(store.add(f"p{number}", os.urandom(1000), chain[-3:]))

    def closed(_: Tally) -> None:
        for file in bakery.directory.glob("*.narinfo"):
            info = narinfo.parse(file.read_text())
            assert (bakery.directory / info.url).exists()
            assert all(bakery.cache.narinfo(reference) for reference in info.references)
        assert not list((bakery.directory / "releases").iterdir())

    built = await build([store.part(ds=chain[-1])], bakery.means, on_progress=closed)
    assert built.baked == 30


async def test_progress_ends_where_everything_is_counted(tmp_path: Path, bakery: Bakery) -> None:
    store, root = small(tmp_path)
    store.add("big", os.urandom(3 << 20))
    told: list[Tally] = []
    await build(
        [store.part(ds=root, big=made_up("big"))],
        bakery.means,
        on_progress=lambda tally: told.append(Tally(**vars(tally))),
    )
    assert told[0].bytes_done == 0
    assert (told[-1].paths_done, told[-1].bytes_done) == (told[-1].paths, told[-1].bytes)
    assert [tally.bytes_done for tally in told] == sorted(tally.bytes_done for tally in told)


async def test_a_profile_that_no_release_can_have_is_refused(
    tmp_path: Path, bakery: Bakery
) -> None:
    store, root = small(tmp_path)
    with pytest.raises(NodeAgentError, match="reserved profile name: uv") as caught:
        await bakery.bake(store.part(uv=root))
    assert caught.value.reason == Reason.SETTING_INVALID
