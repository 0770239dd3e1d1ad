import json
import os
from pathlib import Path

import pytest

from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.publish import Gates, Generation
from nodeagent.release import digest12
from nodeagent.store import StoreFiles
from tests import nars
from tests.handmade import TREE, Item, digest, path, system

ITEM = Item(path("ds"))


@pytest.fixture
def files(scratch: Path) -> StoreFiles:
    made = StoreFiles(scratch / "host")
    made.claim(share=False)
    put(made, ITEM)
    return made


@pytest.fixture
def gates(scratch: Path) -> Gates:
    return Gates(scratch / "run", "/nix/store")


def put(files: StoreFiles, item: Item) -> None:
    nars.write(item.tree, os.fsencode(files.real(item.path)))


def generation(number: int, *items: Item, **profiles: Item) -> Generation:
    named = profiles or {"ds": ITEM}
    roots = {name: item.path for name, item in named.items()}
    return Generation(digest(number), number, system(*named.values(), *items, profiles=roots))


def in_pod(gates: Gates, profile: str) -> dict[str, str]:
    """List the links that a pod sees under /opt/nodeagent/<profile>."""
    return {
        one.name: str(one.readlink())
        for one in gates.profile(profile).iterdir()
        if one.is_symlink()
    }


def test_a_profile_is_laid_out_as_links_that_resolve_in_the_pod(
    files: StoreFiles, gates: Gates
) -> None:
    gates.publish(files, generation(7))
    names = {os.fsdecode(name) for name in TREE.entries}
    assert in_pod(gates, "ds") == {name: f"{ITEM.path}/{name}" for name in names}
    assert gates.store.readlink() == Path("/nix/store")
    assert not gates.profile("ds").readlink().is_absolute()


def test_each_profile_says_what_it_is(files: StoreFiles, gates: Gates) -> None:
    gates.publish(files, generation(7))
    assert json.loads((gates.profile("ds") / "release.json").read_text()) == {
        "release": digest(7),
        "serial": 7,
        "profile": "ds",
        "kind": "env",
        "root": ITEM.path,
    }


def test_a_profile_that_holds_such_a_file_does_not_speak_for_us(
    files: StoreFiles, gates: Gates
) -> None:
    liar = Item(path("liar"), nars.Directory({b"release.json": nars.File(b"{}")}))
    put(files, liar)
    gates.publish(files, generation(7, ds=liar))
    assert json.loads((gates.profile("ds") / "release.json").read_text())["serial"] == 7
    assert nars.read(os.fsencode(files.real(liar.path))) == liar.tree


def test_a_root_that_is_a_link_is_followed_inside_the_store(
    files: StoreFiles, gates: Gates
) -> None:
    absolute = Item(path("absolute"), nars.Link(os.fsencode(f"{ITEM.path}/bin")))
    relative = Item(path("relative"), nars.Link(os.fsencode(Path(absolute.path).name)))
    put(files, absolute)
    put(files, relative)
    gates.publish(files, generation(7, ds=relative))
    assert in_pod(gates, "ds") == {"hello": f"{relative.path}/hello"}


CIRCLE = path("circle")


@pytest.mark.parametrize(
    "odd",
    [
        Item(path("file"), nars.File(b"a file")),
        Item(path("nowhere"), nars.Link(b"/nowhere")),
        Item(CIRCLE, nars.Link(CIRCLE.encode())),
    ],
)
def test_a_root_that_holds_nothing_gives_an_empty_profile(
    files: StoreFiles, gates: Gates, odd: Item
) -> None:
    put(files, odd)
    gates.publish(files, generation(7, ds=odd))
    assert in_pod(gates, "ds") == {}


def test_the_generation_is_rooted_before_its_gates_open(files: StoreFiles, gates: Gates) -> None:
    gates.run_dir.write_text("in the way")
    with pytest.raises(NodeAgentError) as caught:
        gates.publish(files, generation(7))
    assert caught.value.reason is Reason.STORE_UNUSABLE
    assert (files.roots / digest12(digest(7)) / "ds").readlink() == Path(ITEM.path)


