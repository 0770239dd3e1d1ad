"""X.509 certificates with Ed25519 keys.

A certificate follows from its keys, its times and its names alone: Ed25519 throws no dice, and the
serial is a hash. So what is trusted follows from the list of CAs, whoever writes it down.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Issuer:
    """Who signs: a name, and the seed of its key."""

    name: str
    seed: bytes

    @property
    def key(self) -> Ed25519PrivateKey:
        """The key that grows from the seed."""
        return Ed25519PrivateKey.from_private_bytes(self.seed)


def public_bytes(seed: bytes) -> bytes:
    """Give the public half of the key that grows from a seed."""
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def authority(issuer: Issuer, since: int, until: int) -> str:
    """Certify, in PEM, a CA by itself: it may sign servers, and no further CA."""
    public = issuer.key.public_key()
    made = (
        _begun(issuer, _name(issuer.name), public, (since, until))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    return _signed(issuer, made)


def server(issuer: Issuer, seed: bytes, hosts: Sequence[str], since: int, until: int) -> str:
    """Certify, in PEM, a server of these host names, whose key grows from `seed`."""
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    hosts_named = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    made = (
        _begun(issuer, x509.Name([]), public, (since, until))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(signer, critical=False)
        # Critical, for the subject is empty: a common name is 64 letters at most, a host is not.
        .add_extension(hosts_named, critical=True)
    )
    return _signed(issuer, made)


def private_key(seed: bytes) -> str:
    """Write a private key in PEM, PKCS #8."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def expiry(chain: str) -> int:
    """Give the unix time at which the first certificate of a PEM file ends; raises ValueError."""
    first, *_ = x509.load_pem_x509_certificates(chain.encode())
    return int(first.not_valid_after_utc.timestamp())


def _begun(
    issuer: Issuer, subject: x509.Name, public: Ed25519PublicKey, validity: tuple[int, int]
) -> x509.CertificateBuilder:
    since, until = (datetime.fromtimestamp(moment, UTC) for moment in validity)
    return x509.CertificateBuilder(
        issuer_name=_name(issuer.name),
        subject_name=subject,
        public_key=public,
        serial_number=_serial(issuer, public, validity),
        not_valid_before=since,
        not_valid_after=until,
    )


def _signed(issuer: Issuer, made: x509.CertificateBuilder) -> str:
    return made.sign(issuer.key, algorithm=None).public_bytes(Encoding.PEM).decode()


def _serial(issuer: Issuer, public: Ed25519PublicKey, validity: tuple[int, int]) -> int:
    """Number a certificate: positive, at most 20 bytes, another one for other contents."""
    key = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    digest = hashlib.sha256(b"%b %b %d %d" % (public_bytes(issuer.seed), key, *validity)).digest()
    return int.from_bytes(digest[:16]) | 1


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
