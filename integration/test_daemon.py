"""A host's own Nix daemon owns the store: it fetches, the agent verifies and opens the gates."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from integration import closures, nixes
from integration.site import Node, Site
from nodeagent import process
from nodeagent.names import Reason
from nodeagent.nix import Nix

# A mount namespace of its own, whose /nix is the node's: as on a host that has Nix.
INSIDE = "mount --bind $0 /nix && exec nix-daemon"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


@pytest.fixture(params=[nixes.INSTALLED, "trixie"], autouse=True)
def nix_version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test with each Nix."""
    nixes.use(request.param, monkeypatch)


@contextlib.asynccontextmanager
async def daemon(root: Path) -> AsyncIterator[None]:
    """Run a Nix daemon on the store under `root`."""
    (root / "nix").mkdir(parents=True)
    spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    argv: Sequence[str] = [*spaces, "sh", "-c", INSIDE, str(root / "nix")]
    async with process.started(argv, env=Nix(root).env, stderr=None):
        async with asyncio.timeout(20):
            while not (root / "nix/var/nix/daemon-socket/socket").exists():  # noqa: ASYNC110 made by another process
                await asyncio.sleep(0.05)
        yield


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def node(site: Site) -> Node:
    return Node(site, site.root / "node1")


async def test_the_daemon_fetches_and_the_agent_opens_the_gates(site: Site, node: Node) -> None:
    closure = site.closure()
    manifest = await site.release(closure)
    site.promote(manifest)
    async with daemon(node.store_root), node.agent():
        await node.until_published(manifest)
        assert closure.root in node.hello()
        live = closures.nix_store(node.store_root, "--gc", "--print-live").split()
        assert set(closure.paths) <= set(live)
    assert not any((node.store_root / "nix/var/nodeagent/staging").iterdir())
    closures.nix_store(node.store_root, "--verify", "--check-contents")


async def test_what_no_trusted_key_signed_is_not_taken(site: Site, node: Node) -> None:
    closure = site.closure()
    site.promote(await site.release(closure))
    _, other = closures.make_key(site.root / "keys", "other-1")
    node.settings = {"cache-keys": str(other)}
    async with daemon(node.store_root), node.agent():
        await node.until_problem(Reason.NIX_FAILED)
        assert not (node.run_dir / "profiles/ds").exists()


async def test_another_hash_than_the_manifests_is_refused_and_told(site: Site, node: Node) -> None:
    closure = site.closure()
    manifest = await site.release(closure)

    def change(data: dict[str, object]) -> None:
        text = json.dumps(data)
        facts = data["systems"]["x86_64-linux"]["paths"]  # type: ignore[index]
        first, second = (facts[path]["narHash"] for path in closure.paths[1:3])
        data.update(json.loads(text.replace(first, second)))

    site.pin(site.rewrite(manifest, change))
    async with daemon(node.store_root), node.agent():
        await node.until_problem(Reason.NAR_CORRUPT)
    assert not any(node.real(path).exists() for path in closure.paths)
    assert not (node.run_dir / "profiles/ds").exists()


async def test_without_a_daemon_the_executor_nix_is_refused(site: Site, node: Node) -> None:
    site.promote(await site.release(site.closure()))
    node.settings = {"executor": "nix"}
    assert await node.once() == 1
    assert "--executor pour" in node.log[-1]["event"]
