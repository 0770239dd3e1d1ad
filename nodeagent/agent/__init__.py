"""The node agent: pins in, verified store and open gates out.

`run` is the composition root; the flow of one pass is `agent.flow`, when passes run and which
gives way to which is `agent.loop`, what others see of it is `agent.view`.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from nodeagent import cores, keys, log, selinux, source
from nodeagent.agent.collecting import Collecting
from nodeagent.agent.flow import Flow
from nodeagent.agent.holders import Mounts, Pods, Rollout
from nodeagent.agent.loop import Loop
from nodeagent.agent.scrub import Pace, Scrubbing
from nodeagent.agent.view import AgentView
from nodeagent.cache import Access
from nodeagent.config import AgentSettings
from nodeagent.errors import NodeAgentError
from nodeagent.ledger import Ledger
from nodeagent.metrics import Metrics
from nodeagent.names import Reason
from nodeagent.nix import Nix
from nodeagent.publish import Gates
from nodeagent.realise import stock
from nodeagent.realise.run import WORKER, Means
from nodeagent.report import Problem, Report, clock
from nodeagent.select import Node
from nodeagent.serve import endpoints, health
from nodeagent.store import StoreFiles

if TYPE_CHECKING:
    from nodeagent.agent.announce import Announcer


async def run(settings: AgentSettings) -> bool:
    """Keep this node's pins realised until cancelled, or for one pass; tell if it succeeded."""
    logger = log.get()
    view = _compose(settings, logger)
    loop, flow, nix = view.loop, view.flow, view.flow.means.nix

    async with (
        endpoints.listening(health.app(view), settings.host, settings.port),
        _announcing(settings, view, logger) as announcer,
        view.selinux.explained(),
    ):
        logger.info(
            "started",
            node=loop.node.name,
            fleet=loop.node.fleet,
            store=str(flow.means.files.store_dir),
            port=settings.port,
            kubernetes=announcer is not None,
        )
        async with flow.ledger.owned(
            on_wait=lambda: logger.info(
                "waiting for another agent to end", state=str(settings.state_dir)
            )
        ):
            await _claim(view, shared=settings.share_store or nix.daemon is not None)
            await nix.create()
            with view.scrubbing.owed():
                await flow.restore()
                if settings.once:
                    return await loop.once()
                await _forever(settings.pins.parent, view, announcer)
    return True


def _compose(settings: AgentSettings, logger: FilteringBoundLogger) -> AgentView:
    """Put an agent together; refuse what cannot be used now, not in the first pass."""
    metrics = Metrics()
    report = Report(_teller(logger, metrics), clock=clock(settings.clock_skew_seconds))
    node = Node(
        settings.node_name,
        settings.fleet,
        settings.channel,
        keys.parse_public(_lines(settings.release_keys)),
    )
    means = _means(settings)
    gates = Gates(settings.run_dir, settings.host_store or str(means.files.store_dir))
    ledger, boot_id = Ledger(settings.state_dir), _boot_id(settings)
    flow = Flow(means, ledger, gates, report, metrics, settings.system, boot_id)
    loop = Loop(settings, node, flow, logger)
    pace = Pace(settings.scrub_days * 86400, settings.scrub_bytes_per_second or None)
    scrubbing = Scrubbing(flow, loop.wake, logger, pace)
    collecting = Collecting(
        flow,
        [Rollout(flow), Mounts(settings.run_dir)],
        logger,
        keep=settings.keep_releases,
        grace=timedelta(seconds=settings.collect_grace_seconds),
        seconds=settings.collect_seconds,
        ensure_free=settings.ensure_free,
    )
    flow.make_room = collecting.make_room
    return AgentView(loop, settings.system, scrubbing, collecting, selinux.find())


def _means(settings: AgentSettings) -> Means:
    files = StoreFiles(settings.store_root.absolute(), settings.durable)
    return Means(
        files=files,
        nix=Nix(files.root, daemon=stock.daemon(files.root, settings.executor)),
        caches=settings.cache_addresses,
        cache_keys=_trusted_lines(settings.cache_keys),
        workers=settings.workers or cores.usable(),
        worker=(*gently(settings), *WORKER),
        access=_access(settings),
    )


