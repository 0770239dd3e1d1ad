"""A real Kubernetes of several nodes on this host: up, down, and what tests do in between.

One cluster of a number at a time. Who brings it up holds its lock until it is down, so what is
found without a lock was left by a process that died, and the next `up` removes it.
"""

import itertools
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from integration.cluster import cache, config, disks, host, images
from integration.cluster.cache import Lock, say
from integration.cluster.cgroups import remove as remove_cgroups
from integration.cluster.commands import TIMEOUT_SECONDS, ClusterError, Completed
from integration.cluster.kubernetes import Kubernetes
from integration.cluster.machines import Machine
from integration.cluster.network import CONTROL_PLANE, Lan, nodes
from integration.cluster.pki import Authority

PATIENCE_SECONDS: Final = 600.0
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Cluster(Kubernetes):
    """The cluster of a number; a second number is a second cluster beside the first."""

    def __init__(self, number: int = 0) -> None:
        self.lan = Lan(number)
        super().__init__(cache.directory() / self.lan.name)
        self.lock = Lock(self.directory.with_suffix(".lock"))

    def up(self, count: int = 3, archives: Sequence[Path] = ()) -> None:
        """Bring up a control plane and nodes that have the images; returns when all are Ready.

        A failure leaves nothing running, and the logs. Raises ClusterError.
        """
        host.require()
        self.lock.acquire(PATIENCE_SECONDS)
        try:
            if self.is_kept:
                down = f"python -m integration.cluster --number {self.lan.cluster} down"
                raise ClusterError(f"{self.lan.name} was left up on purpose; `{down}` ends it")
            self._remove()  # What a process that died has left.
            try:
                self._up(nodes(count), [images.pause_image(self.programs), *archives])
            except BaseException:
                self._remove()
                raise
        except BaseException:
            self.lock.release()
            raise

    def down(self, *, patience: float = PATIENCE_SECONDS) -> None:
        """Remove all of it but the logs; does nothing where there is none."""
        if not self.lock.is_held:
            self.lock.acquire(patience)
        try:
            self._remove()
        finally:
            self.lock.release()

    def keep(self) -> None:
        """Let it outlive this process, until `down`."""
        self._kept.write_text(BOOT_ID.read_text())
        self.lock.release()

    @property
    def is_kept(self) -> bool:
        """Whether somebody left it up on purpose, since the host's last boot."""
        return self._kept.exists() and self._kept.read_text() == BOOT_ID.read_text()

    @property
    def _kept(self) -> Path:
        return self.directory / "kept"

    def machines(self) -> list[Machine]:
        found = sorted((self.directory / "machines").glob("*"))
        return [Machine(self.lan, disk.name, disk) for disk in found]

    def nodes(self) -> list[Machine]:
        return [machine for machine in self.machines() if machine.is_node]

    def machine(self, name: str) -> Machine:
        for machine in self.machines():
            if machine.name == name:
                return machine
        there = " ".join(machine.name for machine in self.machines())
        raise ClusterError(f"no machine {name} in {self.lan.name}; there are: {there or 'none'}")

    def stop(self, name: str) -> None:
        """Pull a machine's plug."""
        self.machine(name).stop()

    def start(self, name: str) -> None:
        """Switch a machine on; it is Ready some seconds later."""
        self.machine(name).start(self.programs)

    def reboot(self, name: str) -> None:
        """Cut a machine's power for a moment."""
        self.stop(name)
        self.start(name)

    def sh(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        stdin: str | Path | None = None,
        check: bool = True,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Completed:
        """Run a command in a machine, as root on the node itself."""
        return self.machine(name).sh(argv, stdin=stdin, check=check, timeout=timeout)

    def load(self, archives: Sequence[Path]) -> None:
        """Import image archives (OCI) on every running node."""
        running = [node for node in self.nodes() if node.pid is not None]
        for archive in archives:
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._load, running, itertools.repeat(archive)))

    def _up(self, names: Sequence[str], archives: Sequence[Path]) -> None:
        started = time.monotonic()
        self.lan.make_bridge()
        authority = Authority()
        disk = disks.disk(archives, self._filler(authority))
        control_plane = self._create(CONTROL_PLANE, config.control_plane(self.lan, authority))
        shutil.copy(control_plane.disk / "var/lib/cluster/admin.kubeconfig", self.kubeconfig)
        self.kubeconfig.chmod(0o600)
        control_plane.start(self.programs)
        for name in names:
            node = self._create(name, config.node(self.lan, name, authority))
            disks.copy(disk, node.containerd)
            node.start(self.programs)
        self.until("answering: the API server", lambda: self.answers("--raw", "/readyz"))
        self.until_ready(*names)
        self.until("there: a service account", lambda: self.answers("serviceaccount", "default"))
        say(f"{self.lan.name}: {len(names)} nodes in {time.monotonic() - started:.1f} s")

    def _create(self, name: str, files: dict[str, str]) -> Machine:
        machine = Machine(self.lan, name, self.directory / "machines" / name)
        machine.create(files)
        return machine

    def _filler(self, authority: Authority) -> disks.Fill:
        """Give what adds an image to a disk, with the help of a throw-away node."""

        def fill(before: Path | None, archive: Path, into: Path) -> None:
            node = self._create("node1", config.node(self.lan, "node1", authority))
            if before is not None:
                disks.copy(before, node.containerd)
            node.start(self.programs)
            self._load(node, archive)
            node.stop()
            into.rmdir()
            disks.copy(node.containerd, into)
            cache.remove(node.disk)

        return fill

    def _load(self, node: Machine, archive: Path) -> None:
        self.until(
            f"answering: {node.name}'s containerd",
            lambda: node.sh(["ctr", "version"], check=False).returncode == 0,
        )
        node.sh(["ctr", "--namespace", "k8s.io", "images", "import", "-"], stdin=archive)

    def _remove(self) -> None:
        """Take down and remove whatever is there, whole or not."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Machine.stop, self.machines()))
        self.lan.remove_bridge()
        remove_cgroups(self.lan.name)
        self._save_logs()
        cache.remove(self.directory)

    def _save_logs(self) -> None:
        """Move the logs beside the directory; they replace those of the last cluster."""
        if not self.machines():
            return
        cache.remove(self.logs)
        for machine in self.machines():
            kept = self.logs / machine.name
            kept.mkdir(parents=True)
            for log in (machine.disk / "console.log", machine.disk / "var/log"):
                if log.exists():
                    log.rename(kept / log.name)
