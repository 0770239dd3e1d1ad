"""One file's bytes, carried on where a connection broke: at the same cache or at another.

The reader keeps reading and notices nothing. Whether the parts belong together is not decided
here: size and entity tag are compared, and in the end the hash of the whole tells.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from nodeagent.cache.body import Body
from nodeagent.cache.client import Cache
from nodeagent.errors import NodeAgentError

RESUMES: Final = 3  # in a row at one cache …
WORTH_BYTES: Final = 64 * 1024  # … that each brought less than this


@dataclass(frozen=True)
class Source:
    """One place where the file lies."""

    cache: Cache
    file: str


class Download:
    """A readable that begins at the first source; `others` must have the same bytes."""

    def __init__(self, source: Source, others: Iterable[Source], body: Body) -> None:
        self._source = source
        self._others = iter(others)
        self._body = body
        self._total, self._tag = body.total, body.tag
        self._at = self._broke_at = 0
        self._tries = 0
        self.resumed = False

    def read(self, size: int) -> bytes:
        """Give up to `size` bytes, none at the end; raises Broken when nobody carries on."""
        while True:
            try:
                data = self._body.read(size)
            except NodeAgentError as error:
                self._carry_on(error)
            else:
                self._at += len(data)
                self._source.cache.http.throttle.pay(len(data))
                return data

    def close(self) -> None:
        """Give the connection back, or end it."""
        self._body.close()

    def _carry_on(self, error: NodeAgentError) -> None:
        """Open the rest somewhere, or raise what broke."""
        self._body.close()
        if self._at == 0 or not self._body.resumable or self._total is None:
            raise error
        gained = self._at - self._broke_at
        self._tries += 1
        if gained >= WORTH_BYTES:
            self._tries = 1
            self._source.cache.health.good()
        self._broke_at = self._at
        same = [self._source] if self._tries <= RESUMES else []
        for source in itertools.chain(same, self._others):
            if self._opened(source):
                return
        raise error

    def _opened(self, source: Source) -> bool:
        tag = self._tag if source is self._source else None
        try:
            body = source.cache.body(source.file, self._at, tag)
        except NodeAgentError:
            return False
        if body is None:
            return False
        if body.total != self._total or (tag and body.tag not in {tag, None}):
            body.close()
            return False
        if source is not self._source:
            self._source, self._tag, self._tries = source, body.tag, 0
        self._body, self.resumed = body, True
        return True
