import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from nodeagent import process
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.process import Completed

SECONDS = 20.0  # far more than any of these needs


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def ended(pid: int) -> bool:
    """Give the kernel a moment: a signal that was sent need not have arrived."""
    for _ in range(200):
        if not runs(pid):
            return True
        await asyncio.sleep(0.01)
    return False


async def told(child: asyncio.subprocess.Process) -> int:
    """Read a pid that a child says."""
    assert child.stdout is not None
    return int(await child.stdout.readline())


async def test_what_a_process_says_and_its_code_come_back() -> None:
    argv = sh("cat; echo oops >&2; exit 3")
    done = await process.run(argv, timeout=SECONDS, stdin=b"hello")
    assert done == Completed(argv, 3, b"hello", b"oops\n")


async def test_a_variable_is_added_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD", "old")
    done = await process.run(sh('echo "$OLD $NEW"'), timeout=SECONDS, env={"NEW": "new"})
    assert done.stdout == b"old new\n"


async def test_a_process_that_dies_unread_is_no_surprise() -> None:
    done = await process.run(["/bin/true"], timeout=SECONDS, stdin=bytes(1 << 20))
    assert done.code == 0


async def test_a_process_that_was_killed_has_the_signals_code() -> None:
    done = await process.run(sh("kill -9 $$"), timeout=SECONDS)
    assert done.code == -signal.SIGKILL


async def test_long_output_on_both_pipes_blocks_nobody() -> None:
    script = "import sys; sys.stderr.write('e' * 1000000); sys.stdout.write('o' * 1000000)"
    done = await process.run([sys.executable, "-c", script], timeout=SECONDS)
    assert (len(done.stdout), len(done.stderr)) == (1_000_000, 1_000_000)


async def test_a_line_may_be_far_longer_than_64_kib() -> None:
    async with process.started([sys.executable, "-c", "print('x' * (1 << 20))"]) as child:
        assert child.stdout is not None
        assert len(await child.stdout.readline()) == (1 << 20) + 1


async def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(NodeAgentError, match="cannot start /nowhere/nix: No such file") as refusal:
        await process.run(["/nowhere/nix"], timeout=SECONDS)
    assert refusal.value.reason is Reason.SETTING_INVALID


async def test_a_process_that_takes_too_long_is_ended() -> None:
    async with process.started(sh("echo $$; exec sleep 60")) as child:
        pid = await told(child)
    with pytest.raises(TimeoutError):
        await process.run(sh("exec sleep 60"), timeout=0.1)
    assert await ended(pid)


async def test_a_child_that_closes_its_pipes_and_lives_on_still_times_out(tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid; exec >&- 2>&- <&-; exec sleep 60"
    with pytest.raises(TimeoutError):
        await process.run(sh(script), timeout=0.5)
    assert await ended(int((tmp_path / "pid").read_text()))


async def test_a_grandchild_is_ended_though_its_parent_is_gone() -> None:
    done = await process.run(sh("sleep 60 >&- 2>&- <&- & echo $!"), timeout=SECONDS)
    assert done.code == 0
    assert await ended(int(done.stdout))


async def test_the_whole_group_is_ended_with_its_leader() -> None:
    async with process.started(sh("sleep 60 & echo $!; wait")) as child:
        grandchild = await told(child)
        assert runs(grandchild)
    assert await ended(grandchild)
    assert child.returncode == -signal.SIGTERM


async def test_a_process_is_asked_before_it_is_killed(tmp_path: Path) -> None:
    script = f"trap 'touch {tmp_path}/asked; exit 0' TERM; echo $$; while :; do sleep 0.05; done"
    async with process.started(sh(script)) as child:
        await told(child)
    assert (tmp_path / "asked").exists()


async def test_a_process_that_will_not_go_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.1)
    async with process.started(sh("trap '' TERM; echo $$; while :; do sleep 0.05; done")) as child:
        await told(child)
    assert child.returncode == -signal.SIGKILL


async def test_cancelling_ends_the_group() -> None:
    pids: asyncio.Queue[int] = asyncio.Queue()

    async def work() -> None:
        async with process.started(sh("sleep 60 & echo $!; wait")) as child:
            pids.put_nowait(await told(child))
            await child.wait()

    task = asyncio.create_task(work())
    pid = await pids.get()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert await ended(pid)


async def test_nothing_is_left_where_even_the_ending_is_cancelled() -> None:
    pids: asyncio.Queue[int] = asyncio.Queue()

    async def work() -> None:
        stubborn = sh("trap '' TERM; echo $$; while :; do sleep 0.05; done")
        async with process.started(stubborn) as child:
            pids.put_nowait(await told(child))
            await child.wait()

    task = asyncio.create_task(work())
    pid = await pids.get()
    for _ in range(3):  # as often as a loop that is being closed, and more
        task.cancel()
        await asyncio.sleep(0.05)
        for one in asyncio.all_tasks() - {asyncio.current_task()}:
            one.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    # How it ended is not known: asyncio's own watcher reaps it, too, and may come second.
    assert await ended(pid)


async def test_a_descendant_that_fled_the_group_does_not_outlast_the_time_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.1)
    async with process.started(sh("setsid sh -c 'echo $$; exec sleep 1' & wait")) as child:
        fled = await told(child)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await child.communicate()
    assert runs(fled)
    assert child.returncode == -signal.SIGTERM
    assert await ended(fled)  # It is not ours to end, and holds our pipes until then.


async def test_a_stubborn_leader_whose_descendant_holds_its_pipes_is_left_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.1)
    script = "trap '' TERM; setsid sleep 60 & echo $!; while :; do sleep 1; done"
    async with process.started(sh(script)) as child:
        fled = await told(child)
    try:
        assert child.returncode == -signal.SIGKILL
        assert runs(fled)
    finally:
        os.kill(fled, signal.SIGKILL)


async def test_an_error_inside_ends_the_process_and_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        async with process.started(sh("exec sleep 60")) as child:
            _ = 1 // 0
    assert child.returncode == -signal.SIGTERM


async def test_a_process_leads_a_session_of_its_own() -> None:
    async with process.started(sh("exec sleep 60")) as child:
        assert os.getsid(child.pid) == child.pid != os.getsid(0)


def test_a_complaint_is_the_end_of_stderr_on_one_line() -> None:
    done = Completed([], 1, b"", b"x" * 10_000 + b"\n\n  error: \xff no\n  really\n")
    assert done.complaint.endswith("x; error: \N{REPLACEMENT CHARACTER} no; really")
    assert len(done.complaint) <= process.SHOWN_BYTES
    assert Completed([], 1, b"", b"").complaint == ""
