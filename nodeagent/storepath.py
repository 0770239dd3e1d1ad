"""Nix's spelling of store paths and hashes.

Base 32 is Nix's own: the alphabet leaves out e, o, t and u, and the digits run from the
last bit to the first (nix: src/libutil/hash.cc, `printHash32`).
"""

import re
from pathlib import Path
from typing import Final

from nodeagent.names import STORE_DIR

ALPHABET: Final = "0123456789abcdfghijklmnpqrsvwxyz"
_VALUES: Final = {letter: value for value, letter in enumerate(ALPHABET)}

BASENAME_PATTERN: Final = rf"[{ALPHABET}]{{32}}-[0-9a-zA-Z+\-_?=][0-9a-zA-Z+\-._?=]{{0,210}}"
PATTERN: Final = rf"^{STORE_DIR}/{BASENAME_PATTERN}$"
HASH_PATTERN: Final = rf"^sha256:[01][{ALPHABET}]{{51}}$"  # 256 bits in 52 letters
_PATH: Final = re.compile(PATTERN.removesuffix("$") + r"\Z")
_BASENAME: Final = re.compile(BASENAME_PATTERN + r"\Z")
_HASH: Final = re.compile(HASH_PATTERN.removesuffix("$") + r"\Z")


def base32(digest: bytes) -> str:
    """Spell bytes in Nix's base 32: 32 bytes give 52 letters, 20 bytes give 32."""
    number = int.from_bytes(digest, "little")
    length = (len(digest) * 8 + 4) // 5
    return "".join(ALPHABET[number >> (5 * at) & 31] for at in reversed(range(length)))


def unbase32(text: str) -> bytes:
    """Read Nix's base 32 back; ValueError for a foreign letter or bits beyond the last byte."""
    number = 0
    for letter in text:
        if letter not in _VALUES:
            raise ValueError(f"{letter!r} is not a letter of Nix base 32")
        number = number << 5 | _VALUES[letter]
    try:
        return number.to_bytes(len(text) * 5 // 8, "little")
    except OverflowError:
        raise ValueError(f"{text!r} has bits beyond its last byte") from None


def nar_hash(digest: bytes) -> str:
    """Spell a SHA-256 digest as a narinfo does: `sha256:` and 52 letters."""
    return f"sha256:{base32(digest)}"


def is_path(text: str) -> bool:
    """Tell whether this is a full store path (and nothing below it)."""
    return _PATH.match(text) is not None


def is_basename(text: str) -> bool:
    """Tell whether this is the last component of a store path."""
    return _BASENAME.match(text) is not None


def is_hash(text: str) -> bool:
    """Tell whether this is a SHA-256 in narinfo spelling."""
    return _HASH.match(text) is not None


def basename(path: str) -> str:
    """Give the part after `/nix/store/`."""
    return path[len(STORE_DIR) + 1 :]


def hash_part(path: str) -> str:
    """Give the 32 letters that name the path's narinfo."""
    return path[len(STORE_DIR) + 1 : len(STORE_DIR) + 33]


def real(store_root: Path, path: str) -> Path:
    """Say where a store path lies on disk when the store's root is `store_root`."""
    return store_root / path.removeprefix("/")
