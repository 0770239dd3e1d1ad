from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent import storepath

HASH = "xp0dpr9yz5h0fk5c5lpj7zzqjbdh3w8c"
LETTERS = st.text(storepath.ALPHABET, min_size=32, max_size=32)


@pytest.mark.parametrize(
    ("digest", "text"),
    [  # nix-hash --type TYPE --base32 --flat FILE
        ("900150983cd24fb0d6963f7d28e17f72", "3jgzhjhz9zjvbb0kyj7jc500ch"),
        ("a9993e364706816aba3e25717850c26c9cd0d89d", "kpcd173cq987hw957sx6m0868wv3x6d9"),
        (
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
        ),
        (
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s",
        ),
    ],
)
def test_base32_is_nix_own(digest: str, text: str) -> None:
    assert storepath.base32(bytes.fromhex(digest)) == text
    assert storepath.unbase32(text).hex() == digest


@given(st.binary(max_size=80))
def test_base32_goes_both_ways(digest: bytes) -> None:
    assert storepath.unbase32(storepath.base32(digest)) == digest


@given(st.text(storepath.ALPHABET, min_size=52, max_size=52))
def test_a_text_of_a_digests_length_has_one_reading_or_none(text: str) -> None:
    try:
        digest = storepath.unbase32(text)
    except ValueError:
        assert not storepath.is_hash(f"sha256:{text}")
    else:
        assert storepath.is_hash(f"sha256:{text}")
        assert storepath.base32(digest) == text


@pytest.mark.parametrize("letter", [*"eotu", "E", "A", " ", "é", "\0"])
def test_a_foreign_letter_is_an_error(letter: str) -> None:
    with pytest.raises(ValueError, match="not a letter of Nix base 32"):
        storepath.unbase32(f"0{letter}0")


def test_bits_beyond_the_last_byte_are_an_error() -> None:
    with pytest.raises(ValueError, match="bits beyond its last byte"):
        storepath.unbase32("z" * 52)


@given(st.binary(min_size=32, max_size=32))
def test_every_sha256_is_spelled_as_a_hash(digest: bytes) -> None:
    assert storepath.is_hash(storepath.nar_hash(digest))


@pytest.mark.parametrize(
    "text",
    [
        *("", "sha256:", f"sha256:{'0' * 51}", f"sha256:{'0' * 53}", f"sha1:{'0' * 52}"),
        *(
            f"sha256:{'0' * 52}\n",
            f" sha256:{'0' * 52}",
            f"sha256:{'e' * 52}",
            f"sha256:{'z' * 52}",
        ),
        f"sha256-{'0' * 52}",
    ],
)
def test_other_spellings_are_no_hash(text: str) -> None:
    assert not storepath.is_hash(text)


@given(LETTERS, st.from_regex(r"[0-9a-zA-Z+\-_?=][0-9a-zA-Z+\-._?=]{0,210}", fullmatch=True))
def test_a_path_comes_apart_where_it_was_joined(letters: str, name: str) -> None:
    path = f"/nix/store/{letters}-{name}"
    assert storepath.is_path(path)
    assert storepath.is_basename(storepath.basename(path))
    assert storepath.basename(path) == f"{letters}-{name}"
    assert storepath.hash_part(path) == letters


@pytest.mark.parametrize(
    "path",
    [
        *("", "/nix/store", "/nix/store/", f"/nix/store/{HASH}", f"/nix/store/{HASH}-"),
        *(f"/nix/store/{HASH}-a/b", f"/nix/store/{HASH}-a/", f"/nix/store/{HASH}-a\n"),
        *(f"/nix/store/{HASH}-a b", f"/nix/store/{HASH}-a\0", f"/nix/store/{HASH}-é"),
        *(f"/nix/store/{HASH}-..", f"/nix/store/{HASH}-.", f"/nix/store/{HASH}-.hidden"),
        *(f"nix/store/{HASH}-a", f"/gnu/store/{HASH}-a", f"//nix/store/{HASH}-a"),
        *(f"/nix/store/../{HASH}-a", f"/nix/store/e{HASH[1:]}-a", f"/nix/store/{HASH}-{'n' * 212}"),
    ],
)
def test_anything_else_is_no_path(path: str) -> None:
    assert not storepath.is_path(path)
    assert not storepath.is_basename(path)


@pytest.mark.parametrize("name", ["..", ".", f"{HASH}-a/b", f"../{HASH}-a", f"{HASH}-a\n"])
def test_anything_else_is_no_basename(name: str) -> None:
    assert not storepath.is_basename(name)


def test_a_path_lies_under_its_stores_root() -> None:
    real = storepath.real(Path("/host"), f"/nix/store/{HASH}-a")
    assert real == Path(f"/host/nix/store/{HASH}-a")
