"""SELinux: whether pods may read what the agent writes, and the label that lets them.

Where it enforces, a container reads only files whose label says so; /nix and /run are closed to
it, and kubelets relabel no hostPath volume. A file takes its type from its directory when it is
made, and a rename keeps it, so few labels are written. Untested on a node that enforces.
"""

import contextlib
import errno
import os
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

LABEL: Final = "system_u:object_r:container_file_t:s0"
# What containers may read and execute: by container-selinux, and what Bottlerocket has for it.
READABLE: Final = frozenset(
    {"container_file_t", "container_ro_file_t", "usr_t", "data_t", "local_t"}
)
CURRENT: Final = Path("/proc/self/attr/current")
ENFORCE: Final = Path("/sys/fs/selinux/enforce")
_ATTRIBUTE: Final = "security.selinux"
_CONTEXT: Final = re.compile(r"[\w.]+:[\w.]+:(?P<type>[\w.]+)(?::(?P<level>[\w.,:-]+))?")
_STEP: Final = (
    "add daemonset/components/selinux to your overlay, or label these places on the node "
    "(`semanage fcontext -a -t container_file_t '…(/.*)?'`, then `restorecon -R …`)"
)


def _read(path: Path) -> str:
    return os.getxattr(path, _ATTRIBUTE, follow_symlinks=False).decode().rstrip("\0")


def _write(path: Path, label: str) -> None:
    os.setxattr(path, _ATTRIBUTE, f"{label}\0".encode(), follow_symlinks=False)


@dataclass
class SELinux:
    """SELinux as it confines this process, whose label `domain` is; without one it does not."""

    domain: str = ""
    read: Callable[[Path], str] = _read
    write: Callable[[Path, str], None] = _write
    strange: bool = False  # a policy that has no container_file_t, whose types nobody here knows

    def label(self, places: Iterable[Path]) -> None:
        """Let containers read these trees, as far as they may not yet and the kernel allows it."""
        for place in places:
            if not self._is_open(place):
                with contextlib.suppress(FileNotFoundError):
                    for path in _tree(place):
                        self._label(path)

    def closed(self, places: Iterable[Path]) -> list[str]:
        """List those of these places that are there and that containers may not read."""
        if not self.domain:
            return []
        return [str(one) for one in places if os.path.lexists(one) and not self._is_open(one)]

    @contextlib.asynccontextmanager
    async def explained(self) -> AsyncIterator[None]:
        """Say who it may be where files are refused to an agent that is root."""
        try:
            yield
        except NodeAgentError as error:
            if not self.domain or not isinstance(error.__context__, PermissionError):
                raise
            message = (
                f"{error.message}; SELinux may be why: this agent runs as {self.domain}; {_STEP}"
            )
            raise NodeAgentError(Reason.SELINUX_UNLABELLED, message) from None

    def _is_open(self, path: Path) -> bool:
        try:
            return not self.domain or admits(self.read(path), anything=self.strange)
        except OSError:  # no label, or on a file system that has none
            return False

    def _label(self, path: Path) -> None:
        if self._is_open(path):
            return
        try:
            self.write(path, LABEL)
        except OSError as error:  # who looks next sees that it is closed
            self.strange |= error.errno == errno.EINVAL


def find(current: Path = CURRENT, enforce: Path = ENFORCE) -> SELinux:
    """Find out whether it confines this process.

    Containers see their label, but seldom whether it enforces or only logs: then it is taken to
    enforce. Other security modules have names of their own in the same file.
    """
    try:
        domain = current.read_text().strip("\0\n")
    except OSError:
        return SELinux()
    with contextlib.suppress(OSError):
        if enforce.read_text().strip() == "0":
            return SELinux()
    return SELinux(domain if _CONTEXT.fullmatch(domain) else "")


def admits(label: str, *, anything: bool = False) -> bool:
    """Tell whether every container may read a file with this label; `anything`: of any type.

    Categories in the level (`s0:c1,c2`) are those of one container: no other may.
    """
    context = _CONTEXT.fullmatch(label)
    if context is None or context["level"] not in {None, "s0"}:
        return False
    return anything or context["type"] in READABLE


def _tree(top: Path) -> Iterator[Path]:
    """Give a tree, its top last: who is interrupted finds it as it was and begins again."""
    todo = [top] if top.is_dir() and not top.is_symlink() else []
    while todo:  # no recursion: a hostile tree may be 2,000 deep
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                yield Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    todo.append(Path(entry.path))
    yield top
