"""Realise: carry out a plan. Workers pour into staging; here finished paths are committed.

Commit = root, sync, rename, register, always a batch whose references are all registered
already or in the batch. A cancelled pass finishes the commit it is in; what else was finished
waits in staging for the next pass.
"""

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final

from nodeagent import disk, plan, process
from nodeagent.cache import Access, Down
from nodeagent.errors import NodeAgentError
from nodeagent.messages import encode
from nodeagent.names import Reason
from nodeagent.nix import Nix, Registration
from nodeagent.plan import Plan, Step
from nodeagent.realise import stock
from nodeagent.realise.jobs import Done, Failed, Job, Progress, Setup, Where, read_event
from nodeagent.release import Location
from nodeagent.store import StoreFiles

WORKER: Final = (sys.executable, "-m", "nodeagent.realise.worker")
COMMIT_PAUSE_SECONDS: Final = 2.0
AHEAD_BYTES: Final = 1 << 20  # of NARs that wait in a worker's pipe: it should never wait for us
MAX_BATCH: Final = 1000
MAX_DEATHS: Final = 5  # of workers in one pass: more would only be started to die, too
_FOR_ALL: Final = {Reason.CACHE_UNREACHABLE, Reason.STORE_UNUSABLE, Reason.DISK_SHORT}


@dataclass(frozen=True)
class Failure:
    """A path that could not be brought, and why."""

    path: str
    reason: Reason
    message: str


@dataclass(frozen=True)
class Means:
    """What a pass pours with; `caches` are (name, address) in order of preference."""

    files: StoreFiles
    nix: Nix
    caches: Sequence[tuple[str, str]]
    cache_keys: Sequence[str]
    workers: int
    worker: Sequence[str] = WORKER
    access: Access = field(default_factory=Access)
    down: Sequence[Down] = ()


@dataclass
class Tally:
    """How far a pass is; the agent reports it while the pass runs."""

    bytes_done: int = 0
    paths_done: int = 0
    paths_fetched: int = 0


@dataclass
class _Given:
    """What a worker was given and is not done with: one large path, or several small ones."""

    steps: deque[Step] = field(default_factory=deque)
    bytes: int = 0

    def has_room(self, step: Step) -> bool:
        return not self.steps or self.bytes + step.info.nar_size <= AHEAD_BYTES

    def add(self, step: Step) -> None:
        self.steps.append(step)
        self.bytes += step.info.nar_size

    def next(self) -> Step:
        step = self.steps.popleft()
        self.bytes -= step.info.nar_size
        return step


