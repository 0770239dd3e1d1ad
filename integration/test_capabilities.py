"""Root with fewer capabilities: what each is needed for, and what is said without it.

Those of the manifest are enough where all is root's own; the second that the message names is for
what somebody else left there. `test_fleet_security.py` looks at them in the agent's own container.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import yaml

from integration.site import Node, Site
from nodeagent.names import Reason

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give up capabilities")

NAMED: Final = ("dac_override", "fowner")
DAEMONSET: Final = Path(__file__).parents[1] / "daemonset/base/daemonset.yaml"


@dataclass
class Bare(Node):
    """A node whose agent is root with these capabilities and no other."""

    capabilities: tuple[str, ...] = NAMED

    def argv(self, *more: str) -> list[str]:
        kept = ",".join(["-all", *(f"+{one}" for one in self.capabilities)])
        bare = ["setpriv", f"--bounding-set={kept}", "--inh-caps=-all", "--no-new-privs"]
        return [*bare, *super().argv(*more)]


def damage(node: Node, root: str, *, owner: int = 0) -> None:
    """Spoil a published file, and perhaps leave its whole tree to somebody else."""
    file = node.real(root) / "bin/hello"
    for one in (file.parent, file):
        one.chmod(0o755)
    file.write_bytes(b"x" * 1000)
    for one in (file, file.parent):
        one.chmod(0o555)
    for one in (node.real(root), *node.real(root).rglob("*")):
        os.chown(one, owner, owner, follow_symlinks=False)


async def test_the_two_that_the_message_names_are_enough_for_a_nodes_whole_life(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    closure = site.closure("1")
    first, second = await site.release(closure), await site.release(site.closure("2"))
    node = Bare(site, tmp_path / "node1")
    site.promote(first)
    assert await node.once() == 0
    damage(node, closure.root, owner=1)
    node.boot("boot-2")
    assert await node.once() == 0  # the damaged tree is exchanged
    assert "hello 1" in node.hello()
    displaced = node.store_root / "nix/var/nodeagent/displaced"
    assert any(displaced.iterdir())
    for note in displaced.glob("*.json"):
        note.unlink()  # else it were evidence, and stayed
    node.boot("boot-3")
    assert await node.once() == 0  # and its remains, though not ours, are removed
    assert not any(displaced.iterdir())
    for one in (node.root / "state", node.run_dir, node.store_root / "nix/store"):
        os.chown(one, 1, 1)
    site.promote(second)
    assert await node.once() == 0
    assert "hello 2" in node.hello()


def of_the_manifest() -> tuple[str, ...]:
    """List the capabilities that the DaemonSet gives its agents."""
    pod = yaml.safe_load(DAEMONSET.read_text())["spec"]["template"]["spec"]
    [agent] = pod["containers"]
    added = agent["securityContext"]["capabilities"]["add"]
    return tuple(name.lower() for name in added)


@pytest.mark.parametrize("missing", [None, *of_the_manifest()])
async def test_of_the_manifests_capabilities_none_is_missing_and_none_superfluous(
    tmp_path: Path, missing: str | None
) -> None:
    site = Site(tmp_path)
    closure = site.closure("1")
    given = tuple(name for name in of_the_manifest() if name != missing)
    node = Bare(site, tmp_path / "node1", capabilities=given)
    site.promote(await site.release(closure))
    assert await node.once() == 0
    damage(node, closure.root)
    node.boot("boot-2")
    if missing is None:
        assert await node.once() == 0  # exchanged
        displaced = node.store_root / "nix/var/nodeagent/displaced"
        for note in displaced.glob("*.json"):
            note.unlink()  # else it were evidence, and stayed
        node.boot("boot-3")
        assert await node.once() == 0  # and its remains removed
        assert not any(displaced.iterdir())
        site.promote(await site.release(site.closure("2")))
        assert await node.once() == 0
        assert "hello 2" in node.hello()
    else:
        assert await node.once() == 1
        [told] = [one["event"] for one in node.log if one.get("reason") == Reason.STORE_UNUSABLE]
        assert f"CAP_{missing.upper()}" in told


async def test_without_any_a_node_is_filled_and_what_cannot_be_mended_is_told(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    closure = site.closure("1")
    node = Bare(site, tmp_path / "node1", capabilities=())
    site.promote(await site.release(closure))
    assert await node.once() == 0
    damage(node, closure.root)
    node.boot("boot-2")
    assert await node.once() == 1
    [told] = [one["event"] for one in node.log if one.get("reason") == Reason.STORE_UNUSABLE]
    assert "run the agent as root with CAP_DAC_OVERRIDE and CAP_FOWNER" in told
    assert not (node.run_dir / "profiles/ds").exists()  # damaged is not published
    node.capabilities = NAMED
    assert await node.once() == 0
    assert "hello 1" in node.hello()


async def test_a_directory_of_somebody_else_is_named_and_can_be_given_back(tmp_path: Path) -> None:
    site = Site(tmp_path)
    node = Bare(site, tmp_path / "node1", capabilities=())
    first, second = [await site.release(site.closure(version)) for version in ("1", "2")]
    site.promote(first)
    async with node.agent():
        await node.until_published(first)
        os.chown(node.root / "state", 1, 1)
        site.promote(second)
        status = await node.until_problem(Reason.STORE_UNUSABLE)
        assert status.problem is not None
        assert str(node.root / "state") in status.problem.message
        assert "CAP_DAC_OVERRIDE" in status.problem.message
        assert (await node.get("/readyz"))[0] == 200
        assert "hello 1" in node.hello()
        os.chown(node.root / "state", 0, 0)
        await node.until_published(second)
