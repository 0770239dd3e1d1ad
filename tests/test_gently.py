import sys

from nodeagent import process
from nodeagent.agent import gently
from nodeagent.config import AgentSettings

ASK = "import os, psutil; print(os.nice(0), psutil.Process().ionice().ioclass.name)"


async def asked(settings: AgentSettings) -> str:
    argv = [*gently(settings), sys.executable, "-c", ASK]
    return (await process.run(argv, timeout=20)).stdout.decode().strip()


async def test_workers_stand_back_as_far_as_they_are_told() -> None:
    assert await asked(AgentSettings(nice=7, idle_io=True)) == "7 IOPRIO_CLASS_IDLE"


async def test_untold_they_are_as_the_agent_is() -> None:
    assert gently(AgentSettings()) == ()
