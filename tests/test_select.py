from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nodeagent import keys, select
from nodeagent.keys import SecretKey
from nodeagent.names import Reason
from nodeagent.pins import Channel, ChannelRecord, Envelope, Pins
from nodeagent.select import Accepted, Node, Refusal, Wanted

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = SecretKey("release-1", SigningKey(b"\1" * 32))
STRANGER = SecretKey("release-1", SigningKey(b"\2" * 32))
KEY_RING = keys.parse_public([KEY.public])
NODE = Node("node-1", "ml", "stable", KEY_RING)
NEW = Accepted()
NOTHING = frozenset[str]()


def seal(
    serial: int,
    *,
    key: SecretKey = KEY,
    fleet: str = "ml",
    channel: str = "stable",
    expires: datetime = NOW + DAY,
    not_before: datetime | None = None,
    created: datetime = NOW - DAY,
) -> Envelope:
    record = ChannelRecord(
        fleet=fleet,
        channel=channel,
        serial=serial,
        release=f"sha256:{serial:064x}",
        release_size=1,
        created_at=created,
        expires_at=expires,
        not_before=not_before,
    )
    return Envelope.seal(record, key)


def pinned(current: Envelope, previous: Envelope | None = None, percent: int = 100) -> Pins:
    channel = Channel(current=current, previous=previous, percent=percent)
    return Pins(caches=("main",), channels={"stable": channel})


def choose(pins: Pins, accepted: Accepted = NEW, node: Node = NODE) -> Wanted | Refusal:
    return select.choose(pins, node, accepted, NOW)


def wanted(pins: Pins, accepted: Accepted = NEW) -> Wanted:
    chosen = choose(pins, accepted)
    assert isinstance(chosen, Wanted), chosen
    return chosen


def reason(pins: Pins, accepted: Accepted = NEW) -> Reason:
    chosen = choose(pins, accepted)
    assert isinstance(chosen, Refusal), chosen
    return chosen.reason


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    """Draw records of which about half have nothing wrong with them."""
    return seal(
        draw(st.integers(1, 40)),
        key=draw(st.sampled_from([KEY, KEY, KEY, STRANGER])),
        fleet=draw(st.sampled_from(["ml", "ml", "ml", "web"])),
        channel=draw(st.sampled_from(["stable", "stable", "stable", "canary"])),
        expires=NOW + draw(st.sampled_from([-1, 0, 1, 1, 1, 1])) * DAY,
        not_before=draw(st.sampled_from([None, None, None, NOW - DAY, NOW, NOW + DAY])),
    )


PERCENTS = st.sampled_from([0, 100]) | st.integers(0, 100)
ANY_PINS = st.builds(pinned, envelopes(), st.none() | envelopes(), PERCENTS)
NODES = st.builds(Node, st.text(max_size=12), st.just("ml"), st.just("stable"), st.just(KEY_RING))
FLOORS = st.integers(0, 40)


@given(st.integers(1, 1 << 53), st.integers(0, 1 << 30))
def test_nodes_spread_evenly_over_the_buckets(serial: int, start: int) -> None:
    buckets = Counter(select.bucket(f"node-{start + at}", serial) for at in range(3_000))
    assert buckets.keys() <= set(range(100))
    for percent in (10, 25, 50, 75):
        share = sum(count for bucket, count in buckets.items() if bucket < percent) / 3_000
        assert abs(share - percent / 100) < 0.06


def test_a_bucket_is_what_the_design_says() -> None:
    # printf 'node-1/1767225600' | sha256sum | python3 -c '…int(input()[:16], 16) % 100'
    assert select.bucket("node-1", 1767225600) == 72


def test_a_nodes_bucket_changes_with_the_serial() -> None:
    assert len({select.bucket("node-1", serial) for serial in range(1, 300)}) > 80


@given(NODES, st.integers(1, 1 << 40), PERCENTS)
def test_a_node_below_percent_takes_current_the_others_previous(
    node: Node, serial: int, percent: int
) -> None:
    current, previous = seal(serial + 1), seal(serial)
    chosen = choose(pinned(current, previous, percent), node=node)
    assert isinstance(chosen, Wanted)
    below = select.bucket(node.name, serial + 1) < percent
    assert chosen.envelope == (current if below else previous)
    assert chosen.record == chosen.envelope.open(KEY_RING)
    assert chosen.caches == ("main",)


