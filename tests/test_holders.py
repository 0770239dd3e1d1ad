"""Who on a node may still need a release: containers by their start, processes by their mounts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

from nodeagent import release
from nodeagent.agent.holders import Mounts, Pods
from nodeagent.errors import NodeAgentError
from nodeagent.history import Span
from nodeagent.kube import use
from nodeagent.names import Reason
from nodeagent.retention import Answer, Generation
from tests.handmade import NOW

HOUR: Final = timedelta(hours=1)


def pod(phase: str, *states: dict[str, Any]) -> dict[str, Any]:
    names = [f"c{number}" for number in range(len(states))]
    statuses = [{"name": name, "state": state} for name, state in zip(names, states, strict=True)]
    return {
        "metadata": {"namespace": "team", "name": phase},
        "spec": {
            "containers": [{"name": name} for name in names],
            "volumes": [{"hostPath": {"path": "/run/nodeagent/profiles/ds"}}],
        },
        "status": {"containerStatuses": statuses},
    }


def test_containers_are_told_with_their_start_or_as_being_made() -> None:
    running = {"running": {"startedAt": "2026-06-01T12:00:00Z"}}
    pods = [pod("a", running, {"terminated": {}}, {"waiting": {}}), pod("b") | {"status": {}}]
    pods[1]["spec"]["containers"] = [{"name": "new"}]
    assert use.containers(pods, ["/run/nodeagent"], "nodeagent-system") == [
        ("team/a/c0", datetime(2026, 6, 1, 12, tzinfo=UTC)),
        ("team/a/c2", None),
        ("team/b/new", None),
    ]


@dataclass
class Server:
    """A Node whose containers are known, or not."""

    found: list[tuple[str, datetime | None]] | NodeAgentError
    asked: int = 0

    async def containers(self, _: Sequence[str]) -> list[tuple[str, datetime | None]]:
        self.asked += 1
        if isinstance(self.found, NodeAgentError):
            raise self.found
        return self.found


OLD: Final = Generation(f"sha256:{'1' * 64}", (Span(since=NOW - 9 * HOUR, until=NOW - HOUR),))
NEW: Final = Generation(f"sha256:{'2' * 64}", (Span(since=NOW - HOUR),))


async def asked(server: Any) -> Answer:  # noqa: ANN401 a stand-in
    return await Pods(server, lambda: NOW, HOUR / 2).ask([OLD, NEW])


async def test_containers_hold_what_pods_got_when_they_started() -> None:
    answer = await asked(Server([("team/a/c", NOW - 2 * HOUR), ("team/b/c", None)]))
    assert answer.needs == {
        OLD.digest: "container team/a/c may use it",
        NEW.digest: "container team/b/c may use it",
    }


async def test_a_container_that_started_in_the_future_may_use_any() -> None:
    answer = await asked(Server([("team/a/c", NOW + HOUR)]))
    assert answer.needs.keys() == {OLD.digest, NEW.digest}


async def test_an_api_server_without_an_answer_is_a_silent_holder() -> None:
    answer = await asked(Server(NodeAgentError(Reason.API_UNREACHABLE, "it is away")))
    assert answer.silent == "it is away"


async def test_a_mount_of_a_release_holds_it(tmp_path: Path) -> None:
    place = f"/nodeagent/releases/{release.digest12(OLD.digest)}/ds"
    lines = {"7": f"1 2 0:3 {place} /opt/nodeagent/ds ro - tmpfs tmpfs", "8": "1 2 0:3 / / rw"}
    for pid, line in lines.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "mountinfo").write_text(f"{line}\n")
    (tmp_path / "9").mkdir()  # it ended meanwhile
    answer = await Mounts(Path("/run/nodeagent"), tmp_path).ask([OLD, NEW])
    assert answer.needs == {OLD.digest: "process 7 has it mounted"}


async def test_who_is_bound_is_known_from_the_last_look_while_nobody_answers() -> None:
    now = [NOW]
    server = Server([("team/a/c", NOW - 2 * HOUR)])
    pods = Pods(cast("Any", server), lambda: now[0], HOUR / 2)
    await pods.ask([OLD])
    server.found = NodeAgentError(Reason.API_UNREACHABLE, "no answer")
    now[0] += HOUR
    for _ in range(3):
        assert [one.name for one in await pods.containers()] == ["team/a/c"]
    assert server.asked == 2
    assert (await pods.ask([OLD])).silent
