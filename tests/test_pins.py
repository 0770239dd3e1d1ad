import base64
import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nodeagent import keys, pins
from nodeagent.errors import NodeAgentError
from nodeagent.keys import SecretKey, TrustedKeys
from nodeagent.names import API_VERSION, RECORD_TYPE, Reason
from nodeagent.pins import Channel, ChannelRecord, Envelope, Pins

KEY = SecretKey("release-1", SigningKey(b"\1" * 32))
STRANGER = SecretKey("release-1", SigningKey(b"\2" * 32))
TRUSTED = keys.parse_public([KEY.public])
NOBODY = TrustedKeys({})
DIGEST = f"sha256:{'ab' * 32}"
RECORD = ChannelRecord(
    fleet="ml",
    channel="stable",
    serial=7,
    release=DIGEST,
    release_size=1234,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    expires_at=datetime(2026, 2, 1, tzinfo=UTC),
    reason="flake update",
)
SEALED = Envelope.seal(RECORD, KEY)
PINS = Pins(caches=("main",), channels={"stable": Channel(current=SEALED, previous=SEALED)})

MOMENTS = st.datetimes(timezones=st.timezones()).filter(lambda moment: 1000 < moment.year < 9999)
RECORDS = st.fixed_dictionaries(
    {
        "fleet": st.text(max_size=9),
        "channel": st.text(max_size=9),
        "serial": st.integers(1, (1 << 53) - 1),
        "release": st.just(DIGEST),
        "release_size": st.integers(0, 1 << 40),
        "created_at": MOMENTS,
        "expires_at": MOMENTS,
        "not_before": st.none() | MOMENTS,
        "reason": st.text(max_size=20),
    }
).map(ChannelRecord.model_validate)


def sealed(payload: bytes, key: SecretKey = KEY, **changes: object) -> Envelope:
    """Sign any bytes as if they were a record."""
    signature = key.sign(pins.pre_authentication(RECORD_TYPE, payload))
    document = {
        "payloadType": RECORD_TYPE,
        "payload": base64.b64encode(payload),
        "signatures": [{"keyid": key.name, "sig": base64.b64encode(signature)}],
    }
    return Envelope.model_validate(document | changes)


def changed(*keys: str, to: Any) -> bytes:  # noqa: ANN401 any JSON
    """Give good pins with one place changed."""
    document = json.loads(pins.render(PINS))
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    return json.dumps(document).encode()


def refusal_of(envelope: Envelope, trusted: TrustedKeys = TRUSTED) -> NodeAgentError:
    with pytest.raises(NodeAgentError) as refusal:
        envelope.open(trusted)
    return refusal.value


def test_what_is_signed_is_dsses_pre_authentication_encoding() -> None:
    # https://github.com/secure-systems-lab/dsse, protocol.md, "Test vectors"
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pins.pre_authentication("http://example.com/HelloWorld", b"hello world") == expected


@given(st.text(), st.binary(), st.text(), st.binary())
def test_no_two_payloads_are_signed_alike(kind: str, one: bytes, other: str, two: bytes) -> None:
    same = pins.pre_authentication(kind, one) == pins.pre_authentication(other, two)
    assert same == ((kind, one) == (other, two))


@given(RECORDS)
def test_a_sealed_record_opens_to_itself(record: ChannelRecord) -> None:
    envelope = Envelope.seal(record, KEY)
    assert envelope.open(TRUSTED) == record
    assert Envelope.model_validate_json(envelope.model_dump_json(by_alias=True)) == envelope


