"""The one place that starts processes.

Three traps are handled here once: the wait stands inside the time-out (a child may close its
pipes and live on), every child leads a session whose whole group is ended (children of a killed
`nix` keep their locks), and lines may be far longer than 64 KiB (nix prints such).
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

LINE_LIMIT: Final = 64 << 20
GRACE_SECONDS: Final = 3.0
SHOWN_BYTES: Final = 2000


@dataclass(frozen=True)
class Completed:
    """What a process left behind."""

    argv: Sequence[str]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def complaint(self) -> str:
        """The end of what it said on stderr, on one line."""
        text = self.stderr.decode(errors="replace")[-SHOWN_BYTES:]
        return "; ".join(line.strip() for line in text.splitlines() if line.strip())


async def run(
    argv: Sequence[str],
    *,
    timeout: float,  # noqa: ASYNC109 the time-out must also end the child's group
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run to the end; whatever the exit code. Raises TimeoutError after `timeout` seconds."""
    async with started(argv, env=env) as child:
        async with asyncio.timeout(timeout):
            stdout, stderr = await child.communicate(stdin)
            code = await child.wait()
    return Completed(argv, code, stdout, stderr)


@contextlib.asynccontextmanager
async def started(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stderr: int | None = asyncio.subprocess.PIPE,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Own a process with piped stdin and stdout; on leaving, its whole group is ended."""
    try:
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env=None if env is None else {**os.environ, **env},
            start_new_session=True,
            limit=LINE_LIMIT,
        )
    except OSError as error:
        raise NodeAgentError(
            Reason.SETTING_INVALID, f"cannot start {argv[0]}: {error.strerror}; install it"
        ) from None
    try:
        yield child
    finally:
        await asyncio.shield(_end(child))


async def _end(child: asyncio.subprocess.Process) -> None:
    """End the group, politely first if its leader still runs."""
    if child.returncode is None:
        _signal(child.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await child.wait()
    _signal(child.pid, signal.SIGKILL)
    # `wait` also waits for the pipes, and a descendant that left the group may hold them.
    child._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 no public way
    await child.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
