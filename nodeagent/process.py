"""The one place that starts processes.

Three traps are handled here once: the wait stands inside the time-out (a child may close its
pipes and live on), every child leads a session whose whole group is ended (children of a killed
`nix` keep their locks), and lines may be far longer than 64 KiB (nix prints such). What `run`
starts dies with us however we die: a guard at the head of its group waits for our end, too.
"""

import asyncio
import contextlib
import errno
import functools
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

LINE_LIMIT: Final = 64 << 20
GRACE_SECONDS: Final = 3.0
SHOWN_BYTES: Final = 2000
# The guard's program: whichever ends first, the child or we (the pipe's other end), ends the group.
# It outlives SIGTERM, which is for the child, and has its child's exit code or signal.
_GUARD: Final = """
import os, select, _signal as signal, sys
lifeline, argv = int(sys.argv[1]), sys.argv[2:]
os.set_inheritable(lifeline, False)
normal = [signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ]
for number in normal:
    signal.signal(number, signal.SIG_IGN)
child = os.posix_spawnp(argv[0], argv, os.environ, setsigdef=normal)
ended, _, _ = select.select([lifeline, os.pidfd_open(child)], [], [])
if lifeline in ended:
    os.killpg(0, signal.SIGKILL)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
if code < 0:
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


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
    if shutil.which(argv[0]) is None:
        raise _cannot_start(argv, os.strerror(errno.ENOENT))
    lifeline = _lifeline()
    guard = [sys.executable, "-I", "-S", "-c", _GUARD, str(lifeline)]
    async with started([*guard, *argv], env=env, pass_fds=[lifeline]) as child:
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
    pass_fds: Sequence[int] = (),
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
            pass_fds=pass_fds,
            limit=LINE_LIMIT,
        )
    except OSError as error:
        raise _cannot_start(argv, error.strerror or "") from None
    try:
        yield child
    finally:
        await asyncio.shield(_end(child))


@functools.cache
def _lifeline() -> int:
    """Give the reading end of a pipe whose other end nobody has but us, as long as we live."""
    reading, _ = os.pipe()
    return reading


def _cannot_start(argv: Sequence[str], cause: str) -> NodeAgentError:
    return NodeAgentError(Reason.SETTING_INVALID, f"cannot start {argv[0]}: {cause}; install it")


async def _end(child: asyncio.subprocess.Process) -> None:
    """End the group: in order, or at once where a loop that ends leaves no time for that."""
    try:
        await _end_in_order(child)
    except asyncio.CancelledError:
        _signal(child.pid, signal.SIGKILL)
        transport = child._transport  # type: ignore[attr-defined]  # noqa: SLF001 no public way
        transport.close()
        transport.get_extra_info("subprocess").wait(GRACE_SECONDS)
        raise


async def _end_in_order(child: asyncio.subprocess.Process) -> None:
    """End the group, politely first if its leader still runs."""
    if child.returncode is None:
        _signal(child.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await child.wait()
    _signal(child.pid, signal.SIGKILL)
    await _reaped(child)
    # `wait` also waits for the pipes, and a descendant that left the group may hold them.
    child._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 no public way
    await child.wait()


async def _reaped(child: asyncio.subprocess.Process) -> None:
    """Let asyncio see the end: closing the transport polls, and would take the exit code away."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GRACE_SECONDS):
            while child.returncode is None:  # noqa: ASYNC110 no event tells it before the pipes end
                await asyncio.sleep(0.005)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
