"""A cgroup of its own for each node, or kubelets on one machine end each other's pods (v1 only)."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
REMOVE_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.02


def folders(name: str) -> Iterator[Path]:
    """Give a group's directory in each hierarchy, there or not."""
    for hierarchy in sorted(ROOT.iterdir()):
        if (hierarchy / "cgroup.procs").exists():
            yield hierarchy / name


def make(name: str) -> None:
    """Make a group and its parent; a cpuset must be filled before anything may enter."""
    for folder in folders(name):
        for group in (folder.parent, folder):
            group.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if (group / setting).exists():
                    (group / setting).write_text((group.parent / setting).read_text())


def remove(name: str) -> None:
    """Remove a group with all below it; the processes in them are dead or dying."""
    for folder in folders(name):
        for path, _, _ in os.walk(folder, topdown=False):
            _remove(Path(path))


def _remove(group: Path) -> None:
    end = time.monotonic() + REMOVE_SECONDS
    while group.exists():
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # Busy, until its last process is quite gone.
            if time.monotonic() > end:
                raise
            time.sleep(POLL_SECONDS)
