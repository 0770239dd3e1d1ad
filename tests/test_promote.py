import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from nodeagent import keys, pins, promote, release
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.pins import Channel, ChannelRecord
from nodeagent.promote import Promotion
from tests import nars
from tests.handmade import DAY, NOW, RELEASE_KEY, Item, manifest, path, seal
from tests.handmade import pins as pinned

TRUSTED = keys.parse_public([RELEASE_KEY.public])


def promotion(version: int = 1, **changes: object) -> Promotion:
    """Promote a release whose contents are its version."""
    item = Item(path("ds"), nars.File(b"%d" % version))
    made = Promotion(manifest(item), "ml", "stable", ["main"], DAY)
    return replace(made, **changes)  # type: ignore[arg-type] # any field


def digest_of(version: int) -> str:
    return release.digest_of(promotion(version).manifest)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pins/pins.json"


def run(file: Path, one: Promotion, now: datetime = NOW) -> ChannelRecord:
    return promote.promote(file, one, RELEASE_KEY, now)


def channel(file: Path, name: str = "stable") -> Channel:
    return pins.parse(file.read_bytes()).channels[name]


def releases(file: Path) -> tuple[str, str | None]:
    """Tell which releases stand in the channel: current, previous."""
    standing = channel(file)
    previous = standing.previous.peek().release if standing.previous else None
    return standing.current.peek().release, previous


def test_the_first_promotion_makes_the_pins(file: Path) -> None:
    record = run(file, promotion(reason="flake update", not_before=NOW + DAY))
    standing = channel(file)
    assert standing.current.open(TRUSTED) == record
    assert (standing.previous, standing.percent) == (None, 100)
    assert pins.parse(file.read_bytes()).caches == ("main",)
    assert (record.fleet, record.channel, record.reason) == ("ml", "stable", "flake update")
    assert (record.created_at, record.expires_at, record.not_before) == (NOW, NOW + DAY, NOW + DAY)
    assert record.release == digest_of(1)
    assert record.release_size == len(promotion(1).manifest)


def test_the_serial_is_the_time(file: Path) -> None:
    assert run(file, promotion()).serial == int(NOW.timestamp())


def test_the_serial_grows_also_when_the_clock_does_not(file: Path) -> None:
    serials = [run(file, promotion(turn), NOW - turn * DAY).serial for turn in range(5)]
    assert serials == list(range(serials[0], serials[0] + 5))


def test_the_serial_is_above_the_previous_record_too(file: Path) -> None:
    write(file, Channel(current=seal(5), previous=seal(1 << 40)))
    assert run(file, promotion()).serial == (1 << 40) + 1


def write(file: Path, standing: Channel, name: str = "stable") -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(pins.render(pinned(**{name: standing})))


def test_what_went_to_every_node_is_what_they_fall_back_to(file: Path) -> None:
    run(file, promotion(1))
    run(file, promotion(2, percent=10))
    assert releases(file) == (digest_of(2), digest_of(1))


def test_a_canary_that_did_not_go_to_every_node_is_nothing_to_fall_back_to(file: Path) -> None:
    run(file, promotion(1))
    run(file, promotion(2, percent=10))
    run(file, promotion(3, percent=10))
    assert releases(file) == (digest_of(3), digest_of(1))


def test_a_release_that_was_rolled_back_is_nothing_to_fall_back_to(file: Path) -> None:
    run(file, promotion(1))
    run(file, promotion(2))
    promote.set_percent(file, "stable", 0)
    run(file, promotion(3))
    assert releases(file) == (digest_of(3), digest_of(1))


def test_the_same_release_again_falls_back_to_the_one_before(file: Path) -> None:
    run(file, promotion(1))
    run(file, promotion(2))
    run(file, promotion(2))
    assert releases(file) == (digest_of(2), digest_of(1))


def test_the_same_first_release_again_has_nothing_to_fall_back_to(file: Path) -> None:
    run(file, promotion(1))
    run(file, promotion(1))
    assert releases(file) == (digest_of(1), None)


def test_a_canary_that_went_to_some_is_nobodys_fallback(file: Path) -> None:
    run(file, promotion(1, percent=5))
    run(file, promotion(2, percent=5))
    assert releases(file) == (digest_of(2), None)


def test_moving_the_rollout_moves_one_number(file: Path) -> None:
    run(file, promotion(1))
    run(file, promotion(2))
    before = channel(file)
    assert promote.set_percent(file, "stable", 0) == before.model_copy(update={"percent": 0})
    assert channel(file) == before.model_copy(update={"percent": 0})
    promote.set_percent(file, "stable", 100)
    assert channel(file) == before


