"""What a process and a directory take: counted from outside, to see whether it grows."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOOKS: Final = 20
PAUSE_SECONDS: Final = 0.05


@dataclass(frozen=True)
class Usage:
    """A process's open files and its RSS in KiB."""

    files: int
    rss: int


def of_process(pid: int) -> Usage:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [rss] = [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
    return Usage(len(os.listdir(f"/proc/{pid}/fd")), rss)  # noqa: PTH208 it is counted only


async def lasting(pid: int) -> Usage:
    """Give the least of several looks: what a process keeps, without what comes and goes."""
    looks = []
    for _ in range(LOOKS):
        looks.append(of_process(pid))
        await asyncio.sleep(PAUSE_SECONDS)
    return Usage(min(look.files for look in looks), min(look.rss for look in looks))


def of_directory(place: Path) -> dict[str, int]:
    """Give every file below a directory with its size; links and directories count nothing."""
    found = {}
    for directory, _, names in os.walk(place):
        for name in names:
            file = Path(directory, name)
            found[str(file.relative_to(place))] = file.lstat().st_size
    return found
