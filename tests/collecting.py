"""Collections whose holders say what a test lets them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from nodeagent.agent.collecting import Collecting
from nodeagent.agent.flow import Flow
from nodeagent.agent.holders import Holder, Rollout
from nodeagent.retention import Answer, Generation


@dataclass
class Told(Holder):
    """A holder that answers what it was told to."""

    answer: Answer = field(default_factory=lambda: Answer("pods"))
    asked: int = 0

    async def ask(self, generations: Sequence[Generation]) -> Answer:
        assert generations
        self.asked += 1
        return self.answer


def collecting(flow: Flow, told: Holder | None = None, **settings: float) -> Collecting:
    """Make a collection of a node that nobody else knows anything about."""
    usual = {"keep": 0, "grace": 900.0, "seconds": 600.0, "ensure_free": 0.0}
    chosen = usual | settings
    return Collecting(
        flow,
        [Rollout(flow), told or Told()],
        structlog.get_logger(),
        keep=int(chosen["keep"]),
        grace=timedelta(seconds=chosen["grace"]),
        seconds=chosen["seconds"],
        ensure_free=chosen["ensure_free"],
    )
