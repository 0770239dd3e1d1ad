"""Finding, showing, verifying and comparing releases."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nodeagent import release
from nodeagent.bake import show, text, verify
from nodeagent.bake.build import Built
from nodeagent.bake.find import Found, find
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from tests.bakery import SYSTEM, Bakery, key, made_up, small, trust


@pytest.fixture
async def baked(tmp_path: Path) -> tuple[Bakery, Built, str]:
    bakery = Bakery(tmp_path / "cache")
    store, root = small(tmp_path / "store")
    return bakery, await bakery.bake(store.part(ds=root)), root


Baked = tuple[Bakery, Built, str]


# Find


def test_a_release_is_found_by_digest_by_its_start_and_by_file(baked: Baked) -> None:
    bakery, built, _ = baked
    digits, cache = built.digest.removeprefix("sha256:"), str(bakery.directory)
    file = bakery.directory / release.manifest_file(built.digest)
    for name, where in [
        (built.digest, cache),
        (digits, bakery.directory.as_uri()),
        (digits[:8], cache),
        (f"sha256:{digits[:8]}", cache),
        (str(file), None),
    ]:
        found = find(name, where)
        assert (found.digest, found.release) == (built.digest, built.release)
        assert found.index is not None


@pytest.mark.parametrize(
    ("name", "cache", "complaint"),
    [
        ("0" * 64, "{cache}", "is not in cache"),
        ("xyz", "{cache}", "'xyz' is no digest"),
        ("00", "{cache}", "no release in"),
        ("00", "file://{cache}", "only a directory can be asked"),
        ("00", None, "no cache is given"),
        ("{cache}/none.json", None, "No such file"),
    ],
)
def test_a_release_that_is_not_there_is_refused_with_how_to_name_one(
    baked: Baked, name: str, cache: str | None, complaint: str
) -> None:
    directory = str(baked[0].directory)
    with pytest.raises(NodeAgentError) as caught:
        find(name.format(cache=directory), cache and cache.format(cache=directory))
    assert caught.value.reason == Reason.MANIFEST_MISSING
    assert complaint in caught.value.message
    assert "name a release by" in caught.value.message


def test_the_start_of_two_digests_is_refused(baked: Baked) -> None:
    bakery, built, _ = baked
    twin = bakery.directory / "releases" / (built.digest.removeprefix("sha256:")[:8] + "0" * 56)
    twin.with_suffix(".json").write_text("{}")
    with pytest.raises(NodeAgentError, match="2 releases"):
        find(built.digest[7:15], str(bakery.directory))


def test_a_manifest_that_is_not_what_it_is_named_is_refused(baked: Baked) -> None:
    bakery, built, _ = baked
    file = bakery.directory / release.manifest_file(built.digest)
    file.write_bytes(file.read_bytes() + b" ")
    for name, cache in [(built.digest, str(bakery.directory)), (str(file), None)]:
        with pytest.raises(NodeAgentError) as caught:
            find(name, cache)
        assert caught.value.reason == Reason.MANIFEST_MISMATCH


# Show


def test_a_release_is_summed_up_by_system(baked: Baked) -> None:
    _, built, root = baked
    found = show.summarise(built.digest, built.release, None)
    system = found.systems[SYSTEM]
    assert (system.paths, system.nar_bytes, system.file_bytes) == (3, built.nar_bytes, None)
    assert system.profiles["ds"].root == root
    assert system.biggest[0].path == made_up("lib-1.0")


def test_with_the_index_it_is_known_what_a_release_takes_when_packed(baked: Baked) -> None:
    bakery, built, _ = baked
    index = find(built.digest, str(bakery.directory)).index
    found = show.summarise(built.digest, built.release, index)
    assert found.systems[SYSTEM].file_bytes == built.file_bytes


def test_a_summary_is_written_for_people(baked: Baked) -> None:
    _, built, root = baked
    told = list(show.lines(show.summarise(built.digest, built.release, None)))
    assert told[0].startswith(f"release {release.digest12(built.digest)}")
    assert told[1].startswith(f"{SYSTEM}: 3 paths, ")
    assert told[2] == f"  ds  env  {root}"


@pytest.mark.parametrize(
    ("count", "written"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_600, "1.0 MB"), (123_456_789, "123 MB"),
     (10**15 * 5, "5000 TB")],
)  # fmt: skip
def test_sizes_are_written_short(count: int, written: str) -> None:
    assert text.size(count) == written


# Verify


def harm_signature(found: Found, root: str) -> Found:
    assert found.index is not None
    location = found.index.paths[root].model_copy(update={"sigs": ("cache-1:AAAA",)})
    index = release.Index(paths={**found.index.paths, root: location})
    return Found(found.digest, found.manifest, found.release, found.cache, index)


def test_a_whole_release_has_no_faults(baked: Baked) -> None:
    bakery, built, _ = baked
    found = find(built.digest, str(bakery.directory))
    for contents in (False, True):
        verified = verify.verify(found, trust(bakery.key), contents=contents)
        assert (verified.paths, verified.faults) == (3, ())
    assert "3 paths, 0 faulty, contents checked" in list(verify.lines(verified))[-1]


def test_without_an_index_the_narinfos_count(baked: Baked) -> None:
    bakery, built, _ = baked
    (bakery.directory / release.index_file(built.digest)).unlink()
    found = find(built.digest, str(bakery.directory))
    assert verify.verify(found, trust(bakery.key), contents=True).faults == ()
    narinfos = sorted(bakery.directory.glob("*.narinfo"))
    narinfos[0].unlink()
    narinfos[1].write_text("junk")
    narinfos[2].write_text(narinfos[2].read_text().replace("NarSize: ", "NarSize: 1"))
    faults = verify.verify(found, trust(bakery.key), contents=False).faults
    problems = " ".join(fault.problem for fault in faults)
    assert len(faults) == 3
    assert "has no narinfo" in problems
    assert "cannot be read" in problems
    assert "differs from the manifest" in problems


def test_every_fault_of_every_path_is_found(baked: Baked) -> None:
    bakery, built, root = baked
    found = find(built.digest, str(bakery.directory))
    assert found.index is not None
    data, library = made_up("data"), made_up("lib-1.0")
    (bakery.directory / found.index.paths[root].url).unlink()
    with (bakery.directory / found.index.paths[data].url).open("ab") as file:
        file.write(b"more")
    (bakery.directory / found.index.paths[library].url).write_bytes(b"")
    faults = verify.verify(harm_signature(found, root), trust(bakery.key), contents=False).faults
    assert [
        (fault.path, fault.problem.partition(" (")[0]) for fault in faults if fault.path == root
    ] == [
        (root, "no valid signature by a trusted key"),
        (root, "its NAR is missing"),
    ]
    assert {fault.path for fault in faults} == {root, data, library}


def test_a_key_that_is_not_trusted_vouches_for_nothing(baked: Baked) -> None:
    bakery, built, _ = baked
    found = find(built.digest, str(bakery.directory))
    stranger = key("stranger", 9)
    faults = verify.verify(found, trust(stranger), contents=False).faults
    assert len(faults) == 3
    assert "(trusted: stranger)" in faults[0].problem


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("harm", [flip, lambda data: bytes(len(data))])
def test_only_the_contents_tell_of_a_flipped_bit(
    baked: Baked, harm: Callable[[bytes], bytes]
) -> None:
    bakery, built, root = baked
    found = find(built.digest, str(bakery.directory))
    assert found.index is not None
    file = bakery.directory / found.index.paths[root].url
    file.write_bytes(harm(file.read_bytes()))
    assert verify.verify(found, trust(bakery.key), contents=False).faults == ()
    (fault,) = verify.verify(found, trust(bakery.key), contents=True).faults
    assert fault.path == root
