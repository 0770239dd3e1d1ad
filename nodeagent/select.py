"""Select: which record of the pins this node shall hold. Pure; the clock is an argument.

Inside a channel a node takes `current` if its bucket is below `percent`, else `previous`.
Refused records change nothing: what a node has accepted it may keep.
"""

import hashlib
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from nodeagent.errors import NodeAgentError
from nodeagent.keys import TrustedKeys
from nodeagent.names import Reason
from nodeagent.pins import Channel, ChannelRecord, Envelope, Pins

BUCKETS: Final = 100
CLOCK_SLACK: Final = timedelta(minutes=5)


@dataclass(frozen=True)
class Node:
    """Who selects: the node, what it belongs to and whom it trusts."""

    name: str
    fleet: str
    channel: str
    release_keys: TrustedKeys


@dataclass(frozen=True)
class Accepted:
    """What this node accepted before in its channel: record identities, and the floor."""

    identities: AbstractSet[str] = frozenset()
    floor: int = 0
    held_serial: int | None = None


@dataclass(frozen=True)
class Wanted:
    """A record to realise, the envelope that proves it, and the floor once accepted."""

    record: ChannelRecord
    envelope: Envelope
    caches: tuple[str, ...]
    floor: int


@dataclass(frozen=True)
class Refusal:
    """Nothing new to realise, and why."""

    reason: Reason
    message: str


def bucket(node: str, serial: int) -> int:
    """Place a node in 0…99, evenly, anew for each serial."""
    digest = hashlib.sha256(f"{node}/{serial}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS


def choose(pins: Pins, node: Node, accepted: Accepted, now: datetime) -> Wanted | Refusal:
    """Pick this node's record and check it, in the order: signature, fleet, floor, expiry."""
    channel = pins.channels.get(node.channel)
    if channel is None:
        known = ", ".join(sorted(pins.channels)) or "none"
        return Refusal(
            Reason.CHANNEL_UNKNOWN,
            f"the pins have no channel {node.channel!r} (they have: {known}); promote to it, "
            "or change the node's label nodeagent.dev/channel",
        )
    try:
        return _choose(pins, channel, node, accepted, now)
    except NodeAgentError as error:
        return Refusal(error.reason, f"channel {node.channel!r}: {error.message}")


def _choose(
    pins: Pins, channel: Channel, node: Node, accepted: Accepted, now: datetime
) -> Wanted | Refusal:
    current = channel.current.open(node.release_keys)
    _require_ours(current, node)
    if bucket(node.name, current.serial) < channel.percent:
        envelope, record = channel.current, current
    elif channel.previous is not None:
        envelope = channel.previous
        record = envelope.open(node.release_keys)
        _require_ours(record, node)
    else:
        return _outside(channel, node, current)
    _require_fresh(record, envelope, accepted, now)
    return Wanted(record, envelope, pins.caches, _floor(channel, node, current, accepted))


def _outside(channel: Channel, node: Node, current: ChannelRecord) -> Refusal:
    return Refusal(
        Reason.OUTSIDE_ROLLOUT,
        f"serial {current.serial} of channel {node.channel!r} is rolled out to "
        f"{channel.percent} % of the nodes and this one (bucket "
        f"{bucket(node.name, current.serial)}) is not among them; with no previous record it "
        "keeps what it has",
    )


def _require_ours(record: ChannelRecord, node: Node) -> None:
    if record.fleet != node.fleet:
        raise NodeAgentError(
            Reason.WRONG_FLEET,
            f"serial {record.serial} is for fleet {record.fleet!r}, this node is in "
            f"{node.fleet!r}; promote with --fleet {node.fleet}",
        )
    if record.channel != node.channel:
        raise NodeAgentError(
            Reason.WRONG_CHANNEL,
            f"serial {record.serial} was signed for channel {record.channel!r} but stands under "
            f"{node.channel!r}; promote with --channel {node.channel}",
        )


def _require_fresh(
    record: ChannelRecord, envelope: Envelope, accepted: Accepted, now: datetime
) -> None:
    if record.serial < accepted.floor:
        raise NodeAgentError(
            Reason.SERIAL_BELOW_FLOOR,
            f"serial {record.serial} is below {accepted.floor}, the lowest this node still "
            "takes; promote the old release anew (it gets a new serial)",
        )
    if envelope.identity in accepted.identities:
        return
    if record.expires_at <= now:
        raise NodeAgentError(
            Reason.RECORD_EXPIRED,
            f"serial {record.serial} expired at {record.expires_at:%Y-%m-%d %H:%M:%SZ} and this "
            f"node never accepted it ({_clock(now)}); promote the release anew, or set the clock",
        )
    if record.not_before is not None and now < record.not_before:
        # Nobody signs ahead of time: who sees a record from the future has a slow clock.
        slow = record.created_at > now + CLOCK_SLACK
        step = f"{_clock(now)}, and it was made after that: set the clock" if slow else "wait"
        raise NodeAgentError(
            Reason.RECORD_NOT_YET_VALID,
            f"serial {record.serial} is not valid before {record.not_before:%Y-%m-%d %H:%M:%SZ}; "
            f"{step}",
        )


def _clock(now: datetime) -> str:
    # The hour alone: a message that changes counts as a new problem.
    return f"this node's clock says {now:%Y-%m-%d %H}h UTC"


def _floor(channel: Channel, node: Node, current: ChannelRecord, accepted: Accepted) -> int:
    """Raise the floor to the lower serial of the pair; only a wholly valid pair may."""
    serials = [current.serial]
    if channel.previous is not None:
        try:
            previous = channel.previous.open(node.release_keys)
            _require_ours(previous, node)
        except NodeAgentError:
            return accepted.floor
        serials.append(previous.serial)
    elif accepted.held_serial is not None:
        serials.append(accepted.held_serial)
    return max(accepted.floor, min(serials))
