"""What is certified, and to whom."""

import ssl
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
import trustme
from cryptography import x509 as oracle
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.certs import x509
from nodeagent.certs.x509 import Issuer

SINCE: Final = 1_800_000_000
DAY: Final = 24 * 3600
ISSUER: Final = Issuer("nodeagent-webhook", b"\x01" * 32)
HOSTS: Final = ["nodeagent-webhook.nodeagent-system.svc", "localhost"]
TIMES: Final = st.integers(0, 4_000_000_000)  # until 2096: both kinds of time
SEEDS: Final = st.binary(min_size=32, max_size=32)


def read(pem: str) -> oracle.Certificate:
    return oracle.load_pem_x509_certificate(pem.encode())


@given(SEEDS, SEEDS, TIMES)
def test_a_ca_and_what_it_signs_are_certificates_to_others(
    ca_seed: bytes, seed: bytes, since: int
) -> None:
    issuer, until = Issuer("somebody", ca_seed), since + DAY
    ca = read(x509.authority(issuer, since, until))
    leaf = read(x509.server(issuer, seed, HOSTS, since, until))
    ca.verify_directly_issued_by(ca)
    leaf.verify_directly_issued_by(ca)
    for one in (ca, leaf):
        assert one.not_valid_before_utc == datetime.fromtimestamp(since, UTC)
        assert one.not_valid_after_utc == datetime.fromtimestamp(until, UTC)
        assert 0 < one.serial_number < 1 << 159
    names = leaf.extensions.get_extension_for_class(oracle.SubjectAlternativeName).value
    assert names.get_values_for_type(oracle.DNSName) == HOSTS


def test_a_ca_may_sign_servers_and_no_ca_and_a_server_nothing() -> None:
    ca = read(x509.authority(ISSUER, SINCE, SINCE + DAY))
    leaf = read(x509.server(ISSUER, b"\x02" * 32, HOSTS, SINCE, SINCE + DAY))
    limits = [
        one.extensions.get_extension_for_class(oracle.BasicConstraints).value for one in (ca, leaf)
    ]
    assert limits == [
        oracle.BasicConstraints(ca=True, path_length=0),
        oracle.BasicConstraints(ca=False, path_length=None),
    ]
    usage = [one.extensions.get_extension_for_class(oracle.KeyUsage).value for one in (ca, leaf)]
    assert [(one.key_cert_sign, one.digital_signature) for one in usage] == [
        (True, False),
        (False, True),
    ]


@given(SEEDS)
def test_a_private_key_is_the_one_that_grows_from_the_seed(seed: bytes) -> None:
    key = serialization.load_pem_private_key(x509.private_key(seed).encode(), None)
    assert isinstance(key, Ed25519PrivateKey)
    assert key.private_bytes_raw() == seed


@given(TIMES)
def test_the_end_is_read_as_it_was_written(until: int) -> None:
    assert x509.expiry(x509.authority(ISSUER, 0, until)) == until


def test_the_end_of_a_chain_that_somebody_else_made_is_read() -> None:
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=7)
    made = trustme.CA().issue_cert("localhost", not_after=ends)
    chain = "Subject: whoever\n" + "".join(one.bytes().decode() for one in made.cert_chain_pems)
    assert x509.expiry(chain) == ends.timestamp()


@pytest.mark.parametrize(
    "chain",
    [
        "",
        "-----BEGIN CERTIFICATE-----\n",
        "-----END CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----",
        ssl.DER_cert_to_PEM_cert(b"\x30\x05\x01"),
    ],
)
def test_what_is_no_certificate_is_a_value_error(chain: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        x509.expiry(chain)


@given(st.binary(max_size=300))
def test_bytes_at_random_are_a_value_error_or_a_time(data: bytes) -> None:
    try:
        x509.expiry(ssl.DER_cert_to_PEM_cert(data))
    except ValueError:
        return
    raise AssertionError("no certificate is this short")
