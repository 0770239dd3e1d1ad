"""An agent that holds a release which only a newer nodeagent can read: it went back too early."""

import json
from pathlib import Path
from typing import Any

from integration.site import Node, Site
from nodeagent import release
from nodeagent.names import Reason


def invent(site: Site, manifest: bytes) -> bytes:
    """Publish a manifest with a field that this nodeagent does not know."""
    data = json.dumps(json.loads(manifest) | {"invention": 1}, sort_keys=True).encode()
    for of in (release.manifest_file, release.index_file):
        old = (site.cache / of(release.digest_of(manifest))).read_bytes()
        (site.cache / of(release.digest_of(data))).write_bytes(
            data if of is release.manifest_file else old
        )
    return data


def hold(node: Node, manifest: bytes) -> None:
    """Let a node hold a release, as a newer agent has left it."""
    file = node.root / "state/state.json"
    state: dict[str, Any] = json.loads(file.read_bytes())
    digest = release.digest_of(manifest)
    state["held"]["release"] = digest
    file.write_text(json.dumps(state))
    (node.root / "state" / release.manifest_file(digest)).write_bytes(manifest)


async def test_an_agent_that_cannot_read_what_it_holds_says_so_and_is_healed_by_pins(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path / "site")
    first = await site.release(site.closure())
    site.promote(first)
    node = Node(site, tmp_path / "node1")
    async with node.agent():
        await node.until_published(first)
    newer = invent(site, first)
    hold(node, newer)
    site.pin(newer)
    async with node.agent():
        await node.until_problem(Reason.MANIFEST_INVALID)
        assert not (await node.status()).ready
        assert "hello 1" in node.hello()  # pods in use keep what they mounted
        site.promote(first)
        await node.until_published(first)
