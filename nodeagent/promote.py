"""Promote a release: sign a channel record and write it into the pins, in one step.

The rollout and the rollback are one number in the pins, `percent`; moving it needs no key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from nodeagent import pins, release
from nodeagent.errors import NodeAgentError
from nodeagent.keys import SecretKey
from nodeagent.names import Reason
from nodeagent.pins import Channel, ChannelRecord, Envelope, Pins
from nodeagent.store import write_file

WHOLE: Final = 100


@dataclass(frozen=True)
class Promotion:
    """What to sign: a manifest for a channel of a fleet; `percent` of the nodes take it."""

    manifest: bytes
    fleet: str
    channel: str
    caches: Sequence[str]
    expires_in: timedelta
    percent: int = WHOLE
    not_before: datetime | None = None
    reason: str = ""


def promote(file: Path, promotion: Promotion, key: SecretKey, now: datetime) -> ChannelRecord:
    """Sign, and write the pins file; what other channels hold stays as it is.

    Raises NodeAgentError, the file untouched, if the manifest is incomplete, the pins cannot be
    read, or they belong to another fleet.
    """
    digest = release.digest_of(promotion.manifest)
    release.parse(promotion.manifest, digest)
    old = _read(file)
    standing = old.channels.get(promotion.channel) if old else None
    record = ChannelRecord(
        fleet=promotion.fleet,
        channel=promotion.channel,
        serial=_serial(standing, now),
        release=digest,
        release_size=len(promotion.manifest),
        created_at=now,
        expires_at=now + promotion.expires_in,
        not_before=promotion.not_before,
        reason=promotion.reason,
    )
    _require_same_fleet(file, old, record)
    channel = Channel(
        current=Envelope.seal(record, key),
        previous=_fallback(standing, digest),
        percent=promotion.percent,
    )
    _write(file, old, promotion.caches, {promotion.channel: channel})
    return record


def set_percent(file: Path, channel: str, percent: int) -> Channel:
    """Move a channel's rollout; 0 is the rollback. Raises NodeAgentError, the file untouched."""
    old = _read(file)
    if old is None:
        raise _refused(f"there is no file {file}; name the pins with --pins")
    standing = old.channels.get(channel)
    if standing is None:
        raise _refused(f"{file} has no channel {channel!r}; promote a release to it first")
    if percent < WHOLE and standing.previous is None:
        raise _refused(
            f"channel {channel!r} in {file} has no previous record to go back to; promote the "
            "older release anew instead"
        )
    moved = Channel(current=standing.current, previous=standing.previous, percent=percent)
    _write(file, old, old.caches, {channel: moved})
    return moved


def _read(file: Path) -> Pins | None:
    try:
        return pins.parse(file.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(f"{file} cannot be read: {error.strerror}") from None


def _write(
    file: Path, old: Pins | None, caches: Sequence[str], changed: Mapping[str, Channel]
) -> None:
    channels = {**(old.channels if old else {}), **changed}
    document = Pins(caches=tuple(caches), channels=channels)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, pins.render(document))
    except OSError as error:
        raise _refused(f"{file} cannot be written: {error.strerror}") from None


def _serial(standing: Channel | None, now: datetime) -> int:
    """Count on from the last serial, but never below the clock: a lost ledger locks nobody out."""
    last = 0
    if standing is not None:
        records = [standing.current, standing.previous]
        last = max(one.peek().serial for one in records if one is not None)
    return max(last + 1, int(now.timestamp()))


def _fallback(standing: Channel | None, digest: str) -> Envelope | None:
    """Pick what nodes outside the rollout hold: the last record that went to all of them."""
    if standing is None:
        return None
    whole = standing.percent == WHOLE and standing.current.peek().release != digest
    return standing.current if whole else standing.previous


def _require_same_fleet(file: Path, old: Pins | None, record: ChannelRecord) -> None:
    fleets = {one.current.peek().fleet for one in old.channels.values()} if old else set()
    if fleets - {record.fleet}:
        raise _refused(
            f"{file} holds the pins of fleet {', '.join(sorted(fleets))!r}, not of "
            f"{record.fleet!r}; name that fleet with --fleet, or another file with --pins"
        )


def _refused(message: str) -> NodeAgentError:
    return NodeAgentError(Reason.PINS_INVALID, message)
