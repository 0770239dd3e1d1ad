"""Running asynchronous work from a test that is not."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end in a loop of its own.

    `asyncio.run` would also take away, unclosed, the loop that the asynchronous tests have.
    """
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work)
