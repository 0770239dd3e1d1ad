"""The interpreter of the example and the libraries that its modules load, as Debian packages.

They come from Debian's archive (apt checks its signatures) or, without a network, from the
files that this machine has installed. Both give the same packages, so the same derivations.
"""

import shutil
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.process import Completed, run

PYTHON_VERSION: Final = "3.11"
# Beside the interpreter: all that its extension modules need, and for wheels the C++ run time.
NAMES: Final = (
    *(f"python{PYTHON_VERSION}-minimal", f"libpython{PYTHON_VERSION}-minimal"),
    *(f"libpython{PYTHON_VERSION}-stdlib", "libc6", "libgcc-s1", "gcc-12-base", "libstdc++6"),
    *("zlib1g", "libbz2-1.0", "liblzma5", "libexpat1", "libffi8", "libssl3", "libcrypt1"),
    *("libsqlite3-0", "libdb5.3", "libuuid1", "libreadline8", "libncursesw6", "libtinfo6"),
    *("libnsl2", "libtirpc3", "libgssapi-krb5-2", "libkrb5-3", "libk5crypto3"),
    *("libkrb5support0", "libkeyutils1", "libcom-err2"),
)
FETCH_SECONDS: Final = 300.0
ASK_SECONDS: Final = 30.0
FIELDS: Final = r"${Version}\n${Depends}\n"


@dataclass(frozen=True)
class Package:
    """One Debian package: where its files are (a .deb or a .tar), and what it depends on."""

    name: str
    version: str
    depends: tuple[str, ...]
    archive: Path


async def download(directory: Path) -> None:
    """Fetch every package into an empty directory; the machine's own lists stay as they are."""
    lists = directory / "lists"
    (lists / "partial").mkdir(parents=True)
    # _apt, apt's own user, need not be able to enter this directory.
    options = (f"Dir::State::Lists={lists}", f"Dir::Cache={lists}", "APT::Sandbox::User=root")
    given = [word for option in (*options, "Acquire::Retries=1") for word in ("-o", option)]
    apt = ("env", "-C", str(directory), "apt-get", "-qq", *given)
    for verb in (("update", "--error-on=any"), ("download", *NAMES)):
        _succeed(await run((*apt, *verb), timeout=FETCH_SECONDS), Reason.CACHE_UNREACHABLE)
    shutil.rmtree(lists)


async def read(directory: Path) -> list[Package]:
    """Describe the packages that `download` put there."""
    return [await _read_archive(path) for path in sorted(directory.glob("*.deb"))]


async def _read_archive(path: Path) -> Package:
    argv = ("dpkg-deb", "--show", "--showformat", r"${Package}\n" + FIELDS, str(path))
    done = _succeed(await run(argv, timeout=ASK_SECONDS), Reason.INTERNAL_ERROR)
    name, version, depends = done.stdout.decode().split("\n")[:3]
    return Package(name, version, _names(depends), path)


async def collect(directory: Path) -> list[Package]:
    """Pack the same packages from the files that this machine has installed."""
    return [await _pack(name, directory) for name in NAMES]


async def _pack(name: str, directory: Path) -> Package:
    query = ("dpkg-query", "--show", "--showformat", FIELDS, name)
    shown = _succeed(await run(query, timeout=ASK_SECONDS), Reason.SETTING_INVALID)
    listing = ("dpkg-query", "--listfiles", name)
    listed = _succeed(await run(listing, timeout=ASK_SECONDS), Reason.SETTING_INVALID)
    version, depends = shown.stdout.decode().split("\n")[:2]
    archive = directory / f"{name}.tar"
    _write_tar(archive, map(Path, listed.stdout.decode().splitlines()))
    return Package(name, version, _names(depends), archive)


def _write_tar(archive: Path, files: Iterable[Path]) -> None:
    """Pack files and links; not /lib, a directory in the package and a link on the disk."""
    with tarfile.open(archive, "w") as tar:
        for file in sorted(files):
            if file.is_file() or (file.is_symlink() and file.parent != Path("/")):
                tar.add(file, str(file).lstrip("/"), recursive=False, filter=_without_times)


def _without_times(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = 1
    return member


def _names(depends: str) -> tuple[str, ...]:
    """Read the names in a Depends field; of alternatives the first."""
    clauses = filter(None, (clause.strip() for clause in depends.split(",")))
    return tuple(clause.split()[0].partition(":")[0] for clause in clauses)


def _succeed(done: Completed, reason: Reason) -> Completed:
    if done.code:
        raise NodeAgentError(
            reason,
            f"no Debian packages for the example's interpreter: {done.complaint or done.code}; "
            f"it needs Debian 12 (Python {PYTHON_VERSION})",
        )
    return done
