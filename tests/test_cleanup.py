"""What cleanup removes from a node's disk, what it leaves, and what it refuses."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nodeagent import cli
from nodeagent.cleanup import files, lock
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from tests.cleaning import CONTENT, ITEM, Traces

Output = pytest.CaptureFixture[str]
REMOVALS = {"os.remove", "os.rmdir"}


@pytest.fixture
def node(scratch: Path) -> Traces:
    return Traces(scratch).live()


def refusal(node: Traces, **settings: object) -> NodeAgentError:
    """Clean up in vain; nothing may have changed."""
    before = node.tree()
    with pytest.raises(NodeAgentError) as caught:
        node.clean(**settings)
    assert node.tree() - {"lib/nodeagent/lock"} == before - {"lib/nodeagent/lock"}
    assert "\n" not in caught.value.message
    return caught.value


def test_with_the_store_nothing_stays_but_the_directory_that_others_may_have_made(
    node: Traces,
) -> None:
    node.clean(store=True)
    assert node.tree() == {"host/nix", "run", "lib"}


def test_without_it_the_store_stays_with_the_mark_whose_it_is(node: Traces) -> None:
    before = node.tree(CONTENT)
    node.clean()
    kept = ("nix/db/db.sqlite", "nix/profiles/per-user", "nix/gcroots", "nodeagent/owner")
    assert node.tree() == {*before, *(f"host/nix/var/{one}" for one in kept), "run", "lib"}


def test_the_next_agent_knows_the_store_again_and_a_later_cleanup_removes_it(node: Traces) -> None:
    node.clean()
    node.files.claim(share=False)
    node.clean()
    node.clean(store=True)
    assert node.tree() == {"host/nix", "run", "lib"}


@pytest.mark.parametrize("with_store", [False, True])
def test_a_clean_node_stays_as_it_is(node: Traces, with_store: bool, capsys: Output) -> None:
    node.clean(store=with_store)
    before = node.tree()
    capsys.readouterr()
    node.clean(store=with_store)
    assert node.tree() == before
    assert "is gone" not in capsys.readouterr().out


def test_a_node_that_never_had_an_agent_stays_as_it_is(scratch: Path) -> None:
    Traces(scratch).clean(store=True)
    assert Traces(scratch).tree() == {"."}


def test_a_store_below_the_state_directory_stays_there_and_goes_with_all_of_it(
    scratch: Path,
) -> None:
    node = Traces(scratch, "lib/nodeagent").live()
    node.clean()
    assert not (node.state_dir / "state.json").exists()
    assert node.files.on_disk() == {ITEM.path}
    node.clean(store=True)
    assert node.tree() == {"run", "lib"}


def test_what_nodeagent_did_not_make_stays_and_is_named(node: Traces, capsys: Output) -> None:
    for directory in (node.run_dir, node.state_dir, node.files.root / "nix"):
        (directory / "others").write_text("")
    node.clean(store=True)
    assert node.tree() == {"run/nodeagent/others", "lib/nodeagent/others", "host/nix/others"}
    assert f"{node.run_dir} stays, with others" in capsys.readouterr().out


def test_links_are_removed_and_not_followed(node: Traces, scratch: Path) -> None:
    (scratch / "precious/file").parent.mkdir()
    (scratch / "precious/file").write_text("")
    places = (node.files.staging, node.files.store_dir, node.run_dir / "releases")
    for place in (*places, node.files.store_dir / "deep"):
        place.mkdir(exist_ok=True)
        (place / "link").symlink_to(scratch / "precious")
    node.clean(store=True)
    assert node.tree() == {"host/nix", "run", "lib", "precious/file"}


@pytest.mark.parametrize(
    ("top", "with_store"),
    [("run/nodeagent/releases/x", False), ("host/nix/store/x y", True), ("host/nix/var/x", True)],
)
def test_what_is_mounted_inside_is_not_entered(
    node: Traces, scratch: Path, monkeypatch: pytest.MonkeyPatch, top: str, with_store: bool
) -> None:
    mount = str(scratch / top)
    told = scratch.parent / f"{scratch.name}.mounts"
    lines = [f"1 0 8:1 / {one} rw - ext4 /dev/sda rw" for one in ("/", mount.replace(" ", r"\040"))]
    told.write_text("\n".join(lines))
    monkeypatch.setattr(files, "MOUNTS", told)
    error = refusal(node, store=with_store)
    told.unlink()
    assert error.reason is Reason.STORE_UNUSABLE
    assert f"{mount} is mounted in " in error.message


def foreign(node: Traces) -> None:
    node.files.marker.unlink()


def shared(node: Traces) -> None:
    node.files.marker.unlink()
    node.files.claim(share=True)


def daemons(node: Traces) -> None:
    socket = node.files.root / files.SOCKET
    socket.parent.mkdir()
    socket.touch()


@pytest.mark.parametrize("make", [foreign, shared, daemons])
def test_a_store_that_is_not_ours_alone_stays_whatever_is_asked(
    node: Traces, make: Callable[[Traces], None]
) -> None:
    make(node)
    before = node.tree(CONTENT)
    error = refusal(node, store=True)
    assert error.reason is Reason.FOREIGN_STORE
    assert "without --store" in error.message
    assert "nix-collect-garbage" in error.message
    node.clean()
    assert node.tree(CONTENT) == before
    assert not node.files.ours.exists()
    assert not node.files.roots.exists()


def test_a_store_that_was_empty_when_it_was_shared_is_ours(scratch: Path) -> None:
    node = Traces(scratch).live(share=True)
    node.clean(store=True)
    assert node.tree() == {"host/nix", "run", "lib"}


def test_an_agent_that_runs_is_not_disturbed(node: Traces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.1)
    with (node.state_dir / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        error = refusal(node)
    assert error.reason is Reason.AGENT_RUNNING
    assert "kubectl delete daemonset nodeagent" in error.message
    node.clean()


def test_one_that_ends_is_waited_for(node: Traces, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ends_when_asked_again(file: object) -> bool:
        asked.append(file)
        return len(asked) > 2

    monkeypatch.setattr(lock, "try_lock", ends_when_asked_again)
    node.clean(store=True)
    assert node.tree() == {"host/nix", "run", "lib"}


@pytest.mark.parametrize("with_store", [False, True])
def test_killed_at_any_removal_and_run_again_it_leaves_what_it_always_leaves(
    scratch: Path, with_store: bool
) -> None:
    expected = Traces(scratch / "whole").live()
    expected.clean(store=with_store)
    for number in range(1, 200):
        node = Traces(scratch / f"{number}").live()
        was_killed = killed_at(node, number, with_store=with_store)
        node.clean(store=with_store)
        assert node.tree() == expected.tree(), number
        if not was_killed:
            break
    assert number > 15
    assert not was_killed


def test_killed_at_any_removal_it_never_takes_a_shared_store_for_its_own(scratch: Path) -> None:
    was_killed, number = True, 0
    while was_killed:
        number += 1
        node = Traces(scratch / f"{number}").live()
        shared(node)
        was_killed = killed_at(node, number, with_store=False)
        with pytest.raises(NodeAgentError) as caught:
            node.clean(store=True)
        assert caught.value.reason is Reason.FOREIGN_STORE
        assert node.files.on_disk() == {ITEM.path}
    assert number > 15


def killed_at(node: Traces, number: int, *, with_store: bool) -> bool:
    """Clean up in a process that dies just before it removes so many things; tell if it died."""
    pid = os.fork()
    if pid == 0:
        removed = 0

        def count(event: str, _: object) -> None:
            nonlocal removed
            if event not in REMOVALS:
                return
            removed += 1
            if removed == number:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            node.clean(store=with_store)
        except BaseException:  # noqa: BLE001 a child must not run the rest of the tests
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def argv(node: Traces, *more: str) -> list[str]:
    flags = node.flags().model_dump(include={"store_root", "state_dir", "run_dir", "kubernetes"})
    spelled = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    return ["cleanup", *spelled, *more]


def test_the_command_says_each_step_in_a_line(node: Traces, capsys: Output) -> None:
    assert cli.run(argv(node, "--store")) == 0
    said = capsys.readouterr()
    assert said.out == ""
    steps = ("cluster", "gates", "roots", "store", "staging", "state")
    lines = said.err.splitlines()
    assert len(lines) == len(steps)
    assert all(f'"event": "{step}"' in line for step, line in zip(steps, lines, strict=True))
    assert node.tree() == {"host/nix", "run", "lib"}


def test_the_command_refuses_in_one_line(node: Traces, capsys: Output) -> None:
    foreign(node)
    assert cli.run(argv(node, "--store")) == cli.FAILED
    assert capsys.readouterr().err.startswith("nodeagent: ForeignStore: ")


def test_a_cleanup_that_is_told_to_end_does_not_say_that_it_is_done(node: Traces) -> None:
    place = node.state_dir / "lock"
    with place.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        child = subprocess.Popen([sys.executable, "-m", "nodeagent", *argv(node)])
        descriptors = Path(f"/proc/{child.pid}/fd")
        while not any(is_link_to(one, place) for one in descriptors.iterdir()):
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == cli.signals.INTERRUPTED


def is_link_to(link: Path, target: Path) -> bool:
    try:
        return link.readlink() == target
    except FileNotFoundError:
        return False
