import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent import process
from nodeagent.cache import Access, Down
from nodeagent.messages import encode
from nodeagent.names import Reason
from nodeagent.realise.jobs import (
    Done,
    Event,
    Failed,
    Job,
    Progress,
    Setup,
    Where,
    read_event,
    read_job,
    read_setup,
)
from nodeagent.realise.run import WORKER
from tests.handmade import CACHE_KEY, ITEM, CacheFiles, Item, path

TEXTS = st.lists(st.text())
WHERES = st.builds(Where, st.text(), st.text(), TEXTS)
JOBS = st.builds(
    Job, st.text(), st.text(), st.integers(0), TEXTS, st.none() | WHERES, st.none() | st.text()
)
ACCESSES = st.builds(Access, st.none() | st.text(), st.none() | st.text(), st.floats(1, 9))
DOWNS = st.lists(st.builds(Down, st.text(), st.text(), st.floats(0, 9))).map(tuple)
SETUPS = st.builds(
    Setup, st.lists(st.tuples(st.text(), st.text())), TEXTS, st.text(), ACCESSES, DOWNS
)
EVENTS = st.one_of(
    st.builds(Progress, st.integers(0)),
    st.builds(Done, TEXTS, st.booleans()),
    st.builds(Failed, st.text(), st.text()),
)


@given(JOBS)
def test_a_job_arrives_as_it_was_sent(job: Job) -> None:
    assert read_job(encode(job)) == job


def test_the_hash_of_a_file_arrives_though_it_is_not_compared() -> None:
    where = read_job(encode(ITEM.job(Where("a", "none", [], "sha256:0")))).where
    assert where is not None
    assert where.file_hash == "sha256:0"


@given(SETUPS)
def test_a_setup_arrives_as_it_was_sent(setup: Setup) -> None:
    assert read_setup(encode(setup)) == setup


@given(EVENTS)
def test_an_event_arrives_as_it_was_sent(event: Event) -> None:
    assert read_event(encode(event)) == event


@given(st.one_of(JOBS, SETUPS, EVENTS))
def test_every_message_is_one_line(message: Job | Setup | Event) -> None:
    assert encode(message).count(b"\n") == 1


class Worker:
    """The real worker process, driven over its pipes."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child

    def send(self, message: Setup | Job) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(encode(message))

    async def answer(self) -> Done | Failed:
        assert self.child.stdout is not None
        while True:
            event = read_event(await self.child.stdout.readline())
            if not isinstance(event, Progress):
                return event

    async def end(self) -> int:
        assert self.child.stdin is not None
        self.child.stdin.close()
        async with asyncio.timeout(5):
            return await self.child.wait()


@contextlib.asynccontextmanager
async def working(files: CacheFiles, staging: Path) -> AsyncIterator[Worker]:
    staging.mkdir(exist_ok=True)
    async with process.started(WORKER, stderr=None) as child:
        worker = Worker(child)
        worker.send(Setup([("main", files.url)], [CACHE_KEY.public], str(staging)))
        yield worker


async def test_a_worker_does_job_after_job_and_ends_with_its_input(scratch: Path) -> None:
    files, other = CacheFiles(scratch / "cache"), Item(path("other"))
    where = files.add(ITEM)
    async with working(files, scratch / "staging") as worker:
        worker.send(ITEM.job(where))
        worker.send(other.job())
        assert await worker.answer() == Done(where.sigs, fetched=True)
        failed = await worker.answer()
        assert isinstance(failed, Failed)
        assert failed.reason == Reason.NAR_MISSING
        assert await worker.end() == 0


async def test_ctrl_c_is_the_agents_business(scratch: Path) -> None:
    files = CacheFiles(scratch / "cache")
    where = files.add(ITEM)
    async with working(files, scratch / "staging") as worker:
        worker.send(ITEM.job(where))
        await worker.answer()
        worker.child.send_signal(signal.SIGINT)
        worker.send(ITEM.job(where))
        assert await worker.answer() == Done(where.sigs, fetched=True)
        assert await worker.end() == 0


LOADED = "import sys, nodeagent.{}.worker; print('pydantic' in sys.modules)"


@pytest.mark.parametrize("kind", ["realise", "verify", "bake"])
async def test_a_worker_starts_light(kind: str) -> None:
    """Each worker loads it in each pass: models alone take a fifth of a second."""
    done = await process.run([sys.executable, "-c", LOADED.format(kind)], timeout=20)
    assert (done.code, done.stdout) == (0, b"False\n")
