"""History: which releases a node has held, and when pods got each. What collection goes by.

Kept in the agent's state. Every change gives a new history; the clock is an argument.
"""

from collections.abc import Container, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, Self

from nodeagent.model import Digest, Kept, Moment

EVER: Final = datetime.fromtimestamp(0, UTC)
MOST_SPANS: Final = 20  # of one release: it comes back with each rollback


class Span(Kept):
    """A time in which pods got a release; without `until` they still do."""

    since: Moment
    until: Moment | None = None


class Remembered(Kept):
    """What is remembered of one release; `withdrawn` while it waits to be deleted."""

    spans: tuple[Span, ...] = ()
    withdrawn: Moment | None = None


class History(Kept):
    """The releases that pods got on this node, as long as anything of them is there."""

    generations: Mapping[Digest, Remembered] = {}

    @property
    def latest(self) -> datetime:
        """Give the latest moment that was noted: no clock should be behind that."""
        spans = [span for one in self.generations.values() for span in one.spans]
        noted = (span.until or span.since for span in spans if span.since != EVER)
        return max(noted, default=EVER)

    def opened(self, digest: str, now: datetime) -> Self:
        """Note that pods may get this one from now on."""
        spans = self.generations.get(digest, Remembered()).spans
        if not spans or spans[-1].until is not None:
            spans = (*_few(spans), Span(since=now))
        return self._with({**self.generations, digest: Remembered(spans=spans)})

    def published(self, digest: str, now: datetime, gates: Container[str] = ()) -> Self:
        """Note that pods get this one, and of the others only those that gates still lead to."""
        opened = self.opened(digest, now).generations
        stay = [known for known in opened if known == digest or known in gates]
        return self._with(
            {known: one if known in stay else _end(one, now) for known, one in opened.items()}
        )

    def withdraw(self, digest: str, now: datetime) -> Self:
        """Note since when it waits to be deleted."""
        return self._changed(digest, withdrawn=now)

    def readmit(self, digest: str) -> Self:
        """Note that it stays after all."""
        return self._changed(digest, withdrawn=None)

    def forget(self, digest: str) -> Self:
        """Note that nothing of it is there any more."""
        return self._with({key: one for key, one in self.generations.items() if key != digest})

    def unsure(self, kept: Iterable[str], until: datetime) -> Self:
        """Note that pods may have got any of these, and of those known, at any time until then."""
        spans = (Span(since=EVER, until=until),)
        return self._with(dict.fromkeys([*self.generations, *kept], Remembered(spans=spans)))

    def _changed(self, digest: str, **fields: object) -> Self:
        known = self.generations.get(digest, Remembered())
        return self._with({**self.generations, digest: known.model_copy(update=fields)})

    def _with(self, generations: Mapping[str, Remembered]) -> Self:
        return self.model_copy(update={"generations": generations})


def _few(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    """Bound their number: the two oldest become one that covers the time between, too."""
    if len(spans) < MOST_SPANS:
        return spans
    first, second, *later = spans
    return (first.model_copy(update={"until": second.until}), *later)


def _end(one: Remembered, now: datetime) -> Remembered:
    if not one.spans or one.spans[-1].until is not None:
        return one
    spans = (*one.spans[:-1], one.spans[-1].model_copy(update={"until": now}))
    return one.model_copy(update={"spans": spans})
