"""`nodeagent demo`, whole: what a new user sees, and that nothing of it stays behind."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil

SECONDS = 100


async def start(scratch: Path) -> asyncio.subprocess.Process:
    scratch.mkdir()
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nodeagent", "demo", "--offline"),
        *("--cache-dir", str(scratch.parent / "downloads")),
        env=os.environ | {"TMPDIR": str(scratch)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_the_demo_shows_every_step_and_leaves_nothing(tmp_path: Path) -> None:
    demo = await start(tmp_path / "tmp")
    async with asyncio.timeout(SECONDS):
        output = (await demo.communicate())[0].decode()
    assert demo.returncode == 0, output
    for step in (
        "built-in closure",
        "$ nodeagent release build",
        "$ nodeagent promote",
        "$ nodeagent agent",
        "a task in a pod without Python",
        "Python 3",
        "empty store to ready",
        "$ nodeagent status",
        "ready     yes",
    ):
        assert step in output
    assert not any((tmp_path / "tmp").iterdir())


async def test_ctrl_c_in_the_middle_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    demo = await start(tmp_path / "tmp")
    assert demo.stdout is not None
    async with asyncio.timeout(SECONDS):
        while b"$ nodeagent agent" not in await demo.stdout.readline():
            pass
        family = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGINT)
        await demo.stdout.read()
        assert await demo.wait() == 130
    assert family
    assert not any(process.is_running() for process in family)
    assert not any((tmp_path / "tmp").iterdir())
