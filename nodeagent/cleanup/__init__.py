"""Cleanup: take what nodeagent made off a node again, in an order that can be broken off anywhere.

What brings pods here goes first, what says whose the store is goes last. Each step removes what it
finds, so a cleanup that failed or was killed is run again and goes on. No agent runs meanwhile.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nodeagent import log
from nodeagent.cleanup.files import Files
from nodeagent.cleanup.lock import held
from nodeagent.config import CleanupSettings
from nodeagent.errors import NodeAgentError
from nodeagent.names import RUN_DIR, Reason
from nodeagent.store import StoreFiles

if TYPE_CHECKING:
    from nodeagent.cleanup.cluster import Cluster

SHOWN = 5
Step = tuple[str, Callable[[], Awaitable[str]]]


async def run(settings: CleanupSettings) -> bool:
    """Clean the node up; raises before anything is changed if that must not be, else gives True."""
    logger = log.get()
    files = StoreFiles(settings.store_root.absolute())
    async with held(settings.state_dir), _connected(settings) as cluster:
        left = await _users(cluster, settings, files) if cluster else []
        if left:
            logger.warning("pods stay", pods=left)
        traces = Files(
            files,
            settings.run_dir,
            settings.state_dir,
            with_store=settings.store,
            used=bool(left) and not settings.store,
        )
        await asyncio.to_thread(traces.require_removable)
        if cluster is None:
            logger.info("cluster", done="not asked: there is no API server")
        for name, work in (*_in_cluster(cluster), *_on_disk(traces)):
            logger.info(name, done=await work())
    return True


def _in_cluster(cluster: "Cluster | None") -> Sequence[Step]:
    """List what others see of the node, in order."""
    if cluster is None:
        return ()
    return (
        ("labels", cluster.labels),
        ("taint", cluster.taint),
        ("condition", cluster.condition),
        ("nodestore", cluster.nodestore),
    )


def _on_disk(files: Files) -> Iterator[Step]:
    """List what is on the node, in order."""
    steps = {
        "gates": files.gates,
        "roots": files.roots,
        "store": files.content,
        "staging": files.staging,
        "state": files.state,
    }
    for name, work in steps.items():
        yield name, lambda work=work: asyncio.to_thread(work)  # type: ignore[misc]


async def _users(cluster: "Cluster", settings: CleanupSettings, files: StoreFiles) -> list[str]:
    """Name the pods that stay; raises InUse if there are any and nobody forces us."""
    store = Path(settings.host_store or files.store_dir).parent
    found = await cluster.node.users((RUN_DIR, str(store)))
    if not found or settings.force:
        return found
    raise NodeAgentError(Reason.IN_USE, _refusal(found, cluster.node.name, settings))


def _refusal(pods: Sequence[str], node: str, settings: CleanupSettings) -> str:
    count = "1 pod uses" if len(pods) == 1 else f"{len(pods)} pods use"
    more = f" and {len(pods) - SHOWN} more" if pods[SHOWN:] else ""
    what = (
        "then the store is deleted under them"
        if settings.store
        else "then they keep what they have mounted, and no other can start"
    )
    return (
        f"{count} what nodeagent made on {node}: {', '.join(pods[:SHOWN])}{more}; end them and run "
        f"this again, or give --force: {what}"
    )


@contextlib.asynccontextmanager
async def _connected(settings: CleanupSettings) -> AsyncIterator["Cluster | None"]:
    if not settings.in_cluster(os.environ):
        yield None
        return
    from nodeagent import kube  # a node without a cluster does without its 20 MiB
    from nodeagent.cleanup.cluster import Cluster

    async with kube.connected(settings.kubeconfig) as api:
        yield Cluster(kube.Node(api, settings.node_name), kube.NodeStore(api, settings.node_name))
