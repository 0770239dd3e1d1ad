import hashlib
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.nar import CHUNK, Read
from nodeagent.realise.threads import UNDER_WAY, side_by_side


def reading(chunks: Sequence[bytes]) -> Read:
    left = iter(chunks)
    return lambda _: next(left, b"")


def drained(read: Read) -> list[bytes]:
    return list(iter(lambda: read(CHUNK), b""))


@given(st.lists(st.binary(min_size=1), max_size=20))
def test_chunks_come_in_order_and_hash_to_the_whole(chunks: list[bytes]) -> None:
    with side_by_side(reading(chunks)) as (read, digest):
        found = drained(read)
        for chunk in found:
            digest.update(chunk)
        assert digest.digest() == hashlib.sha256(b"".join(chunks)).digest()
    assert found == chunks


def test_the_end_is_the_end_however_often_it_is_asked_for() -> None:
    with side_by_side(reading([b"a"])) as (read, _):
        assert [read(1) for _ in range(UNDER_WAY + 3)] == [b"a"] + [b""] * (UNDER_WAY + 2)


def test_it_reads_ahead_but_not_far() -> None:
    taken = 0

    def take(_: int) -> bytes:
        nonlocal taken
        taken += 1
        return b"chunk"

    with side_by_side(take) as (read, _):
        for _ in range(20):
            read(CHUNK)
    assert 20 <= taken <= 20 + UNDER_WAY


def test_what_reading_raises_arrives_behind_what_was_read_and_nothing_is_read_after_it() -> None:
    calls = []

    def read_once(_: int) -> bytes:
        calls.append(threading.current_thread())
        if len(calls) == 2:
            raise ValueError("broken")
        return b"whole"

    with side_by_side(read_once) as (read, _):
        assert read(CHUNK) == b"whole"
        with pytest.raises(ValueError, match="broken"):
            read(CHUNK)
        assert drained(read) == []
    assert len(calls) == 2
    assert threading.current_thread() not in calls


def test_no_thread_outlives_the_block() -> None:
    before = threading.active_count()
    with side_by_side(reading([b"a"] * 20)) as (read, digest):
        digest.update(read(CHUNK))
        assert threading.active_count() == before + 2
    assert threading.active_count() == before