async def _claim(view: AgentView, *, shared: bool) -> None:
    """Take the store, and let containers read what will lie there; a shared one stays as it is."""
    files, run_dir = view.flow.means.files, view.flow.gates.run_dir
    files.claim(share=shared)
    ours = () if shared else (files.staging, files.store_dir, *files.store_dir.iterdir())
    gates = (run_dir, *run_dir.glob("releases/*/*"))
    await asyncio.to_thread(view.selinux.label, (*gates, *ours))


async def _forever(pins: Path, view: AgentView, announcer: "Announcer | None") -> None:
    """Do everything side by side until cancelled."""
    loop, store = view.loop, view.flow.means.files.store_dir
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(source.watch(pins, loop.wake), name="watch-pins")
        losses = source.watch(store, loop.wake, source.is_loss, source.STORE_STEP_MILLISECONDS)
        tasks.create_task(losses, name="watch-store")
        tasks.create_task(loop.forever(), name="loop")
        tasks.create_task(view.scrubbing.run(), name="scrub")
        tasks.create_task(view.collecting.run(), name="collect")
        if announcer is not None:
            tasks.create_task(announcer.forever(), name="announce")


@contextlib.asynccontextmanager
async def _announcing(
    settings: AgentSettings, view: AgentView, logger: FilteringBoundLogger
) -> AsyncIterator["Announcer | None"]:
    """Connect what the agent says of itself to the API server, if there is one."""
    if not settings.in_cluster(os.environ):
        yield None
        return
    from nodeagent import kube  # an agent without a cluster does without its 20 MiB
    from nodeagent.agent.announce import Announcer

    name, flow = view.loop.node.name, view.flow
    async with kube.connected(settings.kubeconfig) as api:
        announcer = Announcer(
            kube.Node(api, name),
            kube.NodeStore(api, name),
            kube.Events(api, name, flow.report.clock),
            view,
            flow.metrics,
            logger,
            flow.report.clock,
            startup_taint=settings.startup_taint,
        )
        tell = flow.report.on_problem

        def hear(problem: Problem) -> None:
            tell(problem)
            announcer.hear(problem)

        flow.report.on_problem, flow.report.on_change = hear, announcer.wake
        view.loop.labels = announcer.labels
        margin = timedelta(seconds=settings.collect_margin_seconds)
        pods = Pods(announcer.node, flow.report.clock, margin)
        view.collecting.holders = (Rollout(flow), pods)
        yield announcer


def gently(settings: AgentSettings) -> Sequence[str]:
    """Give the commands that make workers stand back behind the node's other work."""
    nice = ("nice", "-n", str(settings.nice)) if settings.nice else ()
    return (*nice, *(("ionice", "-c", "idle") if settings.idle_io else ()))


def _teller(logger: FilteringBoundLogger, metrics: Metrics) -> Callable[[Problem], None]:
    """Make each new problem a log line and a count."""

    def tell(problem: Problem) -> None:
        logger.warning(problem.message, reason=problem.reason)
        metrics.refused(problem.reason)

    return tell


def _access(settings: AgentSettings) -> Access:
    """Say how caches are reached; refuse unusable files now, not in each worker."""
    access = Access(
        netrc=str(settings.netrc) if settings.netrc else None,
        ca_file=str(settings.ca_file) if settings.ca_file else None,
        connect_seconds=settings.connect_seconds,
        stall_seconds=settings.stall_seconds,
        bytes_per_second=settings.bytes_per_second,
    )
    access.require_usable()
    return access


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError as error:
        raise NodeAgentError(
            Reason.SETTING_INVALID,
            f"the public keys {file} cannot be read: {error.strerror}; mount them, or name the "
            "file with --release-keys or --cache-keys",
        ) from None


def _trusted_lines(file: Path) -> list[str]:
    """Read the cache keys for the workers; refuse a malformed one now, not in each of them."""
    lines = _lines(file)
    keys.parse_public(lines)
    return lines


def _boot_id(settings: AgentSettings) -> str:
    try:
        return settings.boot_id_file.read_text().strip()
    except OSError as error:
        raise NodeAgentError(
            Reason.SETTING_INVALID,
            f"the boot id {settings.boot_id_file} cannot be read: {error.strerror}; "
            "set --boot-id-file",
        ) from None
