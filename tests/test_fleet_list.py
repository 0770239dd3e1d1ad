"""Lists that fail, servers that ask for patience or refuse, and how often they are asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from nodeagent import kube
from nodeagent.kube import Api
from nodeagent.kube.watch import Changed, Failed, Listed, Times
from tests.fakewatch import FakeWatch, failure, serving
from tests.snapshots import NODES, until
from tests.test_kube import kubeconfig
from tests.watching import BY_TWO, after, following, have, listed


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


async def test_a_list_that_fails_in_the_middle_is_none(fake: FakeWatch, api: Api) -> None:
    for name in "bcde":
        have(fake, name)
    failing = [500, 500]

    def trouble(request: web.Request) -> web.Response | None:
        if "continue" in request.query and failing:
            code, why = failure(failing.pop(), "InternalError", "etcd is slow")
            return web.json_response(why, status=code)
        return None

    fake.trouble = trouble
    async with following(api, BY_TWO) as changes:
        for _ in range(2):
            failed = await anext(changes)
            assert isinstance(failed, Failed)
            assert "etcd is slow; this is tried again" in f"{failed.error}"
        assert await listed(changes) == set("abcde")


async def test_a_list_whose_next_page_has_expired_begins_anew(fake: FakeWatch, api: Api) -> None:
    for name in "bc":
        have(fake, name)
    compacted = [True]

    def trouble(request: web.Request) -> web.Response | None:
        if "continue" in request.query and compacted:
            compacted.pop()
            fake.compact()
        return None

    fake.trouble = trouble
    async with following(api, BY_TWO) as changes:
        failed = await anext(changes)
        assert isinstance(failed, Failed)
        assert f"GET {NODES}: 410" in f"{failed.error}"
        assert await listed(changes) == set("abc")


@pytest.mark.parametrize(
    "body", ["{}", "[]", '{"metadata":{},"items":[]}', '{"items":[{}]}', "<p>"]
)
async def test_an_answer_that_is_no_list_is_not_taken_for_an_empty_one(
    fake: FakeWatch, api: Api, body: str
) -> None:
    wrong = [True]

    def trouble(request: web.Request) -> web.Response | None:
        return web.Response(text=body, content_type="application/json") if wrong else None

    fake.trouble = trouble
    async with following(api) as changes:
        assert isinstance(await anext(changes), Failed)
        wrong.clear()
        assert await listed(changes) == {"a"}


async def test_a_list_may_say_null_for_nothing(fake: FakeWatch, api: Api) -> None:
    body = {"metadata": {"resourceVersion": "101"}, "items": None}
    fake.trouble = lambda request: None if "watch" in request.query else web.json_response(body)
    async with following(api) as changes:
        assert await anext(changes) == Listed({})


@pytest.mark.parametrize(("status", "watched"), [(429, True), (429, False), (503, True)])
async def test_a_server_that_asks_for_patience_is_left_alone(
    fake: FakeWatch, api: Api, status: int, watched: bool
) -> None:
    refused: list[float] = []

    def trouble(request: web.Request) -> web.Response | None:
        if refused or ("watch" in request.query) is not watched:
            return None
        refused.append(asyncio.get_running_loop().time())
        _, why = failure(status, "TooManyRequests", "too busy")
        return web.json_response(why, status=status, headers={"Retry-After": "1"})

    fake.trouble = trouble
    async with following(api) as changes:
        found = await anext(changes)
        if watched:
            assert isinstance(found, Listed)
            found = await anext(changes)
        assert isinstance(found, Failed)
        assert "too busy; this is tried again" in f"{found.error}"
        asked = len(fake.asked)
        waiting = asyncio.ensure_future(after(changes, fake, 2) if watched else listed(changes))
        await until(lambda: len(fake.asked) > asked)
        assert asyncio.get_running_loop().time() - refused[0] >= 1
        await waiting


async def test_waits_grow_and_stay_within_bounds() -> None:
    times = Times()
    waits = [times.wait(failures) for failures in range(20)]
    assert 0.25 <= waits[0] <= 0.5
    assert 0.5 <= waits[1] <= 1.0
    assert all(7.5 <= wait <= 15 for wait in waits[5:])


async def test_a_server_that_ends_each_watch_at_once_is_asked_less_and_less(
    fake: FakeWatch, api: Api
) -> None:
    slept: list[int] = []

    class Counted(Times):
        def wait(self, failures: int) -> float:
            slept.append(failures)
            return 0.0

    fake.trouble = lambda request: web.Response() if "watch" in request.query else None
    times = Counted(60, 60, 300)
    async with following(api, times=times) as changes:
        assert await listed(changes) == {"a"}
        waiting = asyncio.ensure_future(anext(changes))
        await until(lambda: len(slept) >= 5)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
    assert slept[:5] == [1, 2, 3, 4, 5]


async def test_a_watch_whose_token_is_refused_reads_it_anew(
    fake: FakeWatch, tmp_path: Path
) -> None:
    def trouble(request: web.Request) -> web.Response | None:
        if request.headers["Authorization"].endswith("old") and "watch" in request.query:
            _, why = failure(401, "Unauthorized", "Unauthorized")
            return web.json_response(why, status=401)
        return None

    fake.trouble = trouble
    async with serving(fake) as address:
        file = kubeconfig(tmp_path / "user", address, "old")
        async with kube.connected(file) as api, following(api) as changes:
            assert await listed(changes) == {"a"}
            kubeconfig(file, address, "new")
            assert await after(changes, fake) == Changed("later", "1")
    assert fake.times(NODES, watched=True) == 2
    assert fake.repeated == []
