"""Machines: process trees in namespaces of their own, with a disk, a cable and a power switch.

The init of a machine is machine.sh; with it every process, mount and interface of the machine
ends, pods included. All that is known about a machine is on its disk, so any process may act.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from integration.cluster import cgroups
from integration.cluster.commands import SHOWN, TIMEOUT_SECONDS, ClusterError, Completed, run
from integration.cluster.network import CONTROL_PLANE, Lan

PATH: Final = "/opt/cluster:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STOP_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.02


@dataclass(frozen=True)
class Machine:
    """A node, or the control plane; `disk` is its directory on the host."""

    lan: Lan
    name: str
    disk: Path

    @property
    def pid(self) -> int | None:
        """The pid of its init on the host; None when the machine is off."""
        try:
            pid, started = (self.disk / "init.pid").read_text().split()
        except (FileNotFoundError, ValueError):  # Half written: its writer died, and it with it.
            return None
        return int(pid) if _start_time(int(pid)) == started else None

    @property
    def is_node(self) -> bool:
        return self.name != CONTROL_PLANE

    @property
    def containerd(self) -> Path:
        """Where its images are."""
        return self.disk / "var/lib/containerd"

    @property
    def _cgroup(self) -> str:
        return f"{self.lan.name}/{self.name}"

    def create(self, files: Mapping[str, str]) -> None:
        """Make the disk, with its configuration on it."""
        (self.disk / "mnt").mkdir(parents=True)
        for name, content in files.items():
            file = self.disk / "var/lib/cluster" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)

    def start(self, binaries: Path) -> None:
        """Boot; returns when the network is there, before the services are."""
        if self.pid is not None:
            raise ClusterError(f"{self.name} is on already; stop it first, or reboot it")
        if self.is_node:
            cgroups.make(self._cgroup)
        with (self.disk / "console.log").open("ab") as console:
            # A session of its own and no parent: nobody has to wait for it, and Ctrl-C spares it.
            boot = subprocess.Popen(
                ["setsid", "--fork", *self._argv(binaries)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=console,
                text=True,
                cwd="/",
                env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
            )
        assert boot.stdin is not None
        assert boot.stdout is not None
        with boot, boot.stdin, boot.stdout:
            said = boot.stdout.readline().strip()
            if not said:
                raise ClusterError(f"{self.name} did not boot: {self._console()}")
            # Recorded before it goes on: a machine whose record we fail to write ends by itself.
            (self.disk / "init.pid").write_text(f"{said} {_start_time(int(said))}")
            self.lan.plug(self.name, int(said))
            boot.stdin.write("go\n")

    def stop(self) -> None:
        """Pull the plug; a machine that is off stays off."""
        end = time.monotonic() + STOP_SECONDS
        while (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if time.monotonic() > end:
                raise ClusterError(f"{self.name}: its init, process {pid}, does not end")
            time.sleep(POLL_SECONDS)
        (self.disk / "init.pid").unlink(missing_ok=True)
        self.lan.unplug(self.name)
        if self.is_node:
            cgroups.remove(self._cgroup)

    def inside(self, *argv: str | Path) -> list[str]:
        """Spell a command that runs in the machine."""
        pid = self.pid
        if pid is None:
            raise ClusterError(f"{self.name} is off; start it first")
        enter = ["nsenter", "--target", str(pid), "--mount", "--net", "--pid", "--uts", "--ipc"]
        return [*enter, "--", "env", f"PATH={PATH}", *map(str, argv)]

    def sh(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: str | Path | None = None,
        check: bool = True,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Completed:
        """Run a command in the machine."""
        return run(self.inside(*argv), stdin=stdin, check=check, timeout=timeout)

    def _argv(self, binaries: Path) -> list[str | Path]:
        role = "node" if self.is_node else "control-plane"
        facts = (self.disk, binaries, self.lan.address(self.name), str(self.lan.services))
        return [
            *("unshare", "--mount", "--propagation", "private", "--net", "--pid", "--uts", "--ipc"),
            *("--fork", "--kill-child", Path(__file__).with_name("machine.sh")),
            *(self.name, role, *facts),
        ]

    def _console(self) -> str:
        return (self.disk / "console.log").read_text()[-SHOWN:].strip()


def _start_time(pid: int) -> str | None:
    """Give what tells a process from a later one of the same pid; None if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None
