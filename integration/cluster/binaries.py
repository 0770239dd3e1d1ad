"""The cluster's programs, compiled from Go module sources and kept.

Kubernetes, etcd, containerd, CoreDNS and the pause program, in one directory.
"""

import shutil
import subprocess
import time
from collections import deque
from pathlib import Path
from typing import Final

from integration.cluster import cache
from integration.cluster.commands import ClusterError

HERE: Final = Path(__file__).parent
SOURCES: Final = ("build.sh", "go.mod", "go.sum", "coredns", "pause")
TELL_SECONDS: Final = 10.0
SHOWN_LINES: Final = 30


def name() -> str:
    """Name what these sources compile to."""
    return f"binaries-{cache.key(HERE / source for source in SOURCES)}"


def there() -> bool:
    """Whether they are compiled already."""
    return (cache.directory() / name()).exists()


def binaries() -> Path:
    """Give the directory with all programs; compile what is missing."""
    return cache.made(name(), _build, keep=2)


def _build(target: Path) -> None:
    if shutil.which("go") is None:
        raise ClusterError("no go on the PATH to compile Kubernetes with; install Go 1.26 or newer")
    cache.say("compiling Kubernetes; the first time takes 6 to 9 minutes on 2 cores")
    _compile(target)


def _compile(target: Path) -> None:
    """Run build.sh, which prints a line per package, and tell how far it is."""
    started = told = time.monotonic()
    tail: deque[str] = deque(maxlen=SHOWN_LINES)
    count = 0
    with subprocess.Popen(
        ["bash", HERE / "build.sh", target],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as build:
        assert build.stdout is not None
        for line in build.stdout:
            tail.append(line)
            count += 1
            now = time.monotonic()
            if now - told > TELL_SECONDS:
                told = now
                cache.say(f"{now - started:.0f} s, {count} packages, last {line.strip()}")
    if build.returncode:
        raise ClusterError(f"{HERE / 'build.sh'} failed:\n{''.join(tail)}")
