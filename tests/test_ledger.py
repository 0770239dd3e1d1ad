import asyncio
import fcntl
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from nodeagent import ledger, release
from nodeagent.errors import NodeAgentError
from nodeagent.history import EVER, Span
from nodeagent.ledger import Held, Ledger
from nodeagent.names import Reason
from nodeagent.pins import Envelope
from nodeagent.select import Accepted, Wanted
from tests.handmade import NOW, digest, seal

HELD = Held(channel="stable", serial=7, release=digest(7), caches=("main",))


def wanted(envelope: Envelope, floor: int = 0) -> Wanted:
    return Wanted(envelope.peek(), envelope, ("main",), floor)


def never() -> None:
    pytest.fail("there is nobody to wait for")


@pytest.fixture
async def book(tmp_path: Path) -> AsyncIterator[Ledger]:
    made = Ledger(tmp_path / "state")
    async with made.owned(never):
        yield made


async def reopened(old: Ledger) -> Ledger:
    """Give what another start of the agent would read."""
    fresh = Ledger(old.directory.parent / "copy")
    fresh.directory.mkdir(exist_ok=True)
    (fresh.directory / "state.json").write_bytes((old.directory / "state.json").read_bytes())
    async with fresh.owned(never):
        return fresh


async def test_a_new_node_remembers_nothing(book: Ledger) -> None:
    assert book.accepted("stable", 0) == Accepted()
    assert book.state.held is None


async def test_what_was_accepted_outlives_a_restart(book: Ledger) -> None:
    book.accept(wanted(seal(7), floor=5))
    expected = Accepted(frozenset({seal(7).identity}), 5)
    assert book.accepted("stable", 0) == expected
    assert (await reopened(book)).accepted("stable", 0) == expected


async def test_what_was_published_outlives_a_restart(book: Ledger) -> None:
    book.publish(HELD, "boot-1", NOW)
    state = (await reopened(book)).state
    held = HELD.model_copy(update={"since": NOW})
    assert (state.held, state.verified_boot) == (held, "boot-1")


async def test_channels_do_not_know_each_other(book: Ledger) -> None:
    book.accept(wanted(seal(7), floor=5))
    book.accept(wanted(seal(3, channel="canary"), floor=2))
    assert book.accepted("stable", 0).floor == 5
    assert book.accepted("canary", 0).floor == 2
    assert book.accepted("other", 0) == Accepted()


async def test_the_published_serial_counts_in_its_own_channel_alone(book: Ledger) -> None:
    book.publish(HELD, "boot-1", NOW)
    assert book.accepted("stable", 0).held_serial == 7
    assert book.accepted("canary", 0).held_serial is None


async def test_the_floor_is_never_below_the_setting(book: Ledger) -> None:
    book.accept(wanted(seal(7), floor=5))
    assert book.accepted("stable", 4).floor == 5
    assert book.accepted("stable", 6).floor == 6


async def test_a_few_records_are_remembered_and_the_oldest_forgotten(book: Ledger) -> None:
    for serial in range(1, 8):
        book.accept(wanted(seal(serial)))
    remembered = frozenset(seal(serial).identity for serial in (4, 5, 6, 7))
    assert book.accepted("stable", 0).identities == remembered


async def test_the_record_that_was_taken_last_is_forgotten_last(book: Ledger) -> None:
    for serial in (1, 2, 3, 4, 1, 5, 6, 7):  # 1 again: a rollback
        book.accept(wanted(seal(serial)))
    assert seal(1).identity in book.accepted("stable", 0).identities


async def test_no_news_is_not_written(book: Ledger) -> None:
    book.accept(wanted(seal(7)))
    book.publish(HELD, "boot-1", NOW)
    (book.directory / "state.json").unlink()
    book.accept(wanted(seal(7)))
    book.publish(HELD, "boot-1", NOW)
    assert not (book.directory / "state.json").exists()


async def test_a_manifest_is_kept_and_given_back(book: Ledger) -> None:
    seven = release.digest_of(b"seven")
    assert book.manifest(seven) is None
    book.keep_manifest(seven, b"seven")
    book.keep_manifest(seven, b"the same, so it is not written again")
    assert book.manifest(seven) == b"seven"


async def test_a_manifest_that_the_disk_has_spoilt_is_none(book: Ledger) -> None:
    seven = release.digest_of(b"seven")
    book.keep_manifest(seven, b"seven")
    (book.directory / release.manifest_file(seven)).write_bytes(b"sevem")
    assert book.manifest(seven) is None
    assert book.kept == []
    book.keep_manifest(seven, b"seven")
    assert book.manifest(seven) == b"seven"


async def test_a_release_is_kept_until_it_is_forgotten(book: Ledger) -> None:
    for number in (1, 2):
        book.keep_manifest(digest(number), b"")
        book.publish(HELD.model_copy(update={"release": digest(number)}), "boot-1", NOW)
    (book.directory / "releases/.x.new").touch()
    assert book.kept == sorted([digest(1), digest(2)])
    assert book.state.history.generations.keys() == {digest(1), digest(2)}
    book.forget(digest(1))
    book.forget(digest(1))
    assert book.kept == [digest(2)] == [*(await reopened(book)).state.history.generations]


async def test_when_pods_got_what_outlives_a_restart(book: Ledger) -> None:
    for number, later in ((1, 0), (2, 1), (1, 2)):
        held = HELD.model_copy(update={"release": digest(number)})
        book.publish(held, "boot-1", NOW + timedelta(hours=later))
    hours = [NOW + timedelta(hours=later) for later in range(3)]
    known = (await reopened(book)).state.history.generations
    assert known[digest(1)].spans == (
        Span(since=hours[0], until=hours[1]),
        Span(since=hours[2]),
    )
    assert known[digest(2)].spans == (Span(since=hours[1], until=hours[2]),)


