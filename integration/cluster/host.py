"""What a host must have to run a cluster."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from integration.cluster import archive, binaries, cache, cgroups
from integration.cluster.commands import ClusterError, run

PROGRAMS: Final = {
    "runc": "runc",
    "iptables": "iptables",
    "nft": "nftables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mmdebstrap": "mmdebstrap",
}
PLUGINS: Final = Path("/usr/lib/cni")


def why_not() -> str | None:
    """Name all that keeps a cluster from running here; None if nothing does."""
    missing = "; ".join(_missing())
    return f"no test cluster here: {missing}" if missing else None


def require() -> None:
    """Raise ClusterError where no cluster can run."""
    if (why := why_not()) is not None:
        raise ClusterError(why)


def _missing() -> Iterator[str]:
    if os.geteuid() != 0:
        yield "it needs root"
        return
    packages = {package for name, package in PROGRAMS.items() if not _program(name)}
    if not (PLUGINS / "ptp").exists():
        packages.add("containernetworking-plugins")
    if packages:
        yield f"`make setup` installs {' '.join(sorted(packages))}"
    if os.uname().machine not in archive.MACHINES:
        yield f"no images for {os.uname().machine}"
    if not (cgroups.ROOT / "memory/cgroup.procs").exists():
        yield "no cgroup v1 (kubelets on one machine need a hierarchy each; v2 is untested)"
    if not _program("go") and not binaries.there():
        yield "no Go to compile Kubernetes with"
    if _program("unshare") and not _overlays():
        yield f"no overlayfs on the file system of {cache.directory()}; set XDG_CACHE_HOME"


def _program(name: str) -> bool:
    """Whether it is there; a machine has /usr/sbin on its PATH, whoever started it."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is not None


def _overlays() -> bool:
    """Try one, in a mount namespace of its own."""
    with tempfile.TemporaryDirectory(dir=cache.directory(), prefix=".overlay-") as name:
        for part in ("lower", "upper", "work", "merged"):
            (Path(name) / part).mkdir()
        layers = f"lowerdir={name}/lower,upperdir={name}/upper,workdir={name}/work"
        mount = ["mount", "-t", "overlay", "-o", layers, "overlay", f"{name}/merged"]
        return run(["unshare", "--mount", *mount], check=False).returncode == 0
