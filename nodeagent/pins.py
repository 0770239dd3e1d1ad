"""Pins: which signed release each channel of a fleet stands at, and for how many nodes.

A channel record travels in a DSSE envelope. Its signature is checked over the
pre-authentication encoding before a byte of the payload is parsed
(https://github.com/secure-systems-lab/dsse, `protocol.md`).
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Base64Bytes, Field, ValidationError

from nodeagent import model
from nodeagent.errors import NodeAgentError
from nodeagent.keys import SecretKey, TrustedKeys
from nodeagent.model import Digest, Document, Moment, Size
from nodeagent.names import API_VERSION, RECORD_TYPE, Reason

MAX_PINS_BYTES: Final = 1 << 20  # what a ConfigMap can hold


Percent = Annotated[int, Field(ge=0, le=100)]


class ChannelRecord(Document):
    """Which release a channel stands at. `release_size` is the manifest's, in bytes."""

    kind: Literal["ChannelRecord"] = "ChannelRecord"
    fleet: str
    channel: str
    serial: Annotated[int, Field(ge=1, lt=1 << 53)]
    release: Digest
    release_size: Size
    created_at: Moment
    expires_at: Moment
    not_before: Moment | None = None
    reason: str = ""


class Signature(Document):
    """One signature of an envelope; `keyid` is the key's name."""

    keyid: Annotated[str, Field(pattern=r"^[!-~]{1,128}$")]
    sig: Base64Bytes


class Envelope(Document):
    """A DSSE envelope. `payload` is not trusted before `open` said so."""

    payload_type: Literal["application/vnd.nodeagent.channel-record.v1+json"]
    payload: Base64Bytes
    signatures: Annotated[tuple[Signature, ...], Field(max_length=16)]

    @property
    def identity(self) -> str:
        """Name the record inside by its bytes, whoever signed it."""
        return hashlib.sha256(self.payload).hexdigest()

    @classmethod
    def seal(cls, record: ChannelRecord, key: SecretKey) -> Self:
        """Sign a record."""
        payload = record.model_dump_json(by_alias=True, exclude_none=True).encode()
        signature = key.sign(pre_authentication(RECORD_TYPE, payload))
        return cls.model_validate(
            {
                "payloadType": RECORD_TYPE,
                "payload": base64.b64encode(payload),
                "signatures": [{"keyid": key.name, "sig": base64.b64encode(signature)}],
            }
        )

    def open(self, trusted: TrustedKeys) -> ChannelRecord:
        """Verify, then parse; raises SignatureInvalid or RecordInvalid."""
        signed = pre_authentication(self.payload_type, self.payload)
        if not any(trusted.verify(one.keyid, signed, one.sig) for one in self.signatures):
            raise NodeAgentError(
                Reason.SIGNATURE_INVALID,
                f"no valid signature by a trusted release key (trusted: {trusted.names}; "
                f"signed by: {', '.join(one.keyid for one in self.signatures) or 'nobody'}); "
                "sign it with a trusted key or add the key to --release-keys",
            )
        return self.peek()

    def peek(self) -> ChannelRecord:
        """Parse without trust, for showing; raises RecordInvalid."""
        try:
            return ChannelRecord.model_validate_json(self.payload, strict=True)
        except ValidationError as error:
            raise NodeAgentError(
                Reason.RECORD_INVALID,
                f"the channel record cannot be read: {model.explain(error)}; "
                "promote with the same major version of nodeagent",
            ) from None


class Channel(Document):
    """One channel: nodes below `percent` take `current`, the others `previous`."""

    current: Envelope
    previous: Envelope | None = None
    percent: Percent = 100


class Pins(Document):
    """The document that promotion writes and every agent reads."""

    api_version: Literal["nodeagent.dev/v1"] = API_VERSION
    kind: Literal["Pins"] = "Pins"
    caches: tuple[str, ...]
    channels: Mapping[str, Channel]


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """Build DSSE's PAE: what a signature covers."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def parse(data: bytes) -> Pins:
    """Read a pins document; raises PinsInvalid."""
    try:
        if len(data) > MAX_PINS_BYTES:
            raise _invalid(f"it has {len(data):,} bytes, more than {MAX_PINS_BYTES:,}")
        return Pins.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise _invalid(model.explain(error)) from None


def render(pins: Pins) -> bytes:
    """Write a pins document for a file or a ConfigMap."""
    return pins.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode() + b"\n"


def _invalid(cause: str) -> NodeAgentError:
    return NodeAgentError(
        Reason.PINS_INVALID,
        f"the pins cannot be read: {cause}; write them with `nodeagent promote`",
    )
