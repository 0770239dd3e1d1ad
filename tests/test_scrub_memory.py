"""What the scrub remembers, and what is left of it when the file is spoilt or the disk full."""

import os
from pathlib import Path
from typing import Final

import pytest

from nodeagent.verify.memory import STALE_LINES, Memory, Read
from tests.handmade import path
from tests.scrubbing import CONTENTS

ONE, TWO, THREE = CONTENTS
NEVER: Final = path("never")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "scrub.txt"


def test_a_new_file_remembers_nothing(file: Path) -> None:
    memory = Memory(file)
    assert (memory.get(ONE.path), memory.rests, memory.round) == (None, None, None)
    assert not file.exists()


def test_what_was_noted_is_known_to_the_next_one(file: Path) -> None:
    memory = Memory(file)
    memory.note([ONE, TWO], 100)
    memory.note([ONE], 200)
    memory.rest(300.5)
    memory.begin_round(150)
    again = Memory(file)
    assert again.get(ONE.path) == Read(200, ONE.info.nar_size)
    assert again.get(TWO.path) == Read(100, TWO.info.nar_size)
    assert again.get(NEVER) is None
    assert (again.rests, again.round) == (300.5, 150)


def test_each_step_adds_a_line_and_rewrites_none(file: Path) -> None:
    memory = Memory(file)
    memory.note(CONTENTS, 100)
    before, inode = file.read_bytes(), file.stat().st_ino
    memory.note([TWO], 200)
    assert file.read_bytes().startswith(before)
    assert len(file.read_bytes()) - len(before) < 60
    assert file.stat().st_ino == inode


def test_a_line_that_a_power_cut_took_half_of_is_one_content_read_once_more(file: Path) -> None:
    Memory(file).note([ONE, TWO], 100)
    os.truncate(file, file.stat().st_size - 10)
    torn = Memory(file)
    assert torn.get(ONE.path) is not None
    torn.note([THREE], 200)
    assert torn.get(TWO.path) is None
    again = Memory(file)
    assert again.get(THREE.path) == Read(200, THREE.info.nar_size)
    assert again.get(ONE.path) is not None


@pytest.mark.parametrize(
    "text", ["", "\n", "nonsense\n", "0" * 40, "\x00" * 4096, "owed 5\n", "rests soon\nround x\n"]
)
def test_a_file_of_nonsense_is_no_memory_and_no_obstacle(file: Path, text: str) -> None:
    file.write_text(text)
    memory = Memory(file)
    assert (memory.rests, memory.round, memory.owed) == (None, None, "")
    memory.note([ONE], 100)
    memory.rest(7.0)
    assert (Memory(file).get(ONE.path), Memory(file).rests) == (Read(100, ONE.info.nar_size), 7)


def test_what_is_owed_is_all_that_was_not_read_since(file: Path) -> None:
    memory = Memory(file)
    memory.note([ONE], 5000)  # by a clock that was ahead
    memory.owe("boot-2", 1000)
    memory.note([TWO], 1000)
    for one in (memory, Memory(file)):
        one.owe("boot-2", 2000)  # a restart: it began before
        assert [one.is_owed(path) for path in (ONE.path, TWO.path, THREE.path)] == [
            True,
            False,
            True,
        ]
    memory.owe("boot-3", 3000)
    assert memory.is_owed(TWO.path)


def test_stale_lines_go_and_what_is_on_disk_stays(file: Path) -> None:
    memory = Memory(file)
    memory.note([ONE, TWO], 100)
    for number in range(STALE_LINES):
        memory.rest(float(number))
    memory.begin_round(50)
    memory.owe("boot-1", 60)
    for number in range(STALE_LINES + 10):
        memory.rest(float(number))
    memory.tidy([ONE.path])
    assert len(file.read_text().splitlines()) == 4
    again = Memory(file)
    assert again.get(ONE.path) is not None
    assert again.get(TWO.path) is None
    assert (again.rests, again.round, again.owed) == (STALE_LINES + 9, 50, "boot-1")


def test_a_file_that_is_mostly_of_use_is_left_alone(file: Path) -> None:
    memory = Memory(file)
    memory.note(CONTENTS, 100)
    inode = file.stat().st_ino
    memory.tidy([one.path for one in CONTENTS])
    assert file.stat().st_ino == inode


def test_a_disk_that_takes_nothing_costs_memory_across_a_restart_alone(file: Path) -> None:
    memory = Memory(file)
    file.mkdir()
    memory.note([ONE], 100)
    memory.owe("boot-1", 200)
    assert memory.get(ONE.path) == Read(100, ONE.info.nar_size)
