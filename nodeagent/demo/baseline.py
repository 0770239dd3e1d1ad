"""The other side of the comparison: what a task does today, `pip install` and then import."""

import sys
import time
from pathlib import Path
from typing import Final

from nodeagent import process
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

TIMEOUT_SECONDS: Final = 600.0


async def install(directory: Path, lock: Path) -> tuple[Path, float]:
    """Install a lock into a fresh environment without pip's cache; give its Python and seconds."""
    await _run([sys.executable, "-m", "venv", "--without-pip", str(directory)])
    python = directory / "bin/python"
    argv = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet",
            "--no-cache-dir", "--disable-pip-version-check", "--only-binary", ":all:",
            "--require-hashes", "--requirement", str(lock)]  # fmt: skip
    return python, await timed(argv)


async def timed(argv: list[str]) -> float:
    """Run a command that must succeed; give its seconds."""
    started = time.monotonic()
    await _run(argv)
    return time.monotonic() - started


async def _run(argv: list[str]) -> None:
    done = await process.run(argv, timeout=TIMEOUT_SECONDS)
    if done.code != 0:
        raise NodeAgentError(
            Reason.INTERNAL_ERROR, f"`{' '.join(argv[:4])} …` failed: {done.complaint}"
        )
