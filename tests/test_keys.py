import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nodeagent import keys
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

# Made by Nix 2.8: `nix-store --generate-binary-cache-key`, `nix store sign`.
SECRET = (
    "test-cache-1:L1bGLSeRNh4ZKcndcqH28AjHROBalpAztmOcAVtCm08"
    "hVIWjZrEDp/P7Sz6y7kXOtJSeXmgAfv+T/Sit8MZMgg=="
)
PUBLIC = "test-cache-1:IVSFo2axA6fz+0s+su5FzrSUnl5oAH7/k/0orfDGTII="
REFERENCES = [
    "/nix/store/6jnlzxydkw0jj6hpfpbby504744npsja-aa",
    "/nix/store/dqqmd8dv4zyl6g6qawbvqsr2y9jambjj-bb",
]
PATH = "/nix/store/vzhaz6vc790gljk97mcvilqzah3rw0zg-with-refs"
NAR_HASH = "sha256:1k5i622m2c8n1gxraa82fs244p9a5l3k1sd8n1wb0nd5q9jqyrcj"
SIGNATURE = (
    "test-cache-1:UFrfcXDBW62KwZnoiybt/V5XILjeix1GSd28z/Pb069"
    "jXKFJAMbt7aYwS9LUCXIEdGq9W5au/mtSMiRsEowyBA=="
)
SIGNED = keys.fingerprint(PATH, NAR_HASH, 216, REFERENCES)


@pytest.fixture
def secret(tmp_path: Path) -> keys.SecretKey:
    (tmp_path / "key").write_text(SECRET)
    return keys.load_secret(tmp_path / "key")


def test_a_signature_that_nix_made_is_verified() -> None:
    assert keys.parse_public([PUBLIC]).verify_texts([SIGNATURE], SIGNED)


def test_a_signature_is_the_one_that_nix_would_make(secret: keys.SecretKey) -> None:
    assert secret.sign_text(SIGNED) == SIGNATURE


def test_a_secret_key_knows_its_public_half(secret: keys.SecretKey) -> None:
    assert secret.public == PUBLIC


@given(st.permutations(REFERENCES * 2))
def test_a_fingerprint_takes_references_as_a_set(references: list[str]) -> None:
    assert keys.fingerprint(PATH, NAR_HASH, 216, references) == SIGNED


@given(
    st.binary(), st.binary(min_size=32, max_size=32), st.from_regex(r"[a-z0-9.-]+", fullmatch=True)
)
def test_what_a_key_signs_its_public_half_verifies(data: bytes, seed: bytes, name: str) -> None:
    key = keys.SecretKey(name, SigningKey(seed))
    assert keys.parse_public([key.public]).verify_texts([key.sign_text(data)], data)


@given(st.integers(0, 64 * 8 - 1), st.booleans())
def test_one_flipped_bit_ends_trust(bit: int, in_data: bool) -> None:
    name, _, text = SIGNATURE.partition(":")
    signature, data = bytearray(base64.b64decode(text)), bytearray(SIGNED)
    target = data if in_data else signature
    target[bit // 8] ^= 1 << bit % 8
    assert not keys.parse_public([PUBLIC]).verify(name, bytes(data), bytes(signature))


@given(st.binary(max_size=100))
def test_noise_is_no_signature(noise: bytes) -> None:
    trusted = keys.parse_public([PUBLIC])
    assert not trusted.verify("test-cache-1", SIGNED, noise)
    assert not trusted.verify_texts([f"test-cache-1:{base64.b64encode(noise).decode()}"], SIGNED)


@given(st.lists(st.text(max_size=20)))
def test_one_good_signature_among_noise_is_enough(noise: list[str]) -> None:
    trusted = keys.parse_public([PUBLIC])
    assert trusted.verify_texts([*noise, "x", "test-cache-1:?", SIGNATURE], SIGNED)
    assert not trusted.verify_texts(noise, SIGNED)


def test_a_signature_counts_only_under_its_keys_name() -> None:
    renamed = SIGNATURE.replace("test-cache-1", "another-1")
    assert not keys.parse_public([PUBLIC]).verify_texts([renamed], SIGNED)
    stranger = keys.SecretKey("test-cache-1", SigningKey(bytes(32)))
    assert not keys.parse_public([PUBLIC]).verify_texts([stranger.sign_text(SIGNED)], SIGNED)


def test_an_empty_set_trusts_nothing() -> None:
    trusted = keys.parse_public([])
    assert not trusted.verify_texts([SIGNATURE], SIGNED)
    assert trusted.names == "none"


def test_blanks_and_comments_are_passed_over() -> None:
    trusted = keys.parse_public(
        ["", "  ", "# release keys", f"  {PUBLIC}\n", "b-1:" + "A" * 43 + "="]
    )
    assert trusted.names == "b-1, test-cache-1"


@pytest.mark.parametrize(
    "text",
    [
        *("nonsense", ":", "name:", ":IVSFo2axA6fz+0s+su5FzrSUnl5oAH7/k/0orfDGTII=", "name:AAAA"),
        *("name:not base64!", "name:IVSFo2axA6fz", "name:é", PUBLIC[:-1], PUBLIC + "A", SECRET),
    ],
)
def test_a_malformed_public_key_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(NodeAgentError, match="generate-binary-cache-key") as refusal:
        keys.parse_public([text])
    assert refusal.value.reason is Reason.SETTING_INVALID


def test_a_refused_key_is_shown_only_in_part() -> None:
    with pytest.raises(NodeAgentError) as refusal:
        keys.parse_public(["x" * 10_000])
    assert len(refusal.value.message) < 300


@pytest.mark.parametrize("contents", [b"", b"name", PUBLIC.encode(), b"\xff\xfe", b"name:AAAA"])
def test_a_malformed_secret_key_is_refused_without_being_shown(
    tmp_path: Path, contents: bytes
) -> None:
    (tmp_path / "key").write_bytes(contents)
    with pytest.raises(NodeAgentError, match="secret key file") as refusal:
        keys.load_secret(tmp_path / "key")
    assert refusal.value.reason is Reason.SETTING_INVALID
    assert "AAAA" not in refusal.value.message


def test_a_missing_secret_key_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(NodeAgentError, match="No such file"):
        keys.load_secret(tmp_path / "missing")