async def test_after_an_agent_that_took_no_note_nobody_claims_to_know(book: Ledger) -> None:
    book.publish(HELD, "boot-1", NOW)
    file = book.directory / "state.json"
    state = json.loads(file.read_bytes())
    del state["held"]["since"]
    file.write_text(json.dumps(state))
    again = await reopened(book)
    again.publish(HELD, "boot-1", NOW + timedelta(hours=1))
    (known,) = again.state.history.generations.values()
    now = NOW + timedelta(hours=1)
    assert known.spans == (Span(since=EVER, until=now), Span(since=now))


async def test_a_second_agent_waits_until_the_first_ends(book: Ledger) -> None:
    waiting, entered = asyncio.Event(), asyncio.Event()

    async def second() -> None:
        async with Ledger(book.directory).owned(waiting.set):
            entered.set()

    with (book.directory / "lock").open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    task = asyncio.create_task(second())
    await waiting.wait()
    assert not entered.is_set()
    task.cancel()
    await asyncio.wait([task])


async def test_an_agent_that_waited_reads_what_the_first_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "POLL_SECONDS", 0.01)
    told: list[str] = []
    first, second = Ledger(tmp_path), Ledger(tmp_path)

    async def wait() -> None:
        async with second.owned(lambda: told.append("waiting")):
            pass

    async with first.owned(never):
        task = asyncio.create_task(wait())
        await asyncio.sleep(0.05)
        first.publish(HELD, "boot-1", NOW)
    await task
    assert second.state.held == HELD.model_copy(update={"since": NOW})
    assert told == ["waiting"]


async def test_a_state_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(NodeAgentError) as caught:
        async with Ledger(tmp_path / "state").owned(never):
            pytest.fail("there is no such directory")
    assert caught.value.reason is Reason.STORE_UNUSABLE


async def test_what_could_not_be_written_is_not_believed_to_be(book: Ledger) -> None:
    away = book.directory.rename(book.directory.with_name("away"))
    with pytest.raises(NodeAgentError):
        book.accept(wanted(seal(7), floor=5))
    away.rename(book.directory)
    assert book.accepted("stable", 0) == Accepted()
    book.accept(wanted(seal(7), floor=5))
    assert (await reopened(book)).accepted("stable", 0).floor == 5


async def started(old: Ledger, boot: str) -> tuple[Ledger, bool]:
    """Give what the next agent reads, and whether it owes a scrub."""
    fresh = await reopened(old)
    return fresh, fresh.begin(boot)


async def test_a_new_node_owes_no_scrub(book: Ledger) -> None:
    assert not book.begin("boot-1")
    assert book.state.scrubbed_boot == "boot-1"


async def test_a_boot_after_an_end_in_order_owes_no_scrub(book: Ledger) -> None:
    book.begin("boot-1")
    book.publish(HELD, "boot-1", NOW)
    book.end("boot-1")
    for boot in ("boot-1", "boot-2", "boot-3"):
        book, due = await started(book, boot)
        assert not due
        assert book.state.clean_end is None  # while an agent runs
        book.end(boot)


async def test_a_boot_after_any_other_end_owes_a_scrub_until_one_ended(book: Ledger) -> None:
    book.begin("boot-1")
    book.publish(HELD, "boot-1", NOW)
    book, due = await started(book, "boot-1")
    assert not due  # only the agent died, the machine lives on
    book, due = await started(book, "boot-2")
    assert due
    book.end("boot-2")  # in order, but before the scrub ended
    for boot in ("boot-2", "boot-3"):
        book, due = await started(book, boot)
        assert due
    book.scrubbed("boot-3", 1234)
    book, due = await started(book, "boot-3")
    assert not due
    assert book.state.scrubbed_at == 1234


async def test_a_node_of_which_that_is_not_known_owes_a_scrub(book: Ledger) -> None:
    book.publish(HELD, "boot-1", NOW)
    assert book.begin("boot-1")


async def test_a_mark_that_cannot_be_written_is_not_left_for_a_later_boot(book: Ledger) -> None:
    book.begin("boot-1")
    book.publish(HELD, "boot-1", NOW)
    book.end("boot-1")
    away = book.directory.rename(book.directory.with_name("away"))
    assert not book.begin("boot-2")
    book.end("boot-2")
    away.rename(book.directory)
    book.accept(wanted(seal(7)))
    assert (await started(book, "boot-3"))[1]


async def test_what_went_bad_is_remembered_when_it_is_mended_but_not_without_end(
    book: Ledger,
) -> None:
    for number in range(ledger.MOST_SPOILT + 5):
        book.spoil(f"/nix/store/{number}", number)
    book.spoil("/nix/store/7", 99)
    book.condemn({})
    spoilt = (await reopened(book)).state.spoilt
    assert len(spoilt) == ledger.MOST_SPOILT
    assert spoilt["/nix/store/7"] == 99
    assert "/nix/store/4" not in spoilt
    assert f"/nix/store/{ledger.MOST_SPOILT + 4}" in spoilt


async def test_known_damage_outlives_a_restart(book: Ledger) -> None:
    book.condemn({"/nix/store/a": "flipped"})
    book.condemn({"/nix/store/a": "flipped"})
    assert (await reopened(book)).state.damaged == {"/nix/store/a": "flipped"}
    book.condemn({})
    assert (await reopened(book)).state.damaged == {}
