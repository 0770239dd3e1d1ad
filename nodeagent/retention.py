"""Retention: which generations a node keeps, which it lets go, and why. Pure.

A generation goes in three steps, each decided anew from what is known then: its gate is
withdrawn, a grace passes, and if still nobody needs it, it is deleted. Who does not answer may
need anything: then nothing moves.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from nodeagent.history import Span

UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class Generation:
    """A release that the node has; without spans pods never got it here."""

    digest: str
    spans: tuple[Span, ...] = ()
    withdrawn: datetime | None = None

    @property
    def last(self) -> datetime | None:
        """When it began to be what pods got, the last time."""
        return max((span.since for span in self.spans), default=None)


@dataclass(frozen=True)
class Container:
    """A container on the node that has our mounts; it uses what it found when it started.

    Nobody knows when, without `started`.
    """

    name: str
    started: datetime | None


@dataclass(frozen=True)
class Answer:
    """What one holder needs: why, by digest; or why it is `silent`."""

    holder: str
    needs: Mapping[str, str] = field(default_factory=dict)
    silent: str = ""


class Step(StrEnum):
    """What becomes of a generation."""

    KEEP = "keep"
    WITHDRAW = "withdraw"
    WAIT = "wait"
    DELETE = "delete"


@dataclass(frozen=True)
class Verdict:
    """What becomes of a generation now, and why."""

    digest: str
    step: Step
    reason: str
    by: str = ""  # the holder that keeps it
    unsure: bool = False  # it stays because somebody does not answer


def judge(
    generations: Sequence[Generation],
    answers: Sequence[Answer],
    grace: timedelta,
    now: datetime,
) -> list[Verdict]:
    """Decide about every generation."""
    return [_judge(one, answers, grace, now) for one in generations]


def _judge(
    generation: Generation, answers: Sequence[Answer], grace: timedelta, now: datetime
) -> Verdict:
    digest = generation.digest
    needs = {answer.holder: answer.needs[digest] for answer in answers if digest in answer.needs}
    silences = [f"{answer.holder}: {answer.silent}" for answer in answers if answer.silent]
    if needs:
        return Verdict(digest, Step.KEEP, "; ".join(needs.values()), by=next(iter(needs)))
    if silences:
        why = f"nobody knows who needs it ({'; '.join(silences)})"
        return Verdict(digest, Step.KEEP, why, by=UNKNOWN, unsure=True)
    if generation.withdrawn is None:
        return Verdict(digest, Step.WITHDRAW, f"nobody needs it; it goes after {grace}")
    left = generation.withdrawn + grace - now
    if left > timedelta():
        return Verdict(digest, Step.WAIT, f"nobody needs it; it goes in {left}")
    return Verdict(digest, Step.DELETE, "nobody needed it all through its grace")


def newest(generations: Iterable[Generation], count: int) -> dict[str, str]:
    """Choose those that pods got last: a rollback further than to the previous one is a swap."""
    known = [(one.last, one.digest) for one in generations if one.last is not None]
    return dict.fromkeys(
        (digest for _, digest in sorted(known, reverse=True)[:count]),
        f"it is one of {count} more that pods got last",
    )


def used(
    generations: Sequence[Generation], containers: Iterable[Container], margin: timedelta
) -> dict[str, str]:
    """Say which generations containers may use: those that pods got when each started.

    `margin` lies at most between the binding of a container's mounts and its start. One that is
    older than all that is remembered, or of an unknown time, may use any of them.
    """
    needs: dict[str, str] = {}
    for container in containers:
        started = container.started
        covering = [
            one.digest
            for one in generations
            if started is not None and any(_covers(span, started, margin) for span in one.spans)
        ]
        for digest in covering or [one.digest for one in generations]:
            needs.setdefault(digest, f"container {container.name} may use it")
    return needs


def _covers(span: Span, started: datetime, margin: timedelta) -> bool:
    ended = span.until is not None and started > span.until + margin
    return started >= span.since - margin and not ended
