"""A process that holds a fleet snapshot, lists everything again and again, and tells what it took.

`python -m nodeagent.bench.holder KUBECONFIG SECONDS` prints JSON: sizes in MiB, times in seconds.
"""

import asyncio
import contextlib
import json
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import psutil

from nodeagent import kube
from nodeagent.fleet import Snapshot
from nodeagent.kube.watch import Times
from nodeagent.names import NAMESPACE

SILENCE: Final = 4.0  # after which everything is listed anew
_MIB: Final = 1 << 20


async def _hold(kubeconfig: Path, seconds: float) -> dict[str, float]:
    """Hold a snapshot, list it again and again, and tell what that took."""
    me, began = psutil.Process(), time.perf_counter()
    before = me.memory_info().rss
    async with kube.connected(kubeconfig) as api:
        held = Snapshot(api, NAMESPACE, times=Times(silence=SILENCE))
        async with _running(held):
            while not held.whole:  # noqa: ASYNC110 its tasks' news
                await asyncio.sleep(0.01)
            whole = time.perf_counter() - began
            await asyncio.sleep(seconds)
            nodes = held.fleet().nodes
            return {
                "before": before / _MIB,
                "rss": me.memory_info().rss / _MIB,
                "peak": _peak(),
                "whole": whole,
                "ready": sum(one.agent_ready and bool(one.profiles) for one in nodes.values()),
            }


def _peak() -> float:
    """Give the highest RSS in MiB; what `getrusage` tells begins with that of the parent."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None  # noqa: S101 for the type checker
    return int(found[1]) / 1024


@contextlib.asynccontextmanager
async def _running(held: Snapshot) -> AsyncIterator[None]:
    task = asyncio.create_task(held.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_hold(Path(sys.argv[1]), float(sys.argv[2])))))
