"""How many cores this process may use: the scheduler's mask, and the cgroup's quota.

A pod limited to half a core on a node of 64 would otherwise start 64 workers and be throttled
in all of them. Formats: kernel Documentation, cgroup-v2.rst (`cpu.max`) and
scheduler/sched-bwc.rst (`cpu.cfs_quota_us`).
"""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")


def usable(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Give the number of cores, at least 1; a part of a core counts whole."""
    quotas = [quota for group in _groups(cgroups, membership) if (quota := _quota(group))]
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, quotas)]))


def _groups(cgroups: Path, membership: Path) -> Iterator[Path]:
    """Give every directory that may hold a quota for us: our group's and its parents'.

    In a cgroup namespace, as containers have, our group is the root that is mounted.
    """
    for line in _text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = cgroups / "cpu" if controllers else cgroups
        group = base / path.lstrip("/")
        yield from (one for one in (group, *group.parents) if one.is_relative_to(base))


def _quota(group: Path) -> float | None:
    """Give a group's own quota in cores, if it has one."""
    unified = _text(group / "cpu.max").split()
    match unified or [_text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]:
        case [quota, period] if quota.isdigit() and period.isdigit() and int(period):
            return int(quota) / int(period)
        case _:
            return None  # "max", "-1", or no such files


def _text(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_text()
    return ""
