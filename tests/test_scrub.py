import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent import messages, process
from nodeagent.verify import worker
from nodeagent.verify.scrub import WORKER
from nodeagent.verify.worker import (
    Event,
    Hashed,
    Job,
    Misshapen,
    Progress,
    Unreadable,
    hash_tree,
)
from tests import nars
from tests.handmade import Item
from tests.scrubbing import CONTENTS, ITEMS, MORTAL, Bench, stocked

# A worker that comes upon another tree than it began with, and then finds what it was told.
EXCHANGING: Final = """
import json, os, sys
for line in sys.stdin:
    tree = json.loads(line)["tree"]
    found = {"is": "Hashed", "nar_hash": sys.argv[1], "nar_size": int(sys.argv[2])}
    if not os.path.exists(tree + ".old"):
        print(json.dumps({"is": "Progress", "bytes": 10}), flush=True)
        os.rename(tree, tree + ".old")
        os.mkdir(tree)
        found = {"is": "Unreadable", "fault": "torn"}
    print(json.dumps(found), flush=True)
"""

EVENTS = st.one_of(
    st.builds(Progress, st.integers(0)),
    st.builds(Hashed, st.text(), st.integers(0)),
    st.builds(Unreadable, st.text()),
    st.builds(Misshapen, st.text()),
)


@given(st.builds(Job, st.text(), st.none() | st.floats(1, 1e12)), EVENTS)
def test_messages_arrive_as_they_were_sent_on_one_line(job: Job, event: Event) -> None:
    assert messages.decode(messages.encode(job), Job) == job
    assert worker.read_event(messages.encode(event)) == event
    assert messages.encode(job).count(b"\n") == messages.encode(event).count(b"\n") == 1


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.path[44:])
def test_a_tree_is_hashed_as_it_is(scratch: Path, item: Item) -> None:
    nars.write(item.tree, os.fsencode(scratch / "tree"))
    found = hash_tree(Job(str(scratch / "tree")), lambda _: None)
    assert found == Hashed(item.info.nar_hash, item.info.nar_size)


def test_a_tree_that_is_gone_or_no_tree_is_told(scratch: Path) -> None:
    os.mkfifo(scratch / "pipe")
    for name, kind in (("pipe", Misshapen), ("nowhere", Unreadable)):
        found = hash_tree(Job(str(scratch / name)), lambda _: None)
        assert isinstance(found, kind)
        assert name in found.fault


