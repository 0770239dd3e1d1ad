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


def first(error: BaseException) -> NodeAgentError | None:
    """Give the first expected failure of a task group; None if anything in it is unexpected."""
    while isinstance(error, BaseExceptionGroup):
        if error.split(NodeAgentError)[1] is not None:
            return None
        error = error.exceptions[0]
    return error if isinstance(error, NodeAgentError) else None