@given(NODES, st.integers(0, 99))
def test_a_rollout_only_ever_adds_nodes(node: Node, percent: int) -> None:
    def takes_current(share: int) -> bool:
        chosen = choose(pinned(seal(2), seal(1), share), node=node)
        return isinstance(chosen, Wanted) and chosen.record.serial == 2

    assert takes_current(percent) <= takes_current(percent + 1)


@given(NODES)
def test_percent_0_is_a_rollback_for_everyone(node: Node) -> None:
    held = Accepted(frozenset({seal(2).identity, seal(1).identity}), floor=1, held_serial=2)
    chosen = choose(pinned(seal(2), seal(1), 0), held, node)
    assert isinstance(chosen, Wanted)
    assert chosen.record.serial == 1
    assert chosen.floor == 1


@given(ANY_PINS, NODES, FLOORS, st.integers(1, 40))
def test_the_floor_never_sinks(pins: Pins, node: Node, floor: int, held: int) -> None:
    chosen = choose(pins, Accepted(NOTHING, floor, held), node)
    if isinstance(chosen, Wanted):
        assert chosen.floor >= floor


@given(ANY_PINS, NODES, FLOORS, st.none() | st.integers(1, 40))
def test_what_was_chosen_is_chosen_again_even_after_it_expired(
    pins: Pins, node: Node, floor: int, held: int | None
) -> None:
    chosen = choose(pins, Accepted(NOTHING, floor, held), node)
    if isinstance(chosen, Wanted):
        accepted = Accepted({chosen.envelope.identity}, chosen.floor, chosen.record.serial)
        later = select.choose(pins, node, accepted, NOW + 1000 * DAY)
        assert isinstance(later, Wanted)
        assert later.envelope == chosen.envelope
        assert later.floor >= chosen.floor


@given(ANY_PINS, NODES, FLOORS, st.booleans())
def test_nothing_foreign_unsigned_low_or_late_is_ever_chosen(
    pins: Pins, node: Node, floor: int, seen: bool
) -> None:
    channel = pins.channels["stable"]
    pair = [one for one in (channel.current, channel.previous) if one is not None]
    accepted = Accepted({one.identity for one in pair} if seen else NOTHING, floor)
    chosen = choose(pins, accepted, node)
    if isinstance(chosen, Wanted):
        record = chosen.envelope.open(KEY_RING)
        assert chosen.envelope in pair
        assert (record.fleet, record.channel) == ("ml", "stable")
        assert record.serial >= floor
        assert seen or record.expires_at > NOW
        assert seen or record.not_before is None or record.not_before <= NOW


@given(ANY_PINS, NODES, FLOORS)
def test_a_refusal_says_what_to_do(pins: Pins, node: Node, floor: int) -> None:
    chosen = choose(pins, Accepted(NOTHING, floor), node)
    if isinstance(chosen, Refusal):
        assert "\n" not in chosen.message
        assert "; " in chosen.message
        assert "'stable'" in chosen.message


# What is wrong with a record, in the order in which it is told.
FAULTS: list[tuple[Reason, dict[str, object]]] = [
    (Reason.SIGNATURE_INVALID, {"key": STRANGER}),
    (Reason.WRONG_FLEET, {"fleet": "web"}),
    (Reason.WRONG_CHANNEL, {"channel": "canary"}),
    (Reason.SERIAL_BELOW_FLOOR, {"serial": 5}),
    (Reason.RECORD_EXPIRED, {"expires": NOW}),
    (Reason.RECORD_NOT_YET_VALID, {"not_before": NOW + DAY}),
]


@pytest.mark.parametrize("percent", [100, 0])
@pytest.mark.parametrize("first", range(len(FAULTS)))
def test_refusals_come_in_the_order_of_the_design(first: int, percent: int) -> None:
    facts: dict[str, object] = {"serial": 10}
    for _, fault in FAULTS[first:]:
        facts |= fault
    bad = seal(**facts)  # type: ignore[arg-type] # a table of keyword arguments
    pair = (bad, seal(10)) if percent else (seal(10), bad)
    assert reason(pinned(*pair, percent), Accepted(floor=6)) is FAULTS[first][0]


