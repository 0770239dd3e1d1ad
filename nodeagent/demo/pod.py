"""A stand-in for a pod: a root file system with nothing in it but what the gates lead to.

The mounts are those that the admission webhook adds: the store at /nix/store and a profile at
/opt/nodeagent/<profile>, both read-only. No Python, no shell, no library of the machine is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent import process
from nodeagent.names import POD_PROFILES_DIR, STORE_DIR

TIMEOUT_SECONDS: Final = 120.0

# $1 the pod's root, $2 the store's gate, $3 the profile's gate, $4 its mount point; then the task
_SCRIPT: Final = f"""
set -eu
root=$1 store=$2 gate=$3 at=$4; shift 4
mount -t tmpfs pod "$root"
mkdir -p "$root{STORE_DIR}" "$root$at" "$root/proc" "$root/dev" "$root/tmp"
touch "$root/dev/null" "$root/dev/urandom"
mount --bind /dev/null "$root/dev/null"
mount --bind /dev/urandom "$root/dev/urandom"
mount -t proc proc "$root/proc"
for pair in "$store $root{STORE_DIR}" "$gate $root$at"; do
    mount --bind ${{pair}}
    mount -o remount,bind,ro "${{pair#* }}"
done
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp chroot "$root" "$@"
"""


@dataclass(frozen=True)
class Pod:
    """Where a pod finds what it mounts; `root` is an empty directory."""

    root: Path
    run_dir: Path
    profile: str

    @property
    def profile_dir(self) -> str:
        """Where the pod sees its profile."""
        return f"{POD_PROFILES_DIR}/{self.profile}"

    async def run(self, argv: Sequence[str]) -> process.Completed:
        """Run a task in a mount namespace of its own; the gates are resolved now, as at a start."""
        store, gate = self.run_dir / "store", self.run_dir / "profiles" / self.profile
        places = [str(self.root), str(store.resolve()), str(gate.resolve()), self.profile_dir]
        namespace = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SCRIPT, "pod"]
        return await process.run([*namespace, *places, *argv], timeout=TIMEOUT_SECONDS)
