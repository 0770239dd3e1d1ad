import errno
import os
import sqlite3
from pathlib import Path

import pytest

from nodeagent import disk
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason


def told(code: int, place: Path) -> NodeAgentError:
    return disk.fault(OSError(code, os.strerror(code)), place)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_what_is_left(tmp_path: Path, code: int) -> None:
    error = told(code, tmp_path)
    assert error.reason is Reason.DISK_SHORT
    assert f"left on {disk.mount_point(tmp_path)}: " in error.message
    assert "MiB" in error.message


@pytest.mark.parametrize(
    ("code", "step"),
    [
        (errno.EROFS, "mount it read-write"),
        (errno.EACCES, "CAP_DAC_OVERRIDE"),
        (errno.EPERM, "lsattr"),
        (errno.EXDEV, "as one"),
        (errno.EIO, "check the disk"),
    ],
)
def test_each_refusal_has_its_step(tmp_path: Path, code: int, step: str) -> None:
    error = told(code, tmp_path)
    assert error.reason is Reason.STORE_UNUSABLE
    assert error.message.startswith(f"{tmp_path}: ")
    assert step in error.message


def test_the_file_that_was_refused_is_named_whatever_its_spelling(tmp_path: Path) -> None:
    for name in (str(tmp_path / "file"), os.fsencode(tmp_path / "file")):
        error = disk.fault(OSError(errno.EIO, "no", name), tmp_path)
        assert error.message.startswith(f"{tmp_path / 'file'}: no")


def test_where_nothing_can_be_asked_the_first_failure_is_told(tmp_path: Path) -> None:
    assert "(left on" not in told(errno.ENOSPC, tmp_path / ("n" * 300)).message


def test_what_is_free_is_what_the_kernel_says(tmp_path: Path) -> None:
    free = disk.free(tmp_path)
    assert 0 < free.bytes <= os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
    with pytest.raises(NodeAgentError):
        disk.free(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "cause",
    ["error: writing to file: No space left on device", str(sqlite3.Error("disk is full"))],
)
def test_a_full_disk_is_recognised_in_the_words_of_others(tmp_path: Path, cause: str) -> None:
    error = disk.recognised(cause, tmp_path)
    assert error is not None
    assert error.reason is Reason.DISK_SHORT


def test_other_words_are_not_taken_for_the_disk(tmp_path: Path) -> None:
    assert disk.recognised("error: no", tmp_path) is None
    assert disk.recognised("error: no", tmp_path / "nowhere") is None


def test_a_read_only_file_system_is_recognised_by_its_flag() -> None:
    if not os.statvfs("/sys").f_flag & os.ST_RDONLY:
        pytest.skip("no file system is read-only here")
    error = disk.recognised("unable to open database file", Path("/sys"))
    assert error is not None
    assert "mount it read-write" in error.message