def test_the_next_generation_takes_over_and_the_last_stays_laid_out(
    files: StoreFiles, gates: Gates
) -> None:
    gates.publish(files, generation(7))
    bound = gates.profile("ds").resolve()
    gates.publish(files, generation(8))
    assert gates.profile("ds").resolve() == gates.release(digest(8), "ds")
    assert (bound / "release.json").exists()


def test_a_profile_that_left_the_release_keeps_its_gate(files: StoreFiles, gates: Gates) -> None:
    gates.publish(files, generation(7, ds=ITEM, web=ITEM))
    gates.publish(files, generation(8, ds=ITEM))
    assert gates.profile("web").resolve() == gates.release(digest(7), "web")


def test_publishing_again_repairs_what_was_left_half_done(files: StoreFiles, gates: Gates) -> None:
    half = gates.release(digest(7), "ds").with_name(".ds.new")
    half.mkdir(parents=True)
    (half / "rubbish").touch()
    gates.publish(files, generation(7))
    gates.publish(files, generation(7))
    assert not half.exists()
    assert "rubbish" not in {one.name for one in gates.profile("ds").iterdir()}
    assert gates.shut(["ds"]) == []


def test_a_withdrawn_gate_is_shut_and_the_others_stay_open(files: StoreFiles, gates: Gates) -> None:
    gates.publish(files, generation(7, ds=ITEM, web=ITEM))
    gates.withdraw(["ds", "never-there"])
    assert gates.shut(["ds", "web"]) == ["ds"]
    assert gates.open() == [("web", digest12(digest(7)))]


def test_where_a_gate_is_shut_nobody_can_make_a_directory(files: StoreFiles, gates: Gates) -> None:
    gates.withdraw(["ds"])
    gates.publish(files, generation(7, web=ITEM))
    gates.withdraw(["web"])
    for name in ("ds", "web"):
        with pytest.raises(FileExistsError):
            gates.profile(name).mkdir(parents=True)


def test_a_gate_that_cannot_lead_nowhere_is_removed(files: StoreFiles, gates: Gates) -> None:
    gates.publish(files, generation(7))
    gates.profile(".ds.new").mkdir()
    gates.withdraw(["ds"])
    assert not os.path.lexists(gates.profile("ds"))


def test_a_directory_in_a_gates_place_is_a_shut_gate_and_gives_way(
    files: StoreFiles, gates: Gates
) -> None:
    gates.publish(files, generation(7))
    gates.profile("ds").unlink()
    gates.store.unlink()
    gates.store.mkdir()
    (gates.profile("ds") / "written").mkdir(parents=True)
    assert gates.shut(["ds"]) == ["ds"]
    assert gates.open() == []
    gates.publish(files, generation(7))
    assert gates.shut(["ds"]) == []
    assert gates.store.readlink() == Path("/nix/store")


def test_a_withdrawn_gate_opens_again(files: StoreFiles, gates: Gates) -> None:
    gates.publish(files, generation(7))
    gates.withdraw(["ds"])
    gates.publish(files, generation(7))
    assert gates.shut(["ds"]) == []


def test_a_gate_that_leads_nowhere_is_shut(files: StoreFiles, gates: Gates) -> None:
    gates.publish(files, generation(7))
    gates.release(digest(7), "ds").rename(gates.run_dir / "elsewhere")
    assert gates.shut(["ds"]) == ["ds"]


def test_without_the_link_to_the_store_every_gate_is_shut(files: StoreFiles, gates: Gates) -> None:
    gates.publish(files, generation(7, ds=ITEM, web=ITEM))
    gates.store.unlink()
    assert gates.shut(["ds", "web"]) == ["ds", "web"]


def test_everything_of_an_earlier_boot_is_withdrawn(files: StoreFiles, gates: Gates) -> None:
    gates.withdraw_all()
    gates.publish(files, generation(7))
    gates.withdraw_all()
    assert not gates.release(digest(7), "").exists()
    assert gates.open() == []
    assert nars.read(os.fsencode(files.real(ITEM.path))) == TREE
