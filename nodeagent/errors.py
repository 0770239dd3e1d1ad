"""The one family of exceptions: each says what failed, why, and what to do about it.

Expected failures carry a `Reason`, so that status, log, metric and condition speak one
vocabulary. Library exceptions are translated at the boundary and never leak past it.
"""

from nodeagent.names import Reason


class NodeAgentError(Exception):
    """Anything nodeagent raises on purpose: a `Reason`, and one sentence for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def message(self) -> str:
        """What failed, why, and the next step: one sentence; a list may follow, a line an item."""
        return str(self)


def first(group: BaseExceptionGroup[BaseException]) -> NodeAgentError:
    """Give the first expected failure of a task group; anything unexpected is raised as it is."""
    expected, surprises = group.split(NodeAgentError)
    if surprises is not None or expected is None:
        raise group
    error: BaseException = expected
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, NodeAgentError)  # noqa: S101 split made sure
    return error
