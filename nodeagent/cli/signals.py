"""Run an asynchronous command until it ends or a signal asks it to."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

INTERRUPTED: Final = 130  # what a shell reports after Ctrl-C
T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T | None:
    """Run to the end; SIGTERM or SIGINT cancels the work, lets it clean up, and gives None."""

    async def main() -> T | None:
        task = asyncio.create_task(work)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            return None

    return asyncio.run(main())