def test_a_record_speaks_utc_wherever_it_was_written() -> None:
    east = datetime(2026, 1, 1, 2, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    record = ChannelRecord.model_validate(dict(RECORD) | {"created_at": east})
    assert record.created_at == RECORD.created_at
    assert b'"createdAt":"2026-01-01T00:00:00Z"' in Envelope.seal(record, KEY).payload


@given(st.binary(max_size=200))
def test_a_signed_payload_of_garbage_is_an_invalid_record(garbage: bytes) -> None:
    assert refusal_of(sealed(garbage)).reason is Reason.RECORD_INVALID


@given(st.binary(max_size=200))
def test_an_unsigned_payload_of_garbage_is_never_parsed(garbage: bytes) -> None:
    assert refusal_of(sealed(garbage, STRANGER)).reason is Reason.SIGNATURE_INVALID
    assert refusal_of(sealed(garbage), NOBODY).reason is Reason.SIGNATURE_INVALID


@pytest.mark.parametrize(
    "change",
    [
        *({"kind": "Pins"}, {"surprise": 1}, {"serial": 0}, {"serial": 1 << 53}, {"serial": "7"}),
        *({"serial": 7.0}, {"serial": True}, {"release": "latest"}, {"releaseSize": -1}),
        *(
            {"fleet": 1},
            {"fleet": None},
            {"expiresAt": "2026-02-01T00:00:00"},
            {"expiresAt": "soon"},
        ),
        *({"createdAt": "0001-01-01T00:00:00+05:00"}, {"notBefore": "9999-12-31T23:59:59-05:00"}),
    ],
)
def test_a_signed_record_that_is_malformed_is_invalid(change: dict[str, object]) -> None:
    payload = json.dumps(json.loads(SEALED.payload) | change).encode()
    refusal = refusal_of(sealed(payload))
    assert refusal.reason is Reason.RECORD_INVALID
    assert next(iter(change)) in refusal.message


@given(st.data())
def test_one_flipped_bit_of_the_payload_ends_trust(data: st.DataObject) -> None:
    payload = bytearray(SEALED.payload)
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    forged = SEALED.model_copy(update={"payload": bytes(payload)})
    assert refusal_of(forged).reason is Reason.SIGNATURE_INVALID


def test_a_signature_over_the_payload_alone_does_not_count() -> None:
    signature = {"keyid": KEY.name, "sig": base64.b64encode(KEY.sign(SEALED.payload))}
    forged = sealed(SEALED.payload, signatures=[signature])
    assert refusal_of(forged).reason is Reason.SIGNATURE_INVALID


def test_any_one_trusted_signature_is_enough() -> None:
    other = sealed(SEALED.payload, STRANGER)
    both = SEALED.model_copy(update={"signatures": (*other.signatures, *SEALED.signatures)})
    assert both.open(TRUSTED) == RECORD


def test_a_refused_signature_names_who_is_trusted_and_who_signed() -> None:
    refusal = refusal_of(sealed(b"x", dataclasses.replace(KEY, name="rogue-1")))
    assert "trusted: release-1; signed by: rogue-1" in refusal.message
    nobody = refusal_of(SEALED.model_copy(update={"signatures": ()}), NOBODY)
    assert "trusted: none; signed by: nobody" in nobody.message


def test_a_record_can_be_shown_without_trust() -> None:
    assert sealed(SEALED.payload, STRANGER).peek() == RECORD


def test_an_envelope_is_known_by_its_payload_whoever_signed_it() -> None:
    assert sealed(SEALED.payload, STRANGER).identity == SEALED.identity
    assert sealed(b"other").identity != SEALED.identity


@given(
    st.dictionaries(st.text(max_size=9), st.builds(Channel, current=st.just(SEALED)), max_size=3)
)
def test_rendered_pins_are_read_back(channels: dict[str, Channel]) -> None:
    document = Pins(caches=("a", "b"), channels=channels)
    assert pins.parse(pins.render(document)) == document


@pytest.mark.parametrize(
    "document",
    [
        *(b"", b"{}", b"null", b"[]", b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 100_000),
        pins.render(PINS).replace(b"stable", b"st\xffable"),
        pins.render(PINS) + b" " * pins.MAX_PINS_BYTES,
        changed("apiVersion", to="nodeagent.dev/v2"),
        changed("kind", to="Release"),
        changed("surprise", to=1),
        changed("caches", to="main"),
        changed("channels", "stable", "surprise", to=1),
        *(
            changed("channels", "stable", "percent", to=it)
            for it in (-1, 101, "25", 2.5, 25.0, True)
        ),
        changed("channels", "stable", "current", to=None),
        changed("channels", "stable", "current", "payloadType", to="text/plain"),
        changed("channels", "stable", "current", "payload", to="A"),
        changed("channels", "stable", "current", "surprise", to=1),
        changed("channels", "stable", "current", "signatures", to=[{"keyid": "a", "sig": ""}] * 17),
    ],
)
def test_malformed_pins_are_refused_in_one_sentence(document: bytes) -> None:
    with pytest.raises(NodeAgentError, match="the pins cannot be read: ") as refusal:
        pins.parse(document)
    assert refusal.value.reason is Reason.PINS_INVALID
    assert refusal.value.message.endswith("; write them with `nodeagent promote`")
    assert "\n" not in refusal.value.message


@given(st.binary(max_size=200))
def test_noise_is_refused_as_pins(noise: bytes) -> None:
    with pytest.raises(NodeAgentError) as refusal:
        pins.parse(noise)
    assert refusal.value.reason is Reason.PINS_INVALID


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_json_that_is_no_pins_is_refused(value: object) -> None:
    for document in (value, {"caches": value, "channels": value}, {"channels": {"stable": value}}):
        with pytest.raises(NodeAgentError) as refusal:
            pins.parse(json.dumps(document).encode())
        assert refusal.value.reason is Reason.PINS_INVALID


def test_a_key_name_that_would_break_a_line_of_the_log_is_refused() -> None:
    signature = {"keyid": "release-1\nforged line", "sig": ""}
    envelope = {"payloadType": RECORD_TYPE, "payload": "", "signatures": [signature]}
    document = {"apiVersion": API_VERSION, "kind": "Pins", "caches": []}
    with pytest.raises(NodeAgentError) as refusal:
        pins.parse(json.dumps(document | {"channels": {"stable": {"current": envelope}}}).encode())
    assert refusal.value.reason is Reason.PINS_INVALID
    assert "\n" not in refusal.value.message
