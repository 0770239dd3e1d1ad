"""Image archives that are made here: the base of the tests' pods, and the pause image."""

import shutil
from pathlib import Path
from typing import Final

from integration.cluster import archive, cache
from integration.cluster.commands import ClusterError, run

BASE: Final = "localhost/base:1"
PAUSE: Final = "localhost/pause:1"
SUITE: Final = "trixie"
PACKAGES: Final = ("python3", "ca-certificates", "nix-bin", "curl", "iproute2", "mount")
NEVER_READ: Final = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*")
OF_THE_BUILD: Final = (
    *("var/cache/apt/*", "var/lib/apt/lists/*", "var/log/*", "dev/*"),
    *("etc/apt/sources.list*", "etc/resolv.conf", "etc/hostname"),
)
DEBOOTSTRAP_SECONDS: Final = 900.0
PACKER: Final = Path(__file__).with_name("archive.py")


def base_image() -> Path:
    """Give the archive of localhost/base:1: Debian with Python and Nix; make it if needed."""
    name = f"base-{cache.key([Path(__file__), PACKER])}"
    return cache.made(name, _build_base, keep=1) / "image.tar"


def pause_image(programs: Path) -> Path:
    """Give the archive of the image that holds every pod's namespaces open."""

    def build(target: Path) -> None:
        root = target / "root"
        root.mkdir()
        shutil.copy(programs / "pause", root)
        archive.pack(root, PAUSE, target / "image.tar", ["/pause"])
        cache.remove(root)

    name = f"pause-{cache.key([PACKER], programs.name)}"
    return cache.made(name, build, keep=2) / "image.tar"


def _build_base(target: Path) -> None:
    cache.say(f"making {BASE} of Debian {SUITE}; this takes about a minute")
    rootfs = target / "rootfs"
    excluded = [f"--dpkgopt=path-exclude={pattern}" for pattern in NEVER_READ]
    argv = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(PACKAGES)}", *excluded]
    run([*argv, SUITE, rootfs, f"deb {_mirror()} {SUITE} main"], timeout=DEBOOTSTRAP_SECONDS)
    for pattern in OF_THE_BUILD:
        for path in rootfs.glob(pattern):
            cache.remove(path)
    (rootfs / "nix").mkdir(exist_ok=True)
    archive.pack(rootfs, BASE, target / "image.tar", ["/usr/bin/python3"])
    cache.remove(rootfs)


def _mirror() -> str:
    """Find where apt has Debian proper from."""
    told = run(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(REPO_URI)"]).stdout
    found = [line.partition("|")[2] for line in told.splitlines() if line.startswith("Debian|")]
    if not found:
        raise ClusterError("apt is not configured with a Debian mirror; run apt-get update first")
    return found[0]
