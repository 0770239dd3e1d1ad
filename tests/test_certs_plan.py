"""When CAs are made and who signs: over a year, with replicas and API servers that lag behind."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.certs import plan
from nodeagent.certs.plan import (
    AUTHORITY_SECONDS,
    DAY,
    HOUR,
    LEAF_SECONDS,
    RIPE_SECONDS,
    SKEW_SECONDS,
    Authority,
    Leaf,
)
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

NOW: Final = 1_800_000_000
YEAR: Final = 365 * DAY
STEP: Final = 30 * 60  # several within the time that an API server may lag


def seed(number: int) -> bytes:
    return number.to_bytes(32)


def made(authorities: Sequence[Authority], now: int) -> tuple[Authority, ...]:
    return plan.succeeded(authorities, seed(now), now)


@dataclass
class Replica:
    """One that reads the list now and then, and signs for itself with what it read."""

    authorities: tuple[Authority, ...] = ()
    leaf: Leaf | None = None

    def serve(self, now: int) -> None:
        authority = plan.signer(self.authorities, now)
        if authority is not None and plan.is_due(self.leaf, authority, now):
            self.leaf = plan.sign(authority, seed(now), now)


@dataclass
class World:
    """The Secret, and what is published: each bundle with the time from which on it is."""

    authorities: tuple[Authority, ...] = ()
    bundles: list[tuple[int, frozenset[bytes]]] = field(default_factory=list)

    def step(self, now: int) -> None:
        """Do the first thing that is lacking, as a replica does that holds the Lease."""
        if plan.lacks_authority(self.authorities, now):
            self.authorities = made(self.authorities, now)
        elif not self.bundles or self.bundles[-1][1] != self.seeds:
            self.bundles.append((now, self.seeds))
        else:
            self.authorities = plan.published(self.authorities, now)

    @property
    def seeds(self) -> frozenset[bytes]:
        return frozenset(one.seed for one in self.authorities)

    def seen_by_an_api_server(self, now: int) -> list[frozenset[bytes]]:
        """Give each bundle that one may have now: all since the last that is old enough."""
        ages = [since for since, _ in self.bundles if since + RIPE_SECONDS <= now]
        return [seeds for since, seeds in self.bundles if since >= (ages[-1] if ages else 0)]


# For each stretch of time: how long nobody can write, and how long each replica cannot read.
TROUBLE: Final = st.lists(
    st.tuples(st.integers(0, 9 * DAY), st.integers(0, 9 * DAY), st.integers(0, 9 * DAY)),
    min_size=1,
    max_size=40,
)


@settings(max_examples=10, deadline=None)
@given(TROUBLE)
def test_over_a_year_every_api_server_trusts_every_replica(
    trouble: list[tuple[int, int, int]],
) -> None:
    live_a_year(trouble)


def live_a_year(trouble: list[tuple[int, int, int]]) -> None:
    world, replicas = World(), (Replica(), Replica())
    until = [NOW, NOW, NOW]
    for now in range(NOW, NOW + YEAR, STEP):
        if trouble and max(until) + 2 * DAY <= now:  # in between all goes well for a while
            until = [now + one for one in trouble.pop()]
        writes, *reads = (one <= now for one in until)
        if writes:
            world.step(now)
        for replica, reading in zip(replicas, reads, strict=True):
            if reading:
                replica.authorities = world.authorities
            replica.serve(now)
            assert_is_trusted(world, replica.leaf, now)
    assert all(one.leaf is not None for one in replicas)
    assert len(world.bundles) >= 6  # it came to rotations


def assert_is_trusted(world: World, leaf: Leaf | None, now: int) -> None:
    if leaf is None:
        assert now < NOW + DAY
        return
    assert leaf.since <= now < leaf.until <= leaf.authority.until
    assert leaf.authority.since <= leaf.since
    if now >= NOW + RIPE_SECONDS + STEP:  # nobody has seen the first bundle any sooner
        for seeds in world.seen_by_an_api_server(now):
            assert leaf.authority.seed in seeds


def test_the_year_above_would_find_a_ca_that_signs_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prove that the property can fail."""
    monkeypatch.setattr(
        plan, "signer", lambda authorities, now: authorities[-1] if authorities else None
    )
    with pytest.raises(AssertionError):
        live_a_year([])


def test_the_first_ca_signs_at_once_for_nobody_trusts_another() -> None:
    [only] = made((), NOW)
    assert plan.signer([only], NOW) == only


