"""Following a collection through every fault of a watch that a fake API server can play."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from nodeagent import kube
from nodeagent.kube import Api
from nodeagent.kube.watch import Alive, Changed, Failed, Listed, Times
from tests.fakewatch import FakeWatch, serving
from tests.snapshots import NODES, RESUMING, until
from tests.test_kube import kubeconfig
from tests.watching import after, following, have, is_watched, listed

SILENCE: Final = 0.2


@pytest.fixture
async def fake() -> FakeWatch:
    fake = FakeWatch()
    have(fake, "a")
    return fake


@pytest.fixture
async def api(fake: FakeWatch, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(fake) as address:
        file = kubeconfig(tmp_path / "reader", address, "reader")
        async with kube.connected(file) as api:
            yield api


async def test_a_change_and_its_end_and_a_sign_of_life_come_as_they_are(
    fake: FakeWatch, api: Api
) -> None:
    async with following(api) as changes:
        assert await listed(changes) == {"a"}
        assert await after(changes, fake) == Changed("later", "1")
        have(fake, "later", "2")
        assert await anext(changes) == Changed("later", "2")
        fake.bookmark()
        assert await anext(changes) == Alive()
        fake.remove(f"{NODES}/later")
        assert await anext(changes) == Changed("later", None)


async def test_nothing_is_listed_as_nothing(fake: FakeWatch, api: Api) -> None:
    fake.remove(f"{NODES}/a")
    async with following(api) as changes:
        assert await anext(changes) == Listed({})


@pytest.mark.parametrize("rest", [b"", b'{"type":"MODIFIED","object":{"metadata":{"name"'])
async def test_a_connection_that_breaks_is_made_again_and_nothing_is_lost(
    fake: FakeWatch, api: Api, rest: bytes
) -> None:
    async with following(api) as changes:
        assert await listed(changes) == {"a"}
        assert await after(changes, fake) == Changed("later", "1")
        fake.cut(rest)
        have(fake, "meanwhile")
        found = await anext(changes)
        if isinstance(found, Failed):
            assert "this is tried again" in f"{found.error}"
            found = await anext(changes)
        assert found == Changed("meanwhile", "1")
        assert fake.times(NODES, watched=False) == 1


async def test_half_a_line_at_the_end_of_a_session_is_no_event(fake: FakeWatch, api: Api) -> None:
    async with following(api) as changes:
        assert await listed(changes) == {"a"}
        assert await after(changes, fake) == Changed("later", "1")
        fake.say(b'{"type":"DELETED","object":')
        fake.end()
        have(fake, "meanwhile")
        assert await anext(changes) == Changed("meanwhile", "1")
        assert fake.times(NODES, watched=False) == 1


async def test_a_session_that_ends_in_time_is_followed_by_the_next(
    fake: FakeWatch, api: Api
) -> None:
    async with following(api) as changes:
        assert await listed(changes) == {"a"}
        assert await after(changes, fake) == Changed("later", "1")
        version = fake.version
        fake.end()
        assert await after(changes, fake, 2) == Changed("later", "2")
        path, query = fake.asked[-1]
        assert (path, query["resourceVersion"]) == (NODES, f"{version}")
        assert query["allowWatchBookmarks"] == "true"
        assert int(query["timeoutSeconds"]) >= RESUMING.session
        assert fake.times(NODES, watched=False) == 1


async def test_a_server_that_falls_silent_is_asked_for_everything_anew(
    fake: FakeWatch, api: Api
) -> None:
    fake.silent = True
    async with following(api, times=Times(SILENCE, 60, 300, 0.01, 0.05)) as changes:
        assert await listed(changes) == {"a"}
        waiting = asyncio.ensure_future(anext(changes))
        await is_watched(fake)
        have(fake, "unheard")
        found = await waiting
        while found != Listed({"a": "1", "unheard": "1"}):
            assert isinstance(found, Listed)  # what came before the change
            found = await anext(changes)


async def test_a_server_that_falls_silent_and_does_not_answer_has_failed(
    fake: FakeWatch, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.silent = True
    async with following(api, times=Times(SILENCE, 60, 300, 0.01, 0.05)) as changes:
        assert await listed(changes) == {"a"}
        waiting = asyncio.ensure_future(anext(changes))
        await is_watched(fake)
        monkeypatch.setattr("nodeagent.kube.api.REQUEST_SECONDS", 0.1)
        fake.awake.clear()
        failed = await waiting
        while not isinstance(failed, Failed):  # a list that was under way
            failed = await anext(changes)
        assert f"the API server gave no answer to GET {NODES}: TimeoutError" in f"{failed.error}"
        fake.awake.set()
        assert await listed(changes) == {"a"}


async def test_a_version_is_not_handed_on_when_the_last_sign_of_life_is_old(
    fake: FakeWatch, api: Api
) -> None:
    async with following(api, times=Times(60, 0, 300, 0.01, 0.05)) as changes:
        assert await listed(changes) == {"a"}
        waiting = asyncio.ensure_future(anext(changes))
        await is_watched(fake)
        fake.end()
        assert isinstance(await waiting, Listed)


async def test_a_version_that_was_compacted_away_is_listed_anew(fake: FakeWatch, api: Api) -> None:
    async with following(api) as changes:
        assert await listed(changes) == {"a"}
        waiting = asyncio.ensure_future(anext(changes))
        await is_watched(fake)
        fake.compact()
        fake.end()
        failed = await waiting
        assert isinstance(failed, Failed)
        assert "the watch ended with 410 Expired: too old resource version" in f"{failed.error}"
        assert await listed(changes) == {"a"}
        assert fake.times(NODES, watched=False) == 2


@pytest.mark.parametrize(
    "line",
    [
        b"<html>\n",
        b"[]\n",
        b"{}\n",
        b'{"type":"ADDED","object":{}}\n',
        b'{"type":"ADDED","object":{"metadata":{"name":"b","resourceVersion":"7"}}}\n',
        b'{"type":"ERROR","object":{"code":500,"reason":"Oops","message":"etcd is gone"}}\n',
        b"x" * (5 << 20) + b"\n",
    ],
    ids=["no JSON", "no object", "no type", "no metadata", "no uid", "an error", "too long"],
)
async def test_an_event_that_cannot_be_read_means_listing_anew(
    fake: FakeWatch, api: Api, line: bytes
) -> None:
    async with following(api) as changes:
        assert await listed(changes) == {"a"}
        waiting = asyncio.ensure_future(anext(changes))
        await is_watched(fake)
        fake.say(line)
        failed = await waiting
        assert isinstance(failed, Failed)
        assert f"{NODES}: " in f"{failed.error}"
        assert "anew" in f"{failed.error}"
        assert await listed(changes) == {"a"}


async def test_an_event_of_a_kind_that_is_not_known_is_a_sign_of_life(
    fake: FakeWatch, api: Api
) -> None:
    async with following(api) as changes:
        await listed(changes)
        waiting = asyncio.ensure_future(anext(changes))
        await is_watched(fake)
        fake.say(b'{"type":"PAUSED","object":{"metadata":{"resourceVersion":"101"}}}\n')
        assert await waiting == Alive()


async def test_closing_leaves_no_connection(fake: FakeWatch, api: Api) -> None:
    async with following(api) as changes:
        await listed(changes)
        waiting = asyncio.ensure_future(anext(changes))
        await is_watched(fake)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting

    def is_gone() -> bool:
        fake.bookmark()  # a server notices when it writes
        return not fake.watching(NODES)

    await until(is_gone)
