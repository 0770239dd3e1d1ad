"""A full disk under a root of another file system, as in a pod: which of them is told."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.test_disk import MIB, fill, mounted
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.nix import Nix

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount file systems")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Give a read-only root with a full file system at `nix`."""
    small = ("-t", "tmpfs", "-o", f"size={4 * MIB}", "tmpfs")
    with mounted(tmp_path / "root", *small) as root, mounted(root / "nix", *small) as store:
        subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
        fill(store, leave=8192)
        yield root


async def test_a_full_store_below_a_read_only_root_is_full_and_not_read_only(root: Path) -> None:
    with pytest.raises(NodeAgentError) as caught:
        await Nix(root).create()
    assert caught.value.reason is Reason.DISK_SHORT
    assert f"left on {root / 'nix'}: 0 MiB" in caught.value.message
