"""Room on a file system. Apart from what needs and has it: workers start without models."""

from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20


@dataclass(frozen=True)
class Space:
    """Room on a file system; `inodes` is None where it does not count them."""

    bytes: int
    inodes: int | None

    def __str__(self) -> str:
        inodes = "" if self.inodes is None else f", {self.inodes} inodes"
        return f"{self.bytes // MIB} MiB{inodes}"
