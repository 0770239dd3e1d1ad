"""What nodeagent asks of Nix, answered by the oldest and the newest Nix that Debian ships."""

import json
from pathlib import Path

import pytest

from integration import closures, nixes
from integration.site import Node, Site
from nodeagent import storepath
from nodeagent.nix import Nix, Registration

SIGNATURE = "test-1:" + "A" * 86 + "=="


@pytest.fixture(params=[nixes.INSTALLED, "trixie"], autouse=True)
def nix_version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run each test with each Nix; say which it is."""
    nixes.use(request.param, monkeypatch)
    version = closures.run("nix", "--version").split()[-1]
    assert closures.run("nix-store", "--version").split()[-1] == version
    return version


async def test_a_store_is_made_and_its_schema_known(tmp_path: Path) -> None:
    nix = Nix(tmp_path / "host")
    await nix.create()
    await nix.create()
    assert nix.valid() == {}


async def moved(tmp_path: Path) -> tuple[closures.Closure, Nix, list[Registration]]:
    """Register a closure of one store in another, its trees copied by hand."""
    closure = closures.make_closure(tmp_path / "builder")
    source, target = Nix(closure.store_root), Nix(tmp_path / "host")
    told = [
        Registration(one.path, one.info, (SIGNATURE,))
        for one in await source.closure([closure.root])
    ]
    await target.create()
    (tmp_path / "host/nix/var/nodeagent").mkdir(parents=True, exist_ok=True)
    for path in closure.paths:
        real = storepath.real(target.root, path)
        real.parent.mkdir(parents=True, exist_ok=True)
        closures.run("cp", "--archive", str(closure.real(path)), str(real))
    await target.register(told)
    return closure, target, told


async def test_registering_keeps_signatures_references_and_content_addresses(
    tmp_path: Path,
) -> None:
    closure, target, told = await moved(tmp_path)
    assert any(one.info.ca for one in told)
    by_path = {one.path: one for one in told}
    assert {one.path: one for one in target.registered(closure.paths)} == by_path
    assert {one.path: one for one in await target.closure([closure.root])} == by_path
    assert await target.invalid(closure.paths) == ()
    closures.nix_store(target.root, "--verify", "--check-contents")


async def test_paths_that_are_not_valid_are_told(tmp_path: Path) -> None:
    nix = Nix(tmp_path / "host")
    await nix.create()
    assert await nix.invalid([closures.made_up("nothing")]) == (closures.made_up("nothing"),)


async def test_the_stock_client_takes_what_we_bake(tmp_path: Path) -> None:
    site = Site(tmp_path)
    closure = site.closure()
    await site.release(closure)
    public = (tmp_path / "keys/cache-1.pub").read_text()
    target = tmp_path / "theirs"
    closures.run(
        "nix", "copy", "--from", site.cache.as_uri(), "--to", str(target), closure.root,
        settings={"trusted-public-keys": public},
    )  # fmt: skip
    assert closures.nix_store(target, "--check-validity", *closure.paths) == ""


async def test_an_agent_from_pins_to_gates(tmp_path: Path, nix_version: str) -> None:
    site = Site(tmp_path)
    node = Node(site, tmp_path / "node1")
    first, second = site.closure("1"), site.closure("2")
    site.promote(await site.release(first))
    assert await node.once() == 0
    site.promote(await site.release(second))
    assert await node.once() == 0
    assert "hello 2" in node.hello()
    closures.nix_store(node.store_root, "--verify", "--check-contents")
    live = closures.nix_store(node.store_root, "--gc", "--print-live").split()
    assert set(second.paths) <= set(live)
    told = json.loads(
        closures.run("nix", "--store", str(node.store_root), "path-info", "--json", second.root)
    )
    [facts] = told.values() if isinstance(told, dict) else told
    assert facts["signatures"]
