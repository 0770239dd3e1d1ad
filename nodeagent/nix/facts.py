"""What Nix says of store paths, in its several spellings: database rows, dumps and JSON."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nodeagent import keys, storepath
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.release import PathInfo

Dropped = tuple[str | None, str | None, str, str]  # sigs, ca, path, hash as the database has it


@dataclass(frozen=True)
class Registration:
    """One path to register: its facts and the signatures that vouch for them."""

    path: str
    info: PathInfo
    sigs: Sequence[str] = ()

    @property
    def fingerprint(self) -> bytes:
        """What its signatures cover."""
        info = self.info
        return keys.fingerprint(self.path, info.nar_hash, info.nar_size, info.references)


def from_row(path: str, row: tuple[Any, ...], references: list[str]) -> Registration:
    _, digest, size, deriver, ca, sigs = row
    info = PathInfo(
        nar_hash=narinfo_hash(digest),
        nar_size=size,
        references=tuple(references),
        ca=ca,
        deriver=deriver or None,
    )
    return Registration(path, info, tuple((sigs or "").split()))


def dropped(one: Registration) -> Dropped:
    digest = f"sha256:{_hex(one)}"
    return " ".join(sorted(one.sigs)) or None, one.info.ca, one.path, digest


def _hex(one: Registration) -> str:
    return storepath.unbase32(one.info.nar_hash.removeprefix("sha256:")).hex()


def dump_entry(one: Registration) -> str:
    """Write a path as `nix-store --dump-db` does."""
    facts = [one.path, _hex(one), one.info.nar_size, one.info.deriver or ""]
    lines = [*facts, len(one.info.references), *one.info.references]
    return "".join(f"{line}\n" for line in lines)


def by_path(told: bytes) -> list[tuple[str, Any]]:
    """Read `nix path-info --json`: a list up to Nix 2.18, by path since."""
    data: Any = json.loads(told)
    return list(data.items()) if isinstance(data, dict) else [(one["path"], one) for one in data]


def registration(path: str, entry: Mapping[str, Any]) -> Registration:
    """Read one item of `nix path-info --json`, as Nix 2.8 to 2.26 write it."""
    if not entry or entry.get("valid") is False:
        raise NodeAgentError(
            Reason.CLOSURE_INCOMPLETE, f"{path} is not valid in the store; build or copy it there"
        )
    info = PathInfo(
        nar_hash=narinfo_hash(entry["narHash"]),
        nar_size=entry["narSize"],
        references=tuple(sorted(entry["references"])),
        ca=entry.get("ca"),
        deriver=entry.get("deriver"),
    )
    return Registration(path, info, tuple(entry.get("signatures", ())))


def narinfo_hash(text: str) -> str:
    """Respell a SHA-256 (hex, SRI or Nix base 32) as narinfos do."""
    algorithm, encoded = re.split("[-:]", text, maxsplit=1)
    if algorithm != "sha256":
        raise NodeAgentError(Reason.STORE_UNUSABLE, f"a NAR hash that is not SHA-256: {text}")
    match len(encoded):
        case 64:
            return storepath.nar_hash(bytes.fromhex(encoded))
        case 52:
            return text
        case _:
            return storepath.nar_hash(base64.b64decode(encoded))
