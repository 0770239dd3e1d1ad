"""A path that is valid already with another content than the release says."""

from pathlib import Path

from integration import closures
from integration.closures import Closure
from integration.site import Node, Site
from nodeagent.names import Reason
from nodeagent.nix import Nix


async def publish_and_change(tmp_path: Path) -> tuple[Site, Node, Closure, bytes]:
    """Publish a release, then build one of its paths anew with other contents, as builds do."""
    site = Site(tmp_path)
    node, closure = Node(site, tmp_path / "node1"), site.closure()
    site.promote(await site.release(closure))
    assert await node.once() == 0
    again = closures.make_closure(site.root / "rebuilt", file_bytes=3000)
    assert again.paths == closure.paths
    return site, node, closure, await site.release(again)


async def test_it_is_kept_and_told_if_a_trusted_key_signed_it(tmp_path: Path) -> None:
    site, node, closure, rebuilt = await publish_and_change(tmp_path)
    before = Nix(node.store_root).valid()
    site.promote(rebuilt)
    async with node.agent():
        status = await node.until_published(rebuilt)
        assert closure.paths[1] in status.conflicts
        code, text = await node.get("/healthz")
        assert code == 503
        assert Reason.PATH_CONFLICT in text
    assert Nix(node.store_root).valid() == before


async def test_it_is_replaced_if_nobody_vouches_for_it(tmp_path: Path) -> None:
    site, node, closure, rebuilt = await publish_and_change(tmp_path)
    before = Nix(node.store_root).valid()
    forget_signatures(node)
    site.promote(rebuilt)
    async with node.agent():
        status = await node.until_published(rebuilt)
        assert status.conflicts == ()
    after = Nix(node.store_root).valid()
    assert after.keys() == before.keys()
    assert after[closure.paths[1]] != before[closure.paths[1]]
    closures.nix_store(node.store_root, "--verify", "--check-contents")


def forget_signatures(node: Node) -> None:
    """Register what is there once more: `--load-db` drops signatures."""
    dump = closures.nix_store(node.store_root, "--dump-db")
    closures.nix_store(node.store_root, "--load-db", stdin=dump.encode())
