"""What cleanup takes off a Node, and whom it asks first: against the fake API server."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from nodeagent import kube
from nodeagent.errors import NodeAgentError
from nodeagent.names import CONDITION, TAINT, Reason
from nodeagent.readiness import Condition
from tests.announcing import NODE, PODS, STORE, pod
from tests.cleaning import CONTENT, Traces
from tests.fakeapi import FakeApi, Request
from tests.fakeserving import serving
from tests.handmade import NOW
from tests.loops import finish
from tests.test_kube import kubeconfig

KUBELETS: Final = {"type": "Ready", "status": "True"}
OTHERS: Final = {"key": "gpu", "effect": "NoSchedule"}
OURS: Final = [{"key": TAINT, "effect": effect} for effect in ("NoSchedule", "NoExecute")]
LABELS: Final = {"zone": "b", "nodeagent.dev/channel": "canary"}
CLEAN: Final = {"host/nix", "run", "lib"}


class Mortal(FakeApi):
    """Answers so many requests, then none."""

    lives = 1000

    def answer(self, request: Request) -> tuple[int, Any]:
        self.lives -= 1
        if self.lives < 0:
            return 503, {"message": "gone"}
        return super().answer(request)


@pytest.fixture
def api() -> Mortal:
    """Give a server that knows the Node, as agents have left it."""
    made = Mortal()
    node = {"metadata": {"name": "node-1", "labels": LABELS}, "spec": {"taints": [OTHERS, *OURS]}}
    made.create("/api/v1/nodes", {**node, "status": {"conditions": [KUBELETS]}})
    return made


@pytest.fixture
def node(api: Mortal, scratch: Path) -> Iterator[Traces]:
    """Give a node whose cleanup speaks to that server."""
    traces = Traces(scratch).live()
    with in_background(api) as address:
        file = kubeconfig(scratch.parent / f"{scratch.name}.config", address, "agent")
        traces.settings.update(kubernetes="on", kubeconfig=file)
        finish(announce(file))
        yield traces
        file.unlink()


@contextlib.contextmanager
def in_background(api: FakeApi) -> Iterator[str]:
    """Serve from a thread: a cleanup has an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    served = serving(api)
    try:
        yield asyncio.run_coroutine_threadsafe(served.__aenter__(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(served.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def announce(file: Path) -> None:
    """Write what an agent writes."""
    async with kube.connected(file) as api:
        node, store = kube.Node(api, "node-1"), kube.NodeStore(api, "node-1")
        await node.label(("nodeagent.dev/ready", "profile.nodeagent.dev/ds"))
        await node.tell(Condition(ready=True, reason="Published", message=""), NOW, NOW)
        await store.own((await node.look()).uid)


def traces(api: FakeApi) -> dict[str, Any]:
    """Give what is left of us, and what must be left of others."""
    node = api.read(NODE)
    return {
        "labels": node["metadata"]["labels"],
        "taints": node["spec"]["taints"],
        "conditions": node["status"]["conditions"],
        "nodestore": STORE in api.objects,
    }


NOTHING: Final = {
    "labels": LABELS,
    "taints": [OTHERS],
    "conditions": [KUBELETS],
    "nodestore": False,
}


def refusal(node: Traces, **settings: object) -> NodeAgentError:
    with pytest.raises(NodeAgentError) as caught:
        node.clean(**settings)
    return caught.value


def user(name: str, path: str = "/run/nodeagent/store") -> dict[str, Any]:
    return pod(name, volumes=[{"name": "store", "hostPath": {"path": path}}])


def test_labels_taint_condition_and_nodestore_go_and_what_is_others_stays(
    api: Mortal, node: Traces
) -> None:
    assert CONDITION in str(traces(api))
    node.clean(store=True)
    assert traces(api) == NOTHING
    assert node.tree() == CLEAN


def test_what_is_clean_is_not_written_to(api: Mortal, node: Traces) -> None:
    node.clean()
    api.writes.clear()
    node.clean()
    assert not api.writes


def test_pods_in_use_are_named_and_nothing_is_changed(api: Mortal, node: Traces) -> None:
    for number in range(7):
        api.create(PODS, user(f"user-{number}"))
    api.writes.clear()
    files, objects = node.tree(), traces(api)
    error = refusal(node, store=True)
    assert error.reason is Reason.IN_USE
    assert error.message.startswith("7 pods use ")
    assert "default/user-0, default/user-1" in error.message
    assert "and 2 more" in error.message
    assert "--force: then the store is deleted under them" in error.message
    assert "keep what they have mounted" in refusal(node).message
    assert (node.tree(), traces(api)) == (files, objects)
    assert not api.writes


@pytest.mark.parametrize("path", ["/nix", "/nix/store", "/run/nodeagent/profiles/ds"])
def test_a_pod_that_mounts_the_store_by_another_way_is_in_use_too(
    api: Mortal, node: Traces, path: str
) -> None:
    api.create(PODS, user("user", path))
    assert refusal(node).message.startswith(
        "1 pod uses what nodeagent made on node-1: default/user"
    )
    api.delete(f"{PODS}/user")
    node.clean()


def test_with_force_a_pod_keeps_all_that_it_may_have_mounted(api: Mortal, node: Traces) -> None:
    api.create(PODS, user("user"))
    mounted = node.tree("run/nodeagent/releases") | node.tree(CONTENT)
    displaced = node.tree("host/nix/var/nodeagent/displaced")
    assert mounted
    node.clean(force=True)
    assert traces(api) == NOTHING
    left = node.tree()
    assert left >= mounted | displaced
    assert not any("profiles/ds" in one or one == "run/nodeagent/store" for one in left)
    assert not any("gcroots/nodeagent" in one or "lib/nodeagent" in one for one in left)
    api.delete(f"{PODS}/user")
    node.clean(store=True)
    assert node.tree() == CLEAN


def test_with_force_and_store_everything_goes(api: Mortal, node: Traces) -> None:
    api.create(PODS, user("user"))
    node.clean(force=True, store=True)
    assert node.tree() == CLEAN


def test_an_api_server_that_goes_away_at_any_request_only_delays_it(
    api: Mortal, node: Traces
) -> None:
    for asked in range(50):
        api.lives = asked
        try:
            node.clean(store=True)
        except NodeAgentError as error:
            assert error.reason is Reason.API_UNREACHABLE  # noqa: PT017 all runs but the last fail
        else:
            break
    assert asked > 6
    assert traces(api) == NOTHING
    assert node.tree() == CLEAN


async def test_a_server_that_nobody_may_ask_is_not_taken_for_one_without_pods(
    api: Mortal, node: Traces
) -> None:
    api.faults[PODS.replace("/namespaces/default", "")] = 403
    before = node.tree()
    error = await asyncio.to_thread(refusal, node)
    assert error.reason is Reason.API_REFUSED
    assert node.tree() == before
