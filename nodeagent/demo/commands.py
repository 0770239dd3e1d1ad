"""Run commands the way a user would type them: shown first, then run, their failure told."""

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from typing import Final

import urllib3

from nodeagent import process
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

COMMAND_SECONDS: Final = 600.0
ANSWER_SECONDS: Final = 120.0
OK: Final = 200


def say(text: str) -> None:
    """Tell the person at the terminal."""
    print(text, flush=True)


def shown(program: str, argv: Sequence[str]) -> list[str]:
    """Print a command, and give it as it is run: nodeagent is this very installation."""
    say(f"$ {program} {' '.join(argv)}")
    return (
        [sys.executable, "-m", "nodeagent", *argv] if program == "nodeagent" else [program, *argv]
    )


async def run(program: str, *argv: str) -> str:
    """Show and run a command to its end; give what it printed."""
    done = await process.run(shown(program, argv), timeout=COMMAND_SECONDS)
    if done.code != 0:
        raise NodeAgentError(Reason.INTERNAL_ERROR, f"`{program}` failed: {done.complaint}")
    return done.stdout.decode().strip()


async def until_answers(url: str) -> None:
    """Wait until an address answers 200."""
    async with asyncio.timeout(ANSWER_SECONDS):
        while not await asyncio.to_thread(_answers, url):  # noqa: ASYNC110 another process's news
            await asyncio.sleep(0.1)


async def first_lines(url: str, count: int = 6) -> str:
    """Give the beginning of what an address answers."""
    answer = await asyncio.to_thread(urllib3.request, "GET", url, retries=False)
    lines = answer.data.decode().splitlines()
    return "\n".join([*lines[:count], *(["  …"] if len(lines) > count else [])])


def _answers(url: str) -> bool:
    with contextlib.suppress(urllib3.exceptions.HTTPError):
        return urllib3.request("GET", url, retries=False).status == OK
    return False
