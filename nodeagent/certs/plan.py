"""When to make a CA, who signs, and when a server needs a new certificate. Pure; unix seconds.

A successor is made long before its predecessor ends, and signs only once its certificate has
been in the webhook configuration for so long that every API server has seen it. All CAs of the
list are published: what is published follows from the list alone and from nobody's clock, so
replicas cannot disagree about it. A CA that ended leaves the list when its second successor is
made; until then it proves nothing and harms nobody.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Base64Bytes, Field, TypeAdapter, ValidationError

from nodeagent.certs import x509
from nodeagent.certs.x509 import Issuer
from nodeagent.errors import NodeAgentError
from nodeagent.model import Document, Size, explain
from nodeagent.names import Reason

HOUR: Final = 3600
DAY: Final = 24 * HOUR
AUTHORITY_SECONDS: Final = 90 * DAY
LEAF_SECONDS: Final = 7 * DAY
RIPE_SECONDS: Final = HOUR  # how late an API server may see what is published
SKEW_SECONDS: Final = HOUR  # how late another machine's clock may be
KEPT_EXPIRED: Final = 2


class Authority(Document):
    """A CA: the seed of its key, from when to when it is valid, since when it is published."""

    seed: Annotated[Base64Bytes, Field(min_length=32, max_length=32, repr=False)]
    since: Size
    until: Size
    published: Size | None = None

    @property
    def issuer(self) -> Issuer:
        """Name it after its key, so that no two have the same name."""
        key = hashlib.sha256(x509.public_bytes(self.seed)).hexdigest()
        return Issuer(f"nodeagent-webhook {key[:12]}", self.seed)

    @property
    def certificate(self) -> str:
        """Its certificate, in PEM."""
        return x509.authority(self.issuer, self.since, self.until)

    def is_valid(self, now: int) -> bool:
        """Tell whether its certificate holds."""
        return self.since <= now < self.until


_LIST: Final = TypeAdapter(tuple[Authority, ...])


@dataclass(frozen=True)
class Leaf:
    """A server's certificate: which CA signed it, and from when to when it is valid."""

    authority: Authority
    seed: bytes
    since: int
    until: int

    def chain(self, hosts: Sequence[str]) -> str:
        """Its certificate for these host names, in PEM."""
        return x509.server(self.authority.issuer, self.seed, hosts, self.since, self.until)


def lacks_authority(authorities: Sequence[Authority], now: int) -> bool:
    """Tell whether no CA will do for long: one that is valid, with a third of its life left."""
    return not any(
        one.is_valid(now) and now < one.until - AUTHORITY_SECONDS // 3 for one in authorities
    )


def succeeded(authorities: Sequence[Authority], seed: bytes, now: int) -> tuple[Authority, ...]:
    """Add a CA that is valid from now on, and let the oldest of those go that ended."""
    made = Authority.model_construct(
        seed=seed, since=now - SKEW_SECONDS, until=now + AUTHORITY_SECONDS, published=None
    )
    expired = sorted((one for one in authorities if one.until <= now), key=_end)
    gone = expired[:-KEPT_EXPIRED]
    return (*(one for one in authorities if one not in gone), made)


def published(authorities: Sequence[Authority], now: int) -> tuple[Authority, ...]:
    """Note that all of them are published, those from now on that were not."""
    return tuple(
        one if one.published is not None else one.model_copy(update={"published": now})
        for one in authorities
    )


def bundle(authorities: Sequence[Authority]) -> str:
    """Put together what API servers shall trust, in PEM."""
    return "".join(one.certificate for one in authorities)


def signer(authorities: Sequence[Authority], now: int) -> Authority | None:
    """Choose who signs: the newest that every API server knows, else the oldest that is valid."""
    valid = sorted((one for one in authorities if one.is_valid(now)), key=_start)
    ripe = [
        one for one in valid if one.published is not None and one.published + RIPE_SECONDS <= now
    ]
    return ripe[-1] if ripe else valid[0] if valid else None


def is_due(leaf: Leaf | None, authority: Authority, now: int) -> bool:
    """Tell whether a server needs a new certificate: another signs, or two thirds have passed."""
    if leaf is None or leaf.authority.seed != authority.seed:
        return True
    return not leaf.since <= now < leaf.since + (leaf.until - leaf.since) * 2 // 3


def sign(authority: Authority, seed: bytes, now: int) -> Leaf:
    """Make a server's certificate; it does not outlive the CA's."""
    until = min(now + LEAF_SECONDS, authority.until)
    return Leaf(authority, seed, max(now - SKEW_SECONDS, authority.since), until)


def parse(text: bytes | None, where: str) -> tuple[Authority, ...]:
    """Read the list, empty where there is none; raises SettingInvalid, naming `where` it lies."""
    if text is None:
        return ()
    try:
        return _LIST.validate_json(text)
    except ValidationError as error:
        raise NodeAgentError(
            Reason.SETTING_INVALID,
            f"{where} cannot be read: {explain(error)}; if no newer version wrote it, remove it, "
            "and new certificates are made",
        ) from None


def dump(authorities: tuple[Authority, ...]) -> bytes:
    """Write the list."""
    return _LIST.dump_json(authorities, by_alias=True)


def _start(authority: Authority) -> int:
    return authority.since


def _end(authority: Authority) -> int:
    return authority.until