def test_other_channels_stay_as_they_are(file: Path) -> None:
    canary = Channel(current=seal(9, channel="canary"), previous=seal(8), percent=33)
    write(file, canary, "canary")
    run(file, promotion(1))
    run(file, promotion(2))
    promote.set_percent(file, "stable", 50)
    assert channel(file, "canary") == canary


def refused(file: Path, change: Callable[[], object]) -> NodeAgentError:
    """Expect a refusal that leaves the file as it is."""
    before = file.read_bytes() if file.exists() else None
    with pytest.raises(NodeAgentError) as caught:
        change()
    assert (file.read_bytes() if file.exists() else None) == before
    assert not list(file.parent.glob(".*"))
    return caught.value


@pytest.mark.parametrize("data", [b"", b"{}", b"not pins", b"\xff" * 10])
def test_pins_that_cannot_be_read_are_left_alone(file: Path, data: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(data)
    assert refused(file, lambda: run(file, promotion())).reason is Reason.PINS_INVALID
    moved = refused(file, lambda: promote.set_percent(file, "stable", 100))
    assert moved.reason is Reason.PINS_INVALID


def test_pins_that_hold_no_record_are_left_alone(file: Path) -> None:
    run(file, promotion())
    data = json.loads(file.read_bytes())
    data["channels"]["stable"]["current"]["payload"] = "bm8gcmVjb3Jk"
    file.write_text(json.dumps(data))
    assert refused(file, lambda: run(file, promotion())).reason is Reason.RECORD_INVALID


def test_a_directory_in_the_place_of_the_pins_is_told(file: Path) -> None:
    file.mkdir(parents=True)
    with pytest.raises(NodeAgentError, match="Is a directory") as caught:
        run(file, promotion())
    assert caught.value.reason is Reason.PINS_INVALID


def test_pins_that_cannot_be_written_are_told(file: Path) -> None:
    file.parent.write_text("in the way")
    with pytest.raises(NodeAgentError) as caught:
        run(file, promotion())
    assert caught.value.reason is Reason.PINS_INVALID


def test_a_place_that_cannot_be_made_is_told() -> None:
    with pytest.raises(NodeAgentError, match="cannot be written"):
        run(Path("/proc/nowhere/pins.json"), promotion())


def test_an_incomplete_manifest_is_not_promoted(file: Path) -> None:
    lacking = manifest(Item(path("ds"), references=(path("lacking"),)))
    error = refused(file, lambda: run(file, promotion(manifest=lacking)))
    assert error.reason is Reason.CLOSURE_INCOMPLETE
    assert path("lacking") in error.message


def test_what_is_no_manifest_is_not_promoted(file: Path) -> None:
    error = refused(file, lambda: run(file, promotion(manifest=b"{}")))
    assert error.reason is Reason.MANIFEST_INVALID


def test_pins_of_another_fleet_are_left_alone(file: Path) -> None:
    run(file, promotion(fleet="web"))
    error = refused(file, lambda: run(file, promotion(channel="canary")))
    assert error.reason is Reason.PINS_INVALID
    assert "fleet 'web', not of 'ml'" in error.message


@pytest.mark.parametrize("percent", [-1, 101])
def test_a_share_of_the_nodes_is_from_0_to_100(file: Path, percent: int) -> None:
    run(file, promotion(1))
    run(file, promotion(2))
    before = file.read_bytes()
    with pytest.raises(ValidationError):
        run(file, promotion(percent=percent))
    with pytest.raises(ValidationError):
        promote.set_percent(file, "stable", percent)
    assert file.read_bytes() == before


def test_without_a_record_there_is_nothing_to_move(file: Path) -> None:
    absent = refused(file, lambda: promote.set_percent(file, "stable", 0))
    assert "name the pins with --pins" in absent.message
    run(file, promotion())
    unknown = refused(file, lambda: promote.set_percent(file, "canary", 0))
    assert "promote a release to it first" in unknown.message


def test_without_a_previous_record_nobody_is_sent_back(file: Path) -> None:
    run(file, promotion())
    error = refused(file, lambda: promote.set_percent(file, "stable", 99))
    assert "no previous record to go back to" in error.message
    promote.set_percent(file, "stable", 100)


def test_whoever_reads_the_pins_meanwhile_reads_old_ones_or_new_ones(file: Path) -> None:
    run(file, promotion(1))
    with file.open("rb") as reader:
        run(file, promotion(2))
        assert pins.parse(reader.read()).channels["stable"].previous is None
    assert list(file.parent.iterdir()) == [file]


def test_a_record_expires_as_long_after_its_making_as_told(file: Path) -> None:
    record = run(file, promotion(expires_in=timedelta(hours=2)))
    assert record.expires_at - record.created_at == timedelta(hours=2)
