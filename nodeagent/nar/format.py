"""The tokens of the NAR grammar, encoded once."""

from typing import Final

CHUNK: Final = 256 * 1024
MAX_NAME: Final = 255  # NAME_MAX of every Linux file system
MAX_PATH: Final = 4095  # PATH_MAX less the NUL; symlink targets, too
FILE_MODE: Final = 0o444
EXECUTABLE_MODE: Final = 0o555
DIRECTORY_MODE: Final = 0o555
STAGED_DIRECTORY_MODE: Final = 0o755
MTIME: Final = 1


class NarError(Exception):
    """The bytes are no NAR that Nix would write, or not the one that was promised."""


def encode(text: bytes) -> bytes:
    """Encode one string: length, bytes, padding."""
    return len(text).to_bytes(8, "little") + text + bytes(-len(text) % 8)


def padded(length: int) -> int:
    """Say how many bytes a string of this length takes after its length word."""
    return length + -length % 8


MAGIC: Final = encode(b"nix-archive-1")
OPEN: Final = encode(b"(") + encode(b"type")
CLOSE: Final = encode(b")")
REGULAR: Final = encode(b"regular")
EXECUTABLE: Final = encode(b"executable") + encode(b"")
CONTENTS: Final = encode(b"contents")
SYMLINK: Final = encode(b"symlink") + encode(b"target")
DIRECTORY: Final = encode(b"directory")
ENTRY: Final = encode(b"entry") + encode(b"(") + encode(b"name")
NODE: Final = encode(b"node")
