"""Whatever a cache does, asking it ends soon, with a message, and leaves no connection behind."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import stamina

from nodeagent.cache import ATTEMPTS, STRIKES, Access, Cache, Health, Memory, Transport, opened
from nodeagent.cache.health import ASKED_SECONDS, DOWN_SECONDS, Down
from nodeagent.cache.pace import MIN_BYTES_PER_SECOND, Pace
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from tests import hostile
from tests.hostile import Hostile, Misbehaviour

LIMIT: Final = 1 << 20
QUICK: Final = Access(connect_seconds=0.3, stall_seconds=0.3)
DATA: Final = os.urandom(5000)


@pytest.fixture(autouse=True)
def _no_waits() -> Iterator[None]:
    with stamina.set_testing(testing=True, attempts=ATTEMPTS):
        yield


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[Hostile]:
    (tmp_path / "a.nar").write_bytes(DATA)
    with hostile.serving(tmp_path) as server:
        yield server


@pytest.fixture
def main(server: Hostile) -> Iterator[Cache]:
    with opened([("main", server.url)], QUICK) as [cache]:
        yield cache


def refusal(cache: Cache, file: str = "a.nar") -> str:
    with pytest.raises(NodeAgentError) as caught:
        cache.fetch(file, LIMIT)
    assert caught.value.reason is Reason.CACHE_UNREACHABLE
    assert "\n" not in caught.value.message
    return caught.value.message


SLOW: Final[tuple[Misbehaviour, ...]] = (
    hostile.hang,
    hostile.hang_in_head,
    hostile.hang_in_body,
    hostile.drip_head,
    hostile.drip_body,
    hostile.drip_chunk_sizes,
    hostile.continue_for_ever,
)


@pytest.mark.parametrize("misbehaviour", SLOW, ids=lambda one: one.__name__)
def test_a_cache_that_keeps_us_waiting_costs_one_time_out_whatever_is_asked_next(
    server: Hostile, main: Cache, misbehaviour: Misbehaviour
) -> None:
    server.misbehave = misbehaviour
    for _ in range(50):
        refusal(main)
    assert server.connections == 1
    assert main.health.down


BROKEN: Final[tuple[Misbehaviour, ...]] = (
    hostile.hang_up,
    hostile.rubbish,
    hostile.cut,
    hostile.circle,
    hostile.header_without_end,
)


@pytest.mark.parametrize("misbehaviour", BROKEN, ids=lambda one: one.__name__)
def test_a_cache_that_only_fails_is_left_alone_after_a_few_strikes(
    server: Hostile, main: Cache, misbehaviour: Misbehaviour
) -> None:
    server.misbehave = misbehaviour
    for _ in range(50):
        refusal(main)
    assert server.connections <= STRIKES * ATTEMPTS * 4
    assert main.health.down
    assert "not asked again yet" in refusal(main)


@pytest.mark.parametrize("code", [429, 503])
def test_a_short_retry_after_is_waited_for(server: Hostile, main: Cache, code: int) -> None:
    server.misbehave = once(hostile.status(f"{code} Busy", Retry_After="1"), server)
    assert main.fetch("a.nar", LIMIT) == DATA


@pytest.mark.parametrize("code", [429, 503])
def test_a_long_retry_after_is_obeyed_and_told(server: Hostile, main: Cache, code: int) -> None:
    server.misbehave = hostile.status(f"{code} Busy", Retry_After="3600")
    for _ in range(3):
        assert "to be asked again in 3600 s" in refusal(main)
    assert len(server.asked) == 1
    assert 0 < main.health.until - main.health.clock() <= ASKED_SECONDS


@pytest.mark.parametrize("code", [400, 401, 451])
def test_what_will_be_refused_again_is_asked_for_once(
    server: Hostile, main: Cache, code: int
) -> None:
    server.misbehave = hostile.status(f"{code} No")
    assert f"HTTP {code} No" in refusal(main)
    assert len(server.asked) == 1


def once(misbehaviour: Misbehaviour, server: Hostile) -> Misbehaviour:
    return lambda wire: misbehaviour(wire) if server.misbehaved == 1 else wire.behave()


def test_a_cache_that_nobody_serves_is_asked_for_one_path_only() -> None:
    with opened([("main", "http://127.0.0.1:1")], QUICK) as [main]:
        assert "refused" in refusal(main)
        assert main.health.down


def test_tls_that_is_never_spoken_is_not_waited_for(server: Hostile) -> None:
    server.misbehave, server.where = hostile.hang, lambda _: True
    with opened([("main", server.url.replace("http:", "https:"))], QUICK) as [main]:
        refusal(main)
        assert main.health.down


def test_what_comes_slowly_but_steadily_is_waited_for(tmp_path: Path, server: Hostile) -> None:
    def slowly(wire: hostile.Wire) -> None:
        body = wire.head_of_file()
        for at in range(0, len(body), 500):
            wire.write(body[at : at + 500])
            wire.ended.wait(0.1)

    server.misbehave = slowly
    patient = Access(stall_seconds=0.8)
    with opened([("main", server.url)], patient) as [main]:
        assert main.fetch("a.nar", LIMIT) == DATA


def test_time_that_the_reader_takes_is_not_the_caches() -> None:
    now = 0.0
    pace = Pace(10.0, lambda: now)
    pace.body()
    for _ in range(10):
        now += 100.0
        assert pace.patience() == 10.0
        assert pace.receive(lambda _: None, lambda: 1) == 1


def test_too_little_in_a_window_of_waiting_is_too_slow() -> None:
    now = 0.0

    def receive(count: int) -> int:
        nonlocal now
        now += 1.0
        return count

    pace = Pace(10.0, lambda: now)
    pace.body()
    waits = list[float]()
    for _ in range(30):
        pace.receive(waits.append, lambda: receive(MIN_BYTES_PER_SECOND))
    for _ in range(10):
        pace.receive(waits.append, lambda: receive(MIN_BYTES_PER_SECOND - 1))
    with pytest.raises(TimeoutError):
        pace.receive(waits.append, lambda: receive(MIN_BYTES_PER_SECOND))
    assert min(waits) > 0


def test_a_window_that_ends_while_waiting_is_judged_by_what_came_in_it() -> None:
    now = 0.0

    def receive() -> int:
        nonlocal now
        now += 6.0
        if now == 12.0:
            raise TimeoutError
        return MIN_BYTES_PER_SECOND * 10

    pace = Pace(10.0, lambda: now)
    pace.body()
    for _ in range(2):
        assert pace.receive(lambda _: None, receive) > 0
    assert now == 18.0


def test_what_does_not_come_in_a_whole_window_is_too_slow() -> None:
    now = 0.0

    def receive() -> int:
        nonlocal now
        now += 10.0
        raise TimeoutError

    pace = Pace(10.0, lambda: now)
    pace.body()
    with pytest.raises(TimeoutError, match="too slow"):
        pace.receive(lambda _: None, receive)


def test_a_file_that_comes_whole_takes_the_strikes_back() -> None:
    health = Health()
    for _ in range(10):
        for _ in range(STRIKES - 1):
            health.strike("cut")
        health.good()
    assert not health.down


def test_a_cache_that_was_down_is_asked_again_after_a_while() -> None:
    now = 100.0
    health = Health(lambda: now)
    health.give_up("dead")
    now += DOWN_SECONDS - 1
    assert health.down
    now += 1
    assert not health.down


def test_retry_after_is_obeyed_but_not_for_ever() -> None:
    now = 100.0
    health = Health(lambda: now)
    health.give_up("busy", 1e9, asked=True)
    now += ASKED_SECONDS
    assert not health.down


def test_the_next_pass_asks_all_caches_again_but_those_that_asked_for_time() -> None:
    memory = Memory()
    memory.of("dead").give_up("dead")
    memory.of("busy").give_up("busy", 30.0, asked=True)
    memory.renew()
    assert not memory.of("dead").down
    assert memory.of("busy").down


def test_workers_learn_which_caches_are_down() -> None:
    agent, worker = Memory(), Memory()
    agent.of("good").good()
    agent.of("dead").give_up("it is dead")
    [down] = agent.downs()
    assert (down.name, down.cause) == ("dead", "it is dead")
    assert 0 < down.seconds <= DOWN_SECONDS
    worker.learn([Down("dead", "it is dead", down.seconds)])
    assert worker.of("dead").down
    assert "it is dead" in refusal(Cache("dead", "http://127.0.0.1:1", health=worker.of("dead")))


def test_no_connection_stays_open_whatever_happened(server: Hostile) -> None:
    kinds = [*SLOW, *BROKEN, hostile.status("500 Oops"), hostile.content_encoding]
    transport = Transport(Access(connect_seconds=0.1, stall_seconds=0.1))
    for misbehaviour in kinds:
        server.misbehave = misbehaviour
        try:
            Cache("main", server.url, transport).fetch("a.nar", LIMIT)
        except NodeAgentError:
            continue
    server.misbehave = None
    assert Cache("main", server.url, transport).fetch("a.nar", LIMIT) == DATA
    assert open_to(server.port) <= 1
    transport.clear()
    assert open_to(server.port) == 0


def open_to(port: int) -> int:
    """Count the ends of connections to a port that this process still holds."""
    peer = f":{port:04X}"
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    return sum(
        line.split()[2].endswith(peer) and line.split()[9] != "0"  # an inode: not closed by us
        for line in lines
    )
