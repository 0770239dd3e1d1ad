"""A directory that is being unpacked: which names may come next."""

from nodeagent.nar.format import MAX_PATH, NarError


class Directory:
    """A directory that is being filled, and the last name in it."""

    __slots__ = ("last", "path")

    def __init__(self, path: bytes) -> None:
        self.path, self.last = path, b""

    def add(self, name: bytes) -> bytes:
        """Check the next name and give its path."""
        if name in {b".", b".."} or b"/" in name or b"\0" in name:
            raise NarError(f"a file name that no directory can hold: {name!r}")
        if name <= self.last:
            raise NarError(f"file names out of order: {name!r} after {self.last!r}")
        self.last = name
        path = b"%b/%b" % (self.path, name)
        if len(path) > MAX_PATH:
            raise NarError(f"a path of {len(path):,} bytes; Linux opens at most {MAX_PATH:,}")
        return path