def test_a_successor_signs_once_it_has_been_published_for_long_enough() -> None:
    old = plan.published(made((), NOW), NOW)
    later = NOW + AUTHORITY_SECONDS * 2 // 3
    assert not plan.lacks_authority(old, later - 1)
    assert plan.lacks_authority(old, later)
    both = made(old, later)
    assert plan.signer(both, later + DAY) == old[0]
    both = plan.published(both, later)
    assert plan.signer(both, later + RIPE_SECONDS - 1) == old[0]
    assert plan.signer(both, later + RIPE_SECONDS) == both[1]


def test_while_nobody_has_been_published_for_long_the_oldest_signs() -> None:
    both = plan.published(made(made((), NOW), NOW + HOUR), NOW + HOUR)
    assert plan.signer(both, NOW + HOUR) == both[0]


def test_a_clock_that_is_far_ahead_takes_nothing_from_others() -> None:
    used = plan.published(made((), NOW), NOW)
    both = made(used, NOW + YEAR)
    assert plan.signer(both, NOW + RIPE_SECONDS) == used[0]


def test_who_has_ended_does_not_sign() -> None:
    [only] = plan.published(made((), NOW), NOW)
    assert plan.signer([only], only.until - 1) == only
    assert plan.signer([only], only.until) is None
    assert plan.signer([only], only.since - 1) is None


@given(st.lists(st.integers(1, 2 * AUTHORITY_SECONDS), max_size=12))
def test_what_has_ended_goes_in_time_and_what_has_not_stays(waits: list[int]) -> None:
    authorities, now = made((), NOW), NOW
    for wait in waits:
        now += wait
        before, authorities = authorities, made(authorities, now)
        assert authorities[-1].is_valid(now)
        assert {one for one in before if one.until > now} <= set(authorities)
        assert sum(one.until <= now for one in authorities) <= plan.KEPT_EXPIRED


@given(st.lists(st.integers(-2 * YEAR, 2 * YEAR), min_size=2, max_size=4))
def test_replicas_whose_clocks_differ_come_to_an_end(skews: list[int]) -> None:
    """Nobody takes away what another needs, so after one turn of each nothing is lacking."""
    authorities: tuple[Authority, ...] = ()
    for skew in sorted(skews, reverse=True):
        if plan.lacks_authority(authorities, NOW + skew):
            authorities = made(authorities, NOW + skew)
    writes = 0
    for _ in range(5):
        for skew in skews:
            if plan.lacks_authority(authorities, NOW + skew):
                authorities, writes = made(authorities, NOW + skew), writes + 1
    assert writes <= len(skews)


def test_a_clock_that_was_set_back_gets_a_ca_that_is_valid_by_it() -> None:
    future = plan.published(made((), NOW + YEAR), NOW + YEAR)
    assert plan.lacks_authority(future, NOW)
    both = plan.published(made(future, NOW), NOW)
    signer = plan.signer(both, NOW)
    assert signer is not None
    assert signer.is_valid(NOW)
    assert future[0].seed in {one.seed for one in both}


def test_a_server_gets_a_new_certificate_when_two_thirds_have_passed() -> None:
    [only] = made((), NOW)
    leaf = plan.sign(only, seed(1), NOW)
    life = leaf.until - leaf.since
    assert (leaf.since, leaf.until) == (NOW - SKEW_SECONDS, NOW + LEAF_SECONDS)
    assert not plan.is_due(leaf, only, NOW)
    assert not plan.is_due(leaf, only, leaf.since + life * 2 // 3 - 1)
    assert plan.is_due(leaf, only, leaf.since + life * 2 // 3)
    assert plan.is_due(leaf, only, leaf.since - 1)
    assert plan.is_due(leaf, made((), NOW + HOUR)[0], NOW)
    assert plan.is_due(None, only, NOW)


def test_a_server_does_not_outlive_its_ca() -> None:
    [only] = made((), NOW)
    assert plan.sign(only, seed(1), only.until - HOUR).until == only.until


@given(st.lists(st.integers(0, YEAR), max_size=4))
def test_the_list_is_read_as_it_was_written(waits: list[int]) -> None:
    authorities: tuple[Authority, ...] = ()
    for wait in waits:
        authorities = plan.published(made(authorities, NOW + wait), NOW + wait)
    assert plan.parse(plan.dump(authorities), "it") == authorities


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"\xff", b'[{"seed":"AA==","since":0,"until":1}]', b'[{"since":0}]']
)
def test_a_list_that_cannot_be_read_says_where_it_lies(text: bytes) -> None:
    with pytest.raises(NodeAgentError, match=r"^the Secret cannot be read: .* remove it") as error:
        plan.parse(text, "the Secret")
    assert error.value.reason is Reason.SETTING_INVALID


def test_a_key_is_in_nobodys_log() -> None:
    [only] = plan.succeeded((), b"k" * 32, NOW)
    assert "kkkk" not in repr(only)
    assert "a2tr" not in repr(only)