def test_a_tree_that_shrinks_while_it_is_read_is_told(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nars.write(nars.File(b"x" * 1000), os.fsencode(scratch / "tree"))
    monkeypatch.setattr(os, "read", lambda *_: b"")
    found = hash_tree(Job(str(scratch / "tree")), lambda _: None)
    assert isinstance(found, Unreadable)
    assert "shrank" in found.fault


def test_a_slow_tree_is_paced_and_tells_how_far_it_is(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, said = [0.0], list[Progress]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    tree = nars.File(b"x" * 2_000_000)
    nars.write(tree, os.fsencode(scratch / "tree"))
    found = hash_tree(Job(str(scratch / "tree"), bytes_per_second=100_000), said.append)
    assert isinstance(found, Hashed)
    assert now[0] == pytest.approx(found.nar_size / 100_000)
    assert len(said) > 1
    assert sum(one.bytes for one in said) <= found.nar_size


async def test_ctrl_c_is_the_agents_business(scratch: Path) -> None:
    async with process.started(WORKER, stderr=None) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for _ in range(2):
            child.stdin.write(messages.encode(Job(str(scratch / "nowhere"))))
            assert isinstance(worker.read_event(await child.stdout.readline()), Unreadable)
            child.send_signal(signal.SIGINT)
        child.stdin.close()
        assert await child.wait() == 0


@pytest.fixture
def bench(scratch: Path) -> Bench:
    return stocked(scratch)


async def test_whole_contents_are_all_read_and_judged_whole(bench: Bench) -> None:
    scrub = bench.scrub()
    assert await scrub.run(CONTENTS) == []
    assert bench.judged == dict.fromkeys((item.path for item in ITEMS), None)
    assert scrub.tally.bytes_done == scrub.tally.bytes_total == sum(len(it.nar) for it in ITEMS)
    assert (scrub.tally.paths_done, scrub.tally.paths_total, scrub.tally.damaged) == (3, 3, 0)


@pytest.mark.parametrize("item", ITEMS[:2], ids=lambda item: item.path[44:])
async def test_a_flipped_byte_is_found(bench: Bench, item: Item) -> None:
    bench.flip(item)
    scrub = bench.scrub(bytes_per_second=1e9)
    await scrub.run(CONTENTS)
    faults = {name: fault for name, fault in bench.judged.items() if fault}
    assert faults.keys() == {item.path}
    assert item.info.nar_hash in faults[item.path].text
    assert faults[item.path].of_contents
    assert scrub.tally.damaged == 1


async def test_a_path_that_is_gone_is_damaged(bench: Bench) -> None:
    bench.files.real(ITEMS[2].path).unlink()
    await bench.scrub().run(CONTENTS)
    assert bench.judged[ITEMS[2].path]


async def test_nothing_to_read_starts_nobody(bench: Bench) -> None:
    assert await bench.scrub(worker=["/nowhere"]).run([]) == []


async def test_a_path_whose_worker_died_is_unread_and_the_others_are_read(bench: Bench) -> None:
    scrub = bench.scrub(worker=MORTAL)
    assert await scrub.run(CONTENTS) == [ITEMS[1].path]
    assert bench.judged.keys() == {ITEMS[0].path, ITEMS[2].path}
    assert scrub.tally.bytes_done == scrub.tally.bytes_total - len(ITEMS[1].nar)


async def test_no_path_is_begun_while_a_pass_pours(bench: Bench) -> None:
    task = None
    async with bench.pause:
        task = asyncio.create_task(bench.scrub().run(CONTENTS))
        await asyncio.sleep(0.3)
        assert not bench.judged
    await task
    assert len(bench.judged) == 3


async def test_a_cancelled_scrub_ends_its_workers(bench: Bench) -> None:
    async with bench.pause:
        task = asyncio.create_task(bench.scrub().run(CONTENTS))
        await asyncio.sleep(0.1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert task.cancelled()
    assert not bench.judged


HELLO: Final = "bin/hello"


def swap(bench: Bench, place: Path) -> None:
    """Change two bytes of a file so that its size and all else stay."""
    bench.flip(ITEMS[0])


def truncate(bench: Bench, place: Path) -> None:
    (place / HELLO).chmod(0o755)
    os.truncate(place / HELLO, 5)
    (place / HELLO).chmod(0o555)


def inside(directory: Path, change: Callable[[], object]) -> None:
    """Change what is in a directory, and leave its mode as it was."""
    directory.chmod(0o755)
    change()
    directory.chmod(0o555)


def miss(bench: Bench, place: Path) -> None:
    inside(place, (place / "link").unlink)


def add(bench: Bench, place: Path) -> None:
    def made() -> None:
        (place / "extra").touch(0o444)
        (place / "extra").chmod(0o444)

    inside(place, made)


def rename(bench: Bench, place: Path) -> None:
    inside(place, lambda: (place / "link").rename(place / "kink"))


def relink(bench: Bench, place: Path) -> None:
    def made() -> None:
        (place / "link").unlink()
        (place / "link").symlink_to("bin/holla")

    inside(place, made)


def mode(number: int, name: str = HELLO) -> Callable[[Bench, Path], None]:
    return lambda bench, place: (place / name).chmod(number)


DAMAGE: Final[dict[str, tuple[Callable[[Bench, Path], None], str]]] = {
    "a flipped bit": (swap, "hash to"),
    "truncation": (truncate, "bytes instead of"),
    "a missing file": (miss, "bytes instead of"),
    "an extra file": (add, "bytes instead of"),
    "another name": (rename, "hash to"),
    "another target of a link": (relink, "hash to"),
    "a file that lost its x": (mode(0o444), "bytes instead of"),
    "a file that anybody may write": (mode(0o777), "mode 0777"),
    "a file that its owner may write": (mode(0o755), "mode 0755"),
    "a file that nobody may read": (mode(0o111), "mode 0111"),
    "setuid": (mode(0o4555), "mode 4555"),
    "a directory that its owner may write": (mode(0o755, "empty"), "mode drwxr-xr-x"),
    "a top directory that anybody may write": (mode(0o777, "."), "mode drwxrwxrwx"),
}


@pytest.mark.parametrize("kind", DAMAGE)
async def test_each_kind_of_damage_is_found_and_named(bench: Bench, kind: str) -> None:
    damage, told = DAMAGE[kind]
    damage(bench, bench.files.real(ITEMS[0].path))
    await bench.scrub().run(CONTENTS)
    faults = {name: fault for name, fault in bench.judged.items() if fault}
    assert faults.keys() == {ITEMS[0].path}
    assert told in faults[ITEMS[0].path].text
    assert faults[ITEMS[0].path].of_contents == ("mode " not in told)


async def test_times_and_owners_are_nobodys_damage(bench: Bench) -> None:
    place = bench.files.real(ITEMS[0].path)
    for one in (place, *place.rglob("*")):
        os.utime(one, (7, 7), follow_symlinks=False)
        if os.geteuid() == 0:
            os.chown(one, 1, 1, follow_symlinks=False)
    await bench.scrub().run(CONTENTS)
    assert not any(bench.judged.values())


async def test_a_path_that_is_exchanged_while_it_is_read_is_read_again(bench: Bench) -> None:
    item = ITEMS[0]
    facts = (item.info.nar_hash, str(item.info.nar_size))
    scrub = bench.scrub(worker=(sys.executable, "-S", "-E", "-c", EXCHANGING, *facts))
    assert await scrub.run([CONTENTS[0]]) == []
    assert bench.judged == {item.path: None}
    assert (scrub.tally.paths_done, scrub.tally.damaged) == (1, 0)
    assert scrub.tally.bytes_done == scrub.tally.bytes_total
