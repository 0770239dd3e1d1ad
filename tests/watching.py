"""What the tests share that follow a collection of a fake API server."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from nodeagent.kube import Api, watch
from nodeagent.kube.watch import Change, Collection, Listed, Times
from tests.fakewatch import FakeWatch
from tests.snapshots import NODES, RESUMING, node, until

UIDS: Final = Collection(NODES, lambda one: str(one["metadata"]["uid"]))
BY_TWO: Final = Collection(NODES, lambda one: str(one["metadata"]["uid"]), page=2)

Changes = AsyncGenerator[Change[str], None]


def have(fake: FakeWatch, name: str, uid: str = "1") -> None:
    body = node(name)
    body["metadata"]["uid"] = uid
    fake.put(f"{NODES}/{name}", body)


@contextlib.asynccontextmanager
async def following(
    api: Api, collection: Collection[str] = UIDS, times: Times = RESUMING
) -> AsyncIterator[Changes]:
    changes = watch.follow(api, collection, times)
    async with contextlib.aclosing(changes):
        yield changes


async def listed(changes: Changes) -> set[str]:
    """Await the next list; give its names."""
    async for change in changes:
        if isinstance(change, Listed):
            return set(change.objects)
    raise AssertionError


async def is_watched(fake: FakeWatch) -> None:
    await until(lambda: fake.watching(NODES))


async def after(changes: Changes, fake: FakeWatch, count: int = 1) -> Change[str]:
    """Await a change that is made once that many watches were asked for in all."""
    waiting = asyncio.ensure_future(anext(changes))
    await until(lambda: fake.times(NODES, watched=True) >= count and fake.watching(NODES))
    have(fake, "later", f"{count}")
    return await waiting
