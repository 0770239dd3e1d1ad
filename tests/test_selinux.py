"""SELinux as this kernel has it not: labels lie in a table beside real files."""

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodeagent import disk, selinux
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.selinux import LABEL, SELinux, admits

AGENT = "system_u:system_r:spc_t:s0"
CLOSED = "system_u:object_r:default_t:s0"
CONFINED = "system_u:system_r:container_t:s0:c1,c2"


@dataclass
class Labels:
    """What a kernel keeps; a file without a label of its own has its default."""

    default: str = CLOSED
    refusal: int = 0
    patience: int = 1000
    kept: dict[Path, str] = field(default_factory=dict)

    def read(self, path: Path) -> str:
        if not os.path.lexists(path):
            raise FileNotFoundError(path)
        if not self.default and path not in self.kept:
            raise OSError(errno.ENODATA, "no label")
        return self.kept.get(path, self.default)

    def write(self, path: Path, label: str) -> None:
        if not os.path.lexists(path):
            raise FileNotFoundError(path)
        if self.refusal:
            raise OSError(self.refusal, os.strerror(self.refusal), str(path))
        if len(self.kept) == self.patience:
            raise KeyboardInterrupt
        self.kept[path] = label


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "store"
    (top / "a" / "deep").mkdir(parents=True)
    (top / "a" / "deep" / "file").touch()
    (top / "b").symlink_to("nowhere")
    (top / "c").symlink_to("a")
    return top


def everything(top: Path) -> set[Path]:
    return {top, *top.rglob("*")}


def confined(labels: Labels) -> SELinux:
    return SELinux(AGENT, labels.read, labels.write)


@pytest.mark.parametrize(
    ("current", "enforce", "domain"),
    [
        (CONFINED, None, CONFINED),
        (f"{CONFINED}\0", None, CONFINED),
        (f"{AGENT}\n", "1", AGENT),
        (AGENT, "0", ""),
        ("unconfined", None, ""),
        ("cri-containerd.apparmor.d (enforce)\n", None, ""),
        (None, None, ""),
    ],
)
def test_selinux_is_seen_by_this_process_s_label_and_taken_to_enforce(
    tmp_path: Path, current: str | None, enforce: str | None, domain: str
) -> None:
    files = tmp_path / "current", tmp_path / "enforce"
    for file, text in zip(files, (current, enforce), strict=True):
        if text is not None:
            file.write_text(text)
    assert selinux.find(*files).domain == domain


@pytest.mark.parametrize(
    ("label", "admitted"),
    [
        (LABEL, True),
        ("system_u:object_r:container_ro_file_t:s0", True),
        ("system_u:object_r:usr_t", True),
        ("system_u:object_r:container_file_t:s0:c1,c2", False),
        (CLOSED, False),
        ("system_u:object_r:var_run_t:s0", False),
        ("", False),
    ],
)
def test_a_label_admits_every_container_by_its_type_and_without_categories(
    label: str, *, admitted: bool
) -> None:
    assert admits(label) is admitted


@pytest.mark.parametrize("default", [CLOSED, ""])
def test_a_closed_tree_is_labelled_to_its_last_link(tree: Path, default: str) -> None:
    labels = Labels(default)
    node = confined(labels)
    assert node.closed([tree, tree / "absent"]) == [str(tree)]
    node.label([tree, tree.with_name("absent")])
    assert labels.kept == dict.fromkeys(everything(tree), LABEL)
    assert node.closed(everything(tree)) == []


def test_what_containers_may_read_keeps_its_label(tree: Path) -> None:
    labels = Labels("system_u:object_r:usr_t:s0")
    confined(labels).label([tree])
    labels.default, labels.kept[tree / "a"] = CLOSED, "system_u:object_r:usr_t:s0"
    confined(labels).label([tree])
    assert labels.kept.pop(tree / "a") == "system_u:object_r:usr_t:s0"
    assert labels.kept == dict.fromkeys(everything(tree) - {tree / "a"}, LABEL)


def test_who_is_interrupted_while_labelling_begins_again(tree: Path) -> None:
    labels = Labels(patience=2)
    with pytest.raises(KeyboardInterrupt):
        confined(labels).label([tree])
    assert confined(labels).closed([tree]) == [str(tree)]
    labels.patience = 1000
    confined(labels).label([tree])
    assert labels.kept.keys() == everything(tree)


def test_a_label_that_the_kernel_refuses_leaves_the_place_closed(tree: Path) -> None:
    node = confined(Labels(refusal=errno.EACCES))
    node.label([tree])
    assert node.closed([tree, tree / "a"]) == [str(tree), str(tree / "a")]


def test_of_a_policy_without_that_type_every_type_is_taken_but_no_categories(tree: Path) -> None:
    labels = Labels("system_u:object_r:ephemeral_t:s0", refusal=errno.EINVAL)
    node = confined(labels)
    assert node.closed([tree]) == [str(tree)]
    node.label([tree])
    labels.kept[tree / "a"] = "system_u:object_r:ephemeral_t:s0:c1,c2"
    assert node.closed([tree, tree / "a"]) == [str(tree / "a")]


def test_without_selinux_nothing_is_closed_and_no_label_is_written(tree: Path) -> None:
    labels = Labels()
    node = SELinux("", labels.read, labels.write)
    node.label([tree])
    assert node.closed([tree]) == []
    assert not labels.kept


async def refuse(node: SELinux, code: int) -> None:
    async with node.explained():
        with disk.usable(Path("/nix/store")):
            raise OSError(code, os.strerror(code), "/nix/store")


async def test_root_whom_files_are_refused_hears_that_it_may_be_selinux() -> None:
    with pytest.raises(NodeAgentError) as told:
        await refuse(SELinux(CONFINED), errno.EACCES)
    assert told.value.reason is Reason.SELINUX_UNLABELLED
    assert told.value.message.startswith("/nix/store: Permission denied")
    assert f"this agent runs as {CONFINED}; add daemonset/components" in told.value.message


@pytest.mark.parametrize(("domain", "code"), [("", errno.EACCES), (CONFINED, errno.EROFS)])
async def test_other_refusals_are_told_as_they_are(domain: str, code: int) -> None:
    with pytest.raises(NodeAgentError) as told:
        await refuse(SELinux(domain), code)
    assert told.value.reason is Reason.STORE_UNUSABLE
    assert "SELinux" not in told.value.message
