"""The packages of the example: wheels, fetched by the hashes in examples/ds/requirements.lock."""

import platform
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Final

# The copy in pip: without pip there are no wheels to read either.
from pip._vendor.packaging.markers import default_environment
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

from nodeagent.demo.debian import FETCH_SECONDS, PYTHON_VERSION
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.process import run

GLIBC_MINOR: Final = 36  # Debian 12 has glibc 2.36.
OLDEST_GLIBC_MINOR: Final = 5  # The oldest that the manylinux tags speak of.


@dataclass(frozen=True)
class Wheel:
    """One wheel, and the other wheels that it needs on this platform (canonical names)."""

    name: str
    version: str
    needs: tuple[str, ...]
    archive: Path


async def download(lock: Path, directory: Path) -> None:
    """Fetch every wheel of the lock into a directory. Raises NodeAgentError without a network."""
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    argv += ["--require-hashes", "--only-binary", ":all:", "--retries", "1"]
    argv += ["--python-version", PYTHON_VERSION, *_platforms()]
    argv += ["--dest", str(directory), "--requirement", str(lock)]
    done = await run(argv, timeout=FETCH_SECONDS)
    if done.code:
        raise NodeAgentError(
            Reason.CACHE_UNREACHABLE,
            "cannot fetch the example's wheels: is there a network, and an index that pip may use? "
            f"(pip says: {done.complaint})",
        )


def _platforms() -> tuple[str, ...]:
    """Name what the example's glibc can load: pip would take what its own interpreter can."""
    machine = platform.machine()
    minors = range(GLIBC_MINOR, OLDEST_GLIBC_MINOR - 1, -1)
    tags = [f"manylinux_2_{minor}_{machine}" for minor in minors]
    return tuple(
        word for tag in (*tags, f"manylinux2014_{machine}") for word in ("--platform", tag)
    )


def read(directory: Path, roots: Iterable[str]) -> list[Wheel]:
    """Describe the wheels in a directory; `roots` are requirements, for the extras they name."""
    metadata = {path: _metadata(path) for path in sorted(directory.glob("*.whl"))}
    required = {path: _required(message) for path, message in metadata.items()}
    present = {_name(message) for message in metadata.values()}
    named = [Requirement(root) for root in roots] + [
        requirement for requirements in required.values() for requirement in requirements
    ]
    extras = frozenset(extra for requirement in named for extra in requirement.extras)
    return [
        Wheel(
            name=_name(message),
            version=message["Version"],
            # An extra of a package may name the package itself.
            needs=tuple(sorted((_needs(required[path], extras) & present) - {_name(message)})),
            archive=path,
        )
        for path, message in metadata.items()
    ]


def _metadata(path: Path) -> Message:
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())


def _name(metadata: Message) -> str:
    return canonicalize_name(metadata["Name"])


def _required(metadata: Message) -> list[Requirement]:
    return [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]


def _needs(requirements: Iterable[Requirement], extras: frozenset[str]) -> set[str]:
    """Give the names that hold here; an extra counts for all packages once anyone asks for it."""
    here = {**default_environment(), "python_version": PYTHON_VERSION}
    return {
        canonicalize_name(requirement.name)
        for requirement in requirements
        for extra in ("", *extras)
        if requirement.marker is None or requirement.marker.evaluate({**here, "extra": extra})
    }