@pytest.mark.parametrize("fault", [0, 1, 2])
def test_without_a_trustworthy_current_nobody_has_a_bucket(fault: int) -> None:
    bad = seal(**({"serial": 10} | FAULTS[fault][1]))  # type: ignore[arg-type] # as above
    assert reason(pinned(bad, seal(9), 0)) is FAULTS[fault][0]


def test_a_channel_that_the_pins_lack_is_refused_naming_what_they_have() -> None:
    chosen = choose(pinned(seal(1)), node=Node("node-1", "ml", "canary", KEY_RING))
    assert isinstance(chosen, Refusal)
    assert chosen.reason is Reason.CHANNEL_UNKNOWN
    assert "(they have: stable)" in chosen.message
    assert "they have: none" in str(choose(Pins(caches=(), channels={})))


def test_outside_the_rollout_and_without_previous_a_node_keeps_what_it_has() -> None:
    assert reason(pinned(seal(2), None, 0)) is Reason.OUTSIDE_ROLLOUT


def test_a_record_that_was_accepted_may_be_expired() -> None:
    late = seal(7, expires=NOW - DAY)
    assert reason(pinned(late)) is Reason.RECORD_EXPIRED
    assert wanted(pinned(late), Accepted({late.identity})).record.serial == 7


def test_another_record_of_the_same_serial_was_not_accepted() -> None:
    late = seal(7, expires=NOW - DAY)
    assert reason(pinned(late), Accepted({seal(7).identity})) is Reason.RECORD_EXPIRED


def test_a_record_below_the_floor_is_refused_even_if_it_was_accepted() -> None:
    old = seal(7)
    assert reason(pinned(old), Accepted({old.identity}, floor=8)) is Reason.SERIAL_BELOW_FLOOR


def test_the_floor_is_the_lower_serial_of_the_pair() -> None:
    assert wanted(pinned(seal(9), seal(7))).floor == 7
    assert wanted(pinned(seal(7), seal(9), 0)).floor == 7
    assert wanted(pinned(seal(9), seal(7)), Accepted(floor=8)).floor == 8


def test_a_single_record_leaves_the_way_back_to_what_is_held() -> None:
    assert wanted(pinned(seal(9)), Accepted(held_serial=7)).floor == 7
    assert wanted(pinned(seal(9)), Accepted(held_serial=11)).floor == 9
    assert wanted(pinned(seal(9))).floor == 9


@pytest.mark.parametrize("fault", [0, 1, 2])
def test_a_pair_that_is_not_wholly_ours_raises_no_floor(fault: int) -> None:
    bad = seal(**({"serial": 8} | FAULTS[fault][1]))  # type: ignore[arg-type] # as above
    assert wanted(pinned(seal(9), bad), Accepted(floor=3)).floor == 3


@given(st.integers(1, 30), st.integers(1, 30))
def test_the_floor_lets_both_of_an_accepted_pair_through(one: int, two: int) -> None:
    floor = wanted(pinned(seal(one), seal(two))).floor
    for percent, serial in ((100, one), (0, two)):
        chosen = wanted(pinned(seal(one), seal(two), percent), Accepted(floor=floor))
        assert chosen.record.serial == serial


def message(pins: Pins) -> str:
    chosen = choose(pins)
    assert isinstance(chosen, Refusal)
    return chosen.message


def test_a_record_from_the_future_tells_that_the_clock_is_slow() -> None:
    early = seal(7, not_before=NOW + DAY)
    assert message(pinned(early)).endswith("; wait")
    ahead = seal(7, created=NOW + DAY, expires=NOW + 3 * DAY, not_before=NOW + DAY)
    assert f"this node's clock says {NOW:%Y-%m-%d %H}h UTC" in message(pinned(ahead))
    assert "set the clock" in message(pinned(ahead))


def test_a_few_minutes_do_not_make_a_clock_slow() -> None:
    soon = seal(7, created=NOW + select.CLOCK_SLACK, not_before=NOW + DAY)
    assert message(pinned(soon)).endswith("; wait")


def test_an_expired_record_tells_the_clock_that_it_expired_by() -> None:
    late = seal(7, expires=NOW)
    assert f"(this node's clock says {NOW:%Y-%m-%d %H}h UTC)" in message(pinned(late))
