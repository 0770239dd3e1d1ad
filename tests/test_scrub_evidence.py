"""The evidence of damage: written before the repair, kept with its tree, bounded at boots."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.store import StoreFiles
from nodeagent.verify import evidence
from tests import nars
from tests.handmade import NOW, TREE, path

OLD: Final = nars.Directory({b"file": nars.File(b"spoilt")})
NAME: Final = path("item")


@pytest.fixture
def files(scratch: Path) -> StoreFiles:
    made = StoreFiles(scratch, durable=False)
    made.claim(share=False)
    return made


def put(tree: nars.Tree, place: Path) -> None:
    nars.write(tree, os.fsencode(place))


def repair(
    files: StoreFiles, name: str = NAME, fault: str | None = "it smells", age: int = 0
) -> Path:
    """Damage a path, note it unless there is no fault, and exchange it; give the tree's place."""
    if not files.real(name).exists():
        put(OLD, files.real(name))
    place = files.displaced_as(name)
    assert place is not None
    if fault is not None:
        evidence.note(files, {name: fault}, NOW - timedelta(days=age))
    put(TREE, files.staged(name))
    files.place([name])
    return place


def left(files: StoreFiles) -> set[Path]:
    return {one for one in files.displaced.iterdir() if one.suffix != evidence.NOTE}


def test_a_displaced_tree_lies_where_it_was_foretold_with_what_was_wrong(files: StoreFiles) -> None:
    put(OLD, files.real(NAME))
    told = evidence.told(files, NAME)
    place = repair(files)
    assert str(place) in told
    assert nars.read(os.fsencode(place)) == OLD
    (one,) = evidence.known(files)
    assert (one.note.path, one.note.fault, one.note.found_at) == (NAME, "it smells", NOW)
    assert one.place == place


def test_what_is_gone_leaves_no_evidence(files: StoreFiles) -> None:
    evidence.note(files, {NAME: "it is gone"}, NOW)
    assert evidence.told(files, NAME) == ""
    assert evidence.known(files) == []


def test_damage_is_noted_once_unless_it_changes(files: StoreFiles) -> None:
    put(OLD, files.real(NAME))
    evidence.note(files, {NAME: "it smells"}, NOW)
    evidence.note(files, {NAME: "it smells"}, NOW + timedelta(days=1))
    assert [one.note.found_at for one in evidence.known(files)] == [NOW]
    evidence.note(files, {NAME: "it rots"}, NOW + timedelta(days=1))
    assert [one.note.fault for one in evidence.known(files)] == ["it rots"]


def test_a_repair_is_listed_with_its_time_until_the_next_boot(files: StoreFiles) -> None:
    put(OLD, files.real(NAME))
    evidence.note(files, {NAME: "it smells"}, NOW)
    assert evidence.repaired_since_boot(files) == []
    before = datetime.now(UTC) - timedelta(seconds=5)
    place = repair(files)
    ((one, at),) = evidence.repaired_since_boot(files)
    assert one.place == place
    assert before < at < datetime.now(UTC) + timedelta(seconds=5)
    evidence.tidy(files, ())
    assert evidence.repaired_since_boot(files) == []
    assert [one.place for one in evidence.known(files)] == [place]


def test_at_a_boot_evidence_stays_and_all_else_that_was_displaced_goes(files: StoreFiles) -> None:
    kept, rubbish = repair(files), repair(files, path("conflict"), fault=None)
    put(nars.File(b"x"), files.displaced / "file")
    (files.displaced / ".note.json.new").touch()
    (files.displaced / "broken.json").write_text("{")
    assert rubbish.exists()
    for _ in range(2):
        evidence.tidy(files, ())
        assert {one.name for one in files.displaced.iterdir()} == {kept.name, f"{kept.name}.json"}


def test_what_still_waits_for_its_repair_keeps_its_note_over_a_boot(files: StoreFiles) -> None:
    put(OLD, files.real(NAME))
    others = [path("collected"), path("mended")]
    for name in others:
        put(OLD, files.real(name))
    evidence.note(files, dict.fromkeys([NAME, *others], "it smells"), NOW)
    files.real(others[0]).rename(files.staging / "elsewhere")
    evidence.tidy(files, {NAME, others[0]})
    assert [one.note.path for one in evidence.known(files)] == [NAME]
    place = repair(files)
    assert [one.place for one, _ in evidence.repaired_since_boot(files)] == [place]


def test_of_many_trees_the_oldest_go(files: StoreFiles) -> None:
    places = [repair(files, path(f"{age}"), age=age) for age in range(evidence.MOST_TREES + 3)]
    evidence.tidy(files, ())
    assert left(files) == set(places[: evidence.MOST_TREES])
    assert len(evidence.known(files)) == evidence.MOST_TREES


def test_of_large_trees_as_many_stay_as_there_is_room_for(
    files: StoreFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = nars.Directory({b"file": nars.File(b"x" * 1_000_000)})
    for name in ("new", "old"):
        put(large, files.real(path(name)))
    new, old = repair(files, path("new"), age=1), repair(files, path("old"), age=2)
    small = repair(files, path("older"), age=3)
    monkeypatch.setattr(evidence, "MOST_BYTES", 1_500_000)
    evidence.tidy(files, ())
    assert left(files) == {new, small}
    assert not old.with_name(f"{old.name}.json").exists()


def test_a_full_disk_is_told_after_rubbish_went(
    files: StoreFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, rubbish = repair(files), repair(files, path("conflict"), fault=None)

    def refuse(_: Path, __: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evidence, "write_file", refuse)
    with pytest.raises(NodeAgentError) as failure:
        evidence.tidy(files, ())
    assert failure.value.reason is Reason.DISK_SHORT
    assert (kept.exists(), rubbish.exists()) == (True, False)
