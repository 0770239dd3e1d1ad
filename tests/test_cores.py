import os
from pathlib import Path

import pytest

from nodeagent import cores

ALL = len(os.sched_getaffinity(0))


def usable(tmp_path: Path, membership: str, files: dict[str, str]) -> int:
    (tmp_path / "self").write_text(membership)
    for name, text in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return cores.usable(tmp_path / "cgroup", tmp_path / "self")


@pytest.mark.parametrize(
    ("membership", "files"),
    {
        "v2, as a container sees itself": ("0::/\n", {"cpu.max": "50000 100000\n"}),
        "v2, below a parent with a quota": (
            "0::/pods/ours\n",
            {"pods/cpu.max": "100000 100000\n", "pods/ours/cpu.max": "max 100000\n"},
        ),
        "v1": (
            "4:memory:/x\n3:cpu,cpuacct:/pods\n",
            {"cpu/pods/cpu.cfs_quota_us": "70000\n", "cpu/pods/cpu.cfs_period_us": "100000\n"},
        ),
    }.values(),
)
def test_a_quota_bounds_the_cores_and_a_part_counts_whole(
    membership: str, files: dict[str, str], tmp_path: Path
) -> None:
    assert usable(tmp_path, membership, files) == 1


@pytest.mark.parametrize(
    ("membership", "files"),
    {
        "v2 without a quota": ("0::/\n", {"cpu.max": "max 100000\n"}),
        "v1 without a quota": (
            "3:cpu,cpuacct:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        ),
        "no cgroups": ("", {}),
        "a quota far above": ("0::/\n", {"cpu.max": "99900000 100000\n"}),
        "a file that makes no sense": ("0::/\n", {"cpu.max": "50000 0\n"}),
    }.values(),
)
def test_without_a_quota_the_scheduler_decides(
    membership: str, files: dict[str, str], tmp_path: Path
) -> None:
    assert usable(tmp_path, membership, files) == ALL


def test_this_process_may_use_a_core() -> None:
    assert 1 <= cores.usable() <= ALL
