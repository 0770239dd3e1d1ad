"""Ed25519 keys in Nix's own `name:base64` format, and what they sign.

Two kinds of key, never mixed: the *cache key* signs store paths, the *release key* signs
channel records. Formats: nix src/libutil/signature, `ValidPathInfo::fingerprint`.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

SEED_BYTES: Final = 32
PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True)
class SecretKey:
    """A key that signs. It never reaches a node."""

    name: str
    key: SigningKey

    def sign(self, data: bytes) -> bytes:
        """Give the 64 bytes of the signature alone."""
        return self.key.sign(data).signature

    def sign_text(self, data: bytes) -> str:
        """Sign as narinfo's `Sig:` does: `name:base64`."""
        return f"{self.name}:{base64.b64encode(self.sign(data)).decode()}"

    @property
    def public(self) -> str:
        """The public half, in Nix's format."""
        return f"{self.name}:{base64.b64encode(bytes(self.key.verify_key)).decode()}"


@dataclass(frozen=True)
class TrustedKeys:
    """Public keys by name. An empty set trusts nothing."""

    by_name: Mapping[str, VerifyKey]

    def verify(self, name: str, data: bytes, signature: bytes) -> bool:
        """Tell whether the key of that name, if trusted, made this signature."""
        key = self.by_name.get(name)
        if key is None or len(signature) != SIGNATURE_BYTES:
            return False
        try:
            key.verify(data, signature)
        except BadSignatureError:
            return False
        return True

    def verify_texts(self, signatures: Iterable[str], data: bytes) -> bool:
        """Tell whether any `name:base64` signature is by a trusted key over `data`."""
        for text in signatures:
            try:
                name, signature = _split(text)
            except ValueError:
                continue
            if self.verify(name, data, signature):
                return True
        return False

    @property
    def names(self) -> str:
        """The trusted names, for messages."""
        return ", ".join(sorted(self.by_name)) or "none"


def fingerprint(path: str, nar_hash: str, nar_size: int, references: Iterable[str]) -> bytes:
    """Build what a store path's signature covers; references are a sorted set of full paths."""
    return f"1;{path};{nar_hash};{nar_size};{','.join(sorted(set(references)))}".encode()


def parse_public(lines: Iterable[str]) -> TrustedKeys:
    """Read public keys, one `name:base64` an item; blanks and `#` lines are passed over."""
    keys: dict[str, VerifyKey] = {}
    for text in lines:
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        try:
            name, raw = _split(text.strip())
            if len(raw) != PUBLIC_BYTES:
                raise ValueError(f"{len(raw)} bytes instead of {PUBLIC_BYTES}")
        except ValueError as error:
            raise _bad_key(f"public key {text.strip()[:60]!r}", error) from None
        keys[name] = VerifyKey(raw)
    return TrustedKeys(keys)


def load_secret(file: Path) -> SecretKey:
    """Read a secret key file as `nix-store --generate-binary-cache-key` writes it."""
    try:
        name, raw = _split(file.read_text().strip())
        if len(raw) != SEED_BYTES + PUBLIC_BYTES:
            raise ValueError(f"{len(raw)} bytes instead of {SEED_BYTES + PUBLIC_BYTES}")
    except (OSError, ValueError) as error:
        raise _bad_key(f"secret key file {file}", error) from None
    return SecretKey(name, SigningKey(raw[:SEED_BYTES]))


def _split(text: str) -> tuple[str, bytes]:
    name, colon, encoded = text.partition(":")
    if not (name and colon):
        raise ValueError("no name before a colon")
    try:
        return name, base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _bad_key(what: str, error: Exception) -> NodeAgentError:
    return NodeAgentError(
        Reason.SETTING_INVALID,
        f"{what} cannot be used: {error}; make a pair with "
        "`nix-store --generate-binary-cache-key NAME SECRET_FILE PUBLIC_FILE`",
    )
