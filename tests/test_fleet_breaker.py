"""When the breaker opens and closes for what was seen, and that it needs nothing to stay closed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from nodeagent import kube
from nodeagent.admission.breaker import MANY_SECONDS, REFUSED_SECONDS, Refused, Stuck
from nodeagent.errors import NodeAgentError
from nodeagent.fleet import RESOURCES, Snapshot
from nodeagent.fleet.breaker import JUDGE_SECONDS, REFUSED, WAITING, WAITS_SECONDS, Breaker
from nodeagent.kube.watch import Alive, Changed, Listed
from nodeagent.names import Reason
from tests import snapshots
from tests.fakewatch import FakeWatch, failure, serving
from tests.snapshots import NAMESPACES, NODES, QUICK, running, until
from tests.test_kube import kubeconfig

Said = list[tuple[str, str | None]]


class Clock:
    """Both clocks."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> Said:
    return []


@pytest.fixture
def breaker(clock: Clock, said: Said) -> Breaker:
    return Breaker(lambda *one: said.append(one), clock, clock)


def test_three_pods_open_it_by_time_and_one_that_goes_closes_it(
    breaker: Breaker, clock: Clock, said: Said
) -> None:
    waits = {f"team/{name}": Stuck("team", clock.now) for name in "abc"}
    breaker.take(WAITING, Listed(waits))
    assert breaker.broken() == frozenset()
    clock.now += MANY_SECONDS
    breaker.take(WAITING, Alive())
    assert breaker.broken() == {"team"}
    assert said == [("team", WAITING)]
    clock.now += JUDGE_SECONDS
    breaker.take(WAITING, Changed("team/a", None))
    assert breaker.broken() == frozenset()
    assert said == [("team", WAITING), ("team", None)]


def test_a_refusal_opens_it_and_time_alone_closes_it(
    breaker: Breaker, clock: Clock, said: Said
) -> None:
    breaker.take(REFUSED, Changed("team/a", Refused("team", clock.now)))
    assert breaker.broken() == {"team"}
    clock.now += REFUSED_SECONDS - 1
    assert breaker.broken() == {"team"}
    clock.now += 1
    assert breaker.broken() == frozenset()
    assert said == [("team", REFUSED), ("team", None)]


def test_pods_of_which_nothing_is_heard_count_no_longer(breaker: Breaker, clock: Clock) -> None:
    breaker.take(WAITING, Listed({"team/a": Stuck("team", clock.now - 3600)}))
    assert breaker.broken() == {"team"}
    clock.now += WAITS_SECONDS + 1
    assert breaker.broken() == frozenset()
    clock.now += JUDGE_SECONDS
    breaker.take(WAITING, Alive())
    assert breaker.broken() == {"team"}


def test_it_is_judged_once_a_second_however_often_it_is_asked(
    breaker: Breaker, clock: Clock
) -> None:
    assert breaker.broken() == frozenset()
    breaker.take(REFUSED, Changed("team/a", Refused("team", clock.now)))
    assert breaker.broken() == frozenset()
    clock.now += JUDGE_SECONDS
    assert breaker.broken() == {"team"}


@pytest.fixture
async def fake() -> FakeWatch:
    fake = FakeWatch()
    fake.compact()
    fake.put(f"{NAMESPACES}/team", {"metadata": {"name": "team"}})
    fake.put(f"{NODES}/a", snapshots.node("a"))
    return fake


@pytest.fixture
async def api(fake: FakeWatch, tmp_path: Path) -> AsyncIterator[kube.Api]:
    async with (
        serving(fake) as address,
        kube.connected(kubeconfig(tmp_path / "reader", address, "reader")) as api,
    ):
        yield api


async def test_it_opens_and_closes_while_nodes_stay_the_same(
    fake: FakeWatch, api: kube.Api
) -> None:
    snapshot = Snapshot(api, "ours")
    async with running(snapshot):
        before = snapshot.fleet()
        path = f"{NAMESPACES}/team/pods/a"
        fake.put(path, {**snapshots.injected("a"), **snapshots.unschedulable(3600)})
        await until(lambda: snapshot.fleet().broken == {"team"})
        assert snapshot.fleet().nodes is before.nodes
        assert snapshot.fleet() is snapshot.fleet()
        fake.remove(path)
        await until(lambda: snapshot.fleet().broken == frozenset())


async def test_pods_that_are_not_injected_leave_nothing_behind(
    fake: FakeWatch, api: kube.Api
) -> None:
    for number in range(250):
        item = {"metadata": {"name": f"{number}"}, "spec": {}, **snapshots.unschedulable(3600)}
        fake.put(f"{NAMESPACES}/team/pods/{number}", item)
    fake.put(f"{NAMESPACES}/team/pods/z", snapshots.injected("z") | snapshots.unschedulable(3600))
    snapshot = Snapshot(api, "ours")
    async with running(snapshot):
        await until(lambda: snapshot.fleet().broken)  # the last of three pages
        assert sum(snapshot.objects.values()) == 2  # the node and the namespace


@pytest.mark.parametrize("path", ["/api/v1/pods", "/api/v1/events"])
async def test_what_may_not_be_watched_is_told_and_nothing_else(
    fake: FakeWatch, api: kube.Api, path: str
) -> None:
    def trouble(request: web.Request) -> web.Response | None:
        if request.path != path:
            return None
        _, why = failure(403, "Forbidden", "it is forbidden")
        return web.json_response(why, status=403)

    fake.trouble = trouble
    told: list[NodeAgentError] = []
    snapshot = Snapshot(api, "ours", lambda _, error: told.append(error), QUICK)
    async with running(snapshot):
        await until(lambda: fake.times(path, watched=False) >= 3)
        assert snapshot.whole
        assert snapshot.fleet().heard.keys() == set(RESOURCES)
        assert snapshot.fleet().broken == frozenset()
        assert [one.reason for one in told] == [Reason.API_REFUSED]
        assert f"GET {path}: 403" in f"{told[0]}"
        fake.trouble = lambda _: None
        await until(lambda: not snapshot.problems)
