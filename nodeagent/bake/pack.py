"""Pack one store path: dump, hash, compress, hash again, all in one pass of bounded memory.

The file is named by its own hash, as Nix names it, and appears under that name whole.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zstandard

from nodeagent import nar, storepath

# Half again level 1's time for a tenth less to fetch; `nix copy` uses it, too.
LEVEL: Final = 3
COMPRESSION: Final = "zstd"
PART_SUFFIX: Final = ".part"


class Damaged(Exception):  # noqa: N818 a state of the tree
    """What lies in the store is not what the store's database says."""


@dataclass(frozen=True)
class Packed:
    """A compressed NAR in the cache directory; `file_size` in bytes."""

    url: str
    file_hash: str
    file_size: int


def pack(
    tree: bytes, nar_hash: str, nar_size: int, directory: Path, progress: Callable[[int], None]
) -> Packed:
    """Pack a tree into `directory`/nar.

    Raises Damaged if the tree is not the promised one, OSError if the directory takes no more.
    """
    plain, packed = hashlib.sha256(), hashlib.sha256()
    # With the size known beforehand small archives take small tables, here and in the reader.
    compressor = zstandard.ZstdCompressor(level=LEVEL).compressobj(size=nar_size)
    part = directory / "nar" / f".{os.getpid()}{PART_SUFFIX}"
    with part.open("wb", buffering=0) as out:
        for chunk in _promised(tree, nar_size):
            plain.update(chunk)
            if data := compressor.compress(chunk):
                packed.update(data)
                out.write(data)
            progress(len(chunk))
        if (found := storepath.nar_hash(plain.digest())) != nar_hash:
            raise Damaged(f"its contents have hash {found} instead of {nar_hash}")
        data = compressor.flush()
        packed.update(data)
        out.write(data)
        size = out.tell()
    url = f"nar/{storepath.base32(packed.digest())}.nar.zst"
    part.rename(directory / url)
    return Packed(url, storepath.nar_hash(packed.digest()), size)


def _promised(tree: bytes, nar_size: int) -> Iterator[bytes]:
    """Dump a tree of that size; whatever is wrong with the tree is Damaged."""
    size = 0
    try:
        for chunk in nar.dump(tree):
            size += len(chunk)
            if size > nar_size:
                raise Damaged(f"it is larger than the {nar_size:,} bytes it should have")
            yield chunk
    except OSError as error:
        raise Damaged(f"it cannot be read: {error}") from None
    except nar.NarError as error:
        raise Damaged(str(error)) from None
    if size != nar_size:
        raise Damaged(f"it has {size:,} bytes instead of {nar_size:,}")
