"""One at a time: no agent and no other cleanup works on the node's state meanwhile."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from nodeagent.disk import try_lock, usable
from nodeagent.errors import NodeAgentError
from nodeagent.ledger import LOCK
from nodeagent.names import Reason

PATIENCE_SECONDS: Final = 10.0  # an agent that was told to end needs a moment
POLL_SECONDS: Final = 0.1


@contextlib.asynccontextmanager
async def held(state_dir: Path) -> AsyncIterator[None]:
    """Hold the lock of a state directory, if there is one; raises AgentRunning."""
    if not state_dir.is_dir():
        yield
        return
    with usable(state_dir):
        file = (state_dir / LOCK).open("a")
    with file as lock:
        until = time.monotonic() + PATIENCE_SECONDS
        while not try_lock(lock.fileno()):
            if time.monotonic() > until:
                raise NodeAgentError(
                    Reason.AGENT_RUNNING,
                    f"an agent runs on {state_dir} (it holds {state_dir / LOCK}); end it, in a "
                    "cluster by `kubectl delete daemonset nodeagent -n nodeagent-system`, and run "
                    "this again",
                )
            await asyncio.sleep(POLL_SECONDS)
        yield
