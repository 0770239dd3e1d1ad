"""An agent that finds itself confined by SELinux, on a kernel that has none.

Its own label is mounted over; those of files are extended attributes as SELinux has them, but no
file takes the label of its directory here, and nobody is refused anything.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration.site import Node, Site
from nodeagent.names import Reason
from nodeagent.selinux import LABEL

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount and label")

DOMAIN = "system_u:system_r:spc_t:s0\0"
AS = 'mount --bind "$0" /proc/$$/attr/current && exec "$@"'


@dataclass
class Confined(Node):
    """A node whose agent reads in /proc that SELinux confines it."""

    def argv(self, *more: str) -> Sequence[str]:
        domain = self.root / "domain"
        domain.write_text(DOMAIN)
        return ["unshare", "--mount", "sh", "-c", AS, str(domain), *super().argv(*more)]


def label(path: Path) -> str | None:
    try:
        found = os.getxattr(path, "security.selinux", follow_symlinks=False)
    except OSError:
        return None
    return found.decode().removesuffix("\0")


async def test_a_node_is_ready_once_containers_may_read_what_it_published(tmp_path: Path) -> None:
    site = Site(tmp_path)
    closure = site.closure("1")
    site.promote(await site.release(closure))
    node = Confined(site, tmp_path / "node1")
    async with node.agent():
        status = await node.until("published", lambda now: now.published is not None)
        assert not status.ready
        answered, text = await node.get("/readyz")
        assert (answered, text.split(":")[:2]) == (
            503,
            ["selinux", f" {Reason.SELINUX_UNLABELLED}"],
        )
        assert closure.root in text
        assert label(node.store_root / "nix/store") == LABEL
        assert label(node.real(closure.root)) is None
    async with node.agent():
        await node.until("ready", lambda now: now.ready)
    everything = [*node.real(closure.root).rglob("*"), *(node.run_dir / "releases").rglob("ds/*")]
    assert {label(path) for path in everything} == {LABEL}
    assert "hello 1" in node.hello()


async def test_a_store_that_is_shared_is_left_as_it_is_labelled(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.promote(await site.release(site.closure("1")))
    node = Confined(site, tmp_path / "node1")
    assert await node.once("--share-store") == 0
    async with node.agent("--share-store"):
        assert not (await node.until("published", lambda now: now.published is not None)).ready
    assert label(node.store_root / "nix/store") is None
