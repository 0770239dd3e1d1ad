"""The narinfo text of a store path, as every Nix client reads it.

Only what nodeagent needs is kept; unknown keys are passed over (nix: src/libstore/nar-info.cc).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from nodeagent import storepath
from nodeagent.names import STORE_DIR

MAX_BYTES: Final = 1 << 20
_KNOWN: Final = frozenset(
    {"StorePath", "URL", "Compression", "FileHash", "FileSize"}
    | {"NarHash", "NarSize", "References", "Deriver", "CA"}
)


@dataclass(frozen=True)
class NarInfo:
    """One store path in a binary cache: sizes in bytes, references as full store paths."""

    path: str
    url: str
    compression: str
    nar_hash: str
    nar_size: int
    references: tuple[str, ...] = ()
    file_hash: str | None = None
    file_size: int | None = None
    deriver: str | None = None
    ca: str | None = None
    sigs: tuple[str, ...] = ()


def render(info: NarInfo) -> str:
    """Write a narinfo in the order that Nix itself writes."""
    references = " ".join(storepath.basename(ref) for ref in sorted(info.references))
    lines = [
        ("StorePath", info.path),
        ("URL", info.url),
        ("Compression", info.compression),
        ("FileHash", info.file_hash),
        ("FileSize", info.file_size),
        ("NarHash", info.nar_hash),
        ("NarSize", info.nar_size),
        ("References", references),
        ("Deriver", info.deriver and storepath.basename(info.deriver)),
        *(("Sig", sig) for sig in info.sigs),
        ("CA", info.ca),
    ]
    return "".join(f"{key}: {value}\n" for key, value in lines if value is not None)


def parse(text: str) -> NarInfo:
    """Read a narinfo; ValueError names what is missing, doubled or malformed."""
    fields: dict[str, str] = {}
    sigs: list[str] = []
    for line in text.removesuffix("\n").split("\n"):
        key, colon, value = line.partition(": ")
        if not colon:
            key, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"line without a colon: {line[:80]!r}")
        if key == "Sig":
            sigs.append(value)
        elif key in _KNOWN and fields.setdefault(key, value) != value:
            raise ValueError(f"{key} stands twice")
    return NarInfo(
        path=_checked(fields, "StorePath", storepath.is_path),
        url=_checked(fields, "URL", bool),
        compression=fields.get("Compression") or "bzip2",
        nar_hash=_checked(fields, "NarHash", storepath.is_hash),
        nar_size=_size(fields, "NarSize"),
        references=tuple(_paths(fields.get("References", "").split())),
        file_hash=fields.get("FileHash"),
        file_size=_size(fields, "FileSize") if "FileSize" in fields else None,
        deriver=_deriver(fields.get("Deriver")),
        ca=fields.get("CA"),
        sigs=tuple(sigs),
    )


def _checked(fields: dict[str, str], key: str, valid: Callable[[str], bool]) -> str:
    value = fields.get(key, "")
    if not valid(value):
        raise ValueError(f"{key} is missing or malformed: {value[:80]!r}")
    return value


def _size(fields: dict[str, str], key: str) -> int:
    value = fields.get(key, "")
    if not (value.isascii() and value.isdigit() and len(value) <= 19):
        raise ValueError(f"{key} is not a size: {value[:80]!r}")
    return int(value)


def _paths(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        if not storepath.is_basename(name):
            raise ValueError(f"not a store path: {name[:80]!r}")
        yield f"{STORE_DIR}/{name}"


def _deriver(name: str | None) -> str | None:
    return next(iter(_paths([name]))) if name and name != "unknown-deriver" else None