@dataclass
class _Pass:
    plan: Plan
    means: Means
    index: Mapping[str, Location]
    tally: Tally
    todo: deque[Step]
    registered: set[str]
    staged: set[str] = field(default_factory=set)
    there: set[str] = field(default_factory=set)
    finished: dict[str, tuple[Step, Done]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    given_up: bool = False

    @property
    def workers(self) -> int:
        """Count the workers: none without a path to pour."""
        return min(self.means.workers, len(self.plan.steps))

    @property
    def setup(self) -> Setup:
        """Say what every worker is told first."""
        means = self.means
        share = replace(means.access, bytes_per_second=means.access.bytes_per_second / self.workers)
        return Setup(means.caches, means.cache_keys, str(means.files.staging), share, means.down)


async def realise(
    todo: Plan, means: Means, index: Mapping[str, Location], tally: Tally
) -> tuple[Failure, ...]:
    """Bring and register every path of the plan; give those that failed.

    One path's failure does not stop the others; an unreachable cache, an unusable store or a
    full disk does. A plan for which there is no room is not begun.
    """
    files, wanted = means.files, [step.path for step in todo.steps]
    staged = await asyncio.to_thread(files.clean_staging, wanted)
    _require_room(todo, files, staged)
    if means.nix.daemon is not None:
        return await _through_daemon(todo, means, tally)
    run = _Pass(todo, means, index, tally, deque(todo.steps), set(todo.kept), staged)
    run.there = await asyncio.to_thread(files.on_disk)
    try:
        await _pour(run)
    finally:
        with contextlib.suppress(NodeAgentError):  # what failed is told by who it failed
            await asyncio.to_thread(files.clean_staging, wanted)  # of what workers had begun
    return tuple(run.failures)


async def _pour(run: _Pass) -> None:
    """Let workers pour, and commit beside them what they finish."""
    async with asyncio.TaskGroup() as tasks:
        committer = tasks.create_task(_commit_forever(run), name="commit")
        async with asyncio.TaskGroup() as pool:
            for number in range(run.workers):
                pool.create_task(_work(run), name=f"pour-{number}")
        committer.cancel()
    while await _commit(run):
        pass


async def _through_daemon(todo: Plan, means: Means, tally: Tally) -> tuple[Failure, ...]:
    """Let the Nix daemon that owns the store do what is to do."""
    refused = await stock.fetch(todo.steps, means.nix, means.files, means.caches, means.cache_keys)
    for step in todo.steps:
        if step.path not in refused:
            tally.bytes_done += step.info.nar_size
            tally.paths_done += 1
            tally.paths_fetched += 1
    return tuple(Failure(path, one.reason, one.message) for path, one in refused.items())


def _require_room(todo: Plan, files: StoreFiles, staged: AbstractSet[str]) -> None:
    """Refuse to begin what cannot end: nothing was fetched yet."""
    needed, free = plan.need(todo, staged), disk.free(files.staging)
    if not plan.fits(needed, free):
        raise NodeAgentError(
            Reason.DISK_SHORT,
            f"the release needs {needed} on the file system at {disk.mount_point(files.staging)}, "
            f"free are {free}; make room on it, or give the store a larger one",
        )


async def _work(run: _Pass) -> None:
    """Feed one worker until nothing is left to do; a worker that dies is replaced."""
    while run.todo and not run.given_up:
        async with process.started(run.means.worker, stderr=None) as child:
            given = _Given()
            assert child.stdin is not None  # noqa: S101 `started` pipes it; for the type checker
            child.stdin.write(encode(run.setup))
            while _feed(run, child.stdin, given) and not run.given_up:
                with contextlib.suppress(ConnectionError):
                    await child.stdin.drain()
                if not await _one(run, child, given.next()):
                    run.todo.extendleft(reversed(given.steps))  # it died before it came to them
                    break


def _feed(run: _Pass, stdin: asyncio.StreamWriter, given: _Given) -> bool:
    """Keep a worker supplied; tell if it has anything to do."""
    while run.todo and given.has_room(run.todo[0]):
        step = run.todo.popleft()
        stdin.write(encode(_job(run, step)))
        given.add(step)
    return bool(given.steps)


async def _one(run: _Pass, child: asyncio.subprocess.Process, step: Step) -> bool:
    """Hear of one step; False if the worker is gone."""
    assert child.stdout is not None  # noqa: S101 `started` pipes it; for the type checker
    poured = 0
    while line := await child.stdout.readline():
        match read_event(line):
            case Progress(count):
                # A second attempt may pour more than the path has: never count past its size.
                count = min(count, step.info.nar_size - poured)
                poured += count
                run.tally.bytes_done += count
            case Done() as done:
                run.tally.bytes_done += step.info.nar_size - poured
                _finish(run, step, done)
                return True
            case Failed() as failed:
                run.tally.bytes_done -= poured
                _fail(run, step, Reason(failed.reason), failed.message)
                return True
    run.tally.bytes_done -= poured
    code = await child.wait()
    _fail(run, step, Reason.WORKER_DIED, f"the worker that poured {step.path} died ({code})")
    return False


def _finish(run: _Pass, step: Step, done: Done) -> None:
    run.tally.paths_done += 1
    run.tally.paths_fetched += done.fetched
    run.finished[step.path] = (step, done)
    run.news.set()


def _fail(run: _Pass, step: Step, reason: Reason, message: str) -> None:
    run.failures.append(Failure(step.path, reason, message))
    deaths = sum(one.reason is Reason.WORKER_DIED for one in run.failures)
    if reason in _FOR_ALL or deaths >= MAX_DEATHS:
        run.given_up = True


def _job(run: _Pass, step: Step) -> Job:
    files, location = run.means.files, run.index.get(step.path)
    where = (
        Where(location.url, location.compression, location.sigs, location.file_hash)
        if location
        else None
    )
    found = None
    if step.path in run.staged:
        found = files.staged(step.path)
    elif step.path in run.there:
        found = files.real(step.path)
    return Job(
        path=step.path,
        nar_hash=step.info.nar_hash,
        nar_size=step.info.nar_size,
        references=step.info.references,
        where=where,
        found=str(found) if found else None,
    )


async def _commit_forever(run: _Pass) -> None:
    while True:
        await run.news.wait()
        run.news.clear()
        task = asyncio.create_task(_commit(run))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await task  # half a commit is none: finish it, then stop
            raise
        await asyncio.sleep(COMMIT_PAUSE_SECONDS)


async def _commit(run: _Pass) -> int:
    """Make what is finished and reference-closed visible and valid; give the number of paths."""
    batch = _closed_batch(run)
    if batch:
        paths = [step.path for step, _ in batch]
        await asyncio.to_thread(run.means.files.place, paths)
        await run.means.nix.register(
            [Registration(step.path, step.info, done.sigs) for step, done in batch]
        )
        run.registered.update(paths)
        for path in paths:
            del run.finished[path]
    return len(batch)


def _closed_batch(run: _Pass) -> list[tuple[Step, Done]]:
    closed, batch = set(run.registered), []
    for step in run.plan.steps:  # references first
        if step.path in run.finished and closed.issuperset({*step.info.references} - {step.path}):
            closed.add(step.path)
            batch.append(run.finished[step.path])
            if len(batch) == MAX_BATCH:
                break
    return batch
