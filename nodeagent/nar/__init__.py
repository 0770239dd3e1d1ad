"""The Nix archive (NAR) format: unpack, dump, measure.

Format: Dolstra, "The Purely Functional Software Deployment Model", figure 5.2; nix:
src/libutil/archive.cc. Every string is a little-endian u64 length, the bytes, and zero
padding to 8. Reading is strict: what Nix would not write is refused, before memory or disk
is taken for it.
"""

from nodeagent.nar.dump import dump, hash_tree, measure
from nodeagent.nar.format import CHUNK, DIRECTORY_MODE, FILE_MODE, MTIME, NarError
from nodeagent.nar.stream import Read
from nodeagent.nar.unpack import unpack

__all__ = [
    "CHUNK",
    "DIRECTORY_MODE",
    "FILE_MODE",
    "MTIME",
    "NarError",
    "Read",
    "dump",
    "hash_tree",
    "measure",
    "unpack",
]
