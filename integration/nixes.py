"""Nix of other Debian releases for the tests, without touching the machine that runs them.

Packages come from the mirror that apt is configured with, through an apt state of our own; they
are unpacked below the user's cache directory and started with their own loader and libraries.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import pytest

PROGRAMS: Final = ("nix", "nix-store", "nix-daemon")
INSTALLED: Final = "installed"


def programs(suite: str) -> Path | None:
    """Give a directory with a suite's Nix programs; None is what is on the PATH already."""
    if suite == INSTALLED:
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodeagent-test"
    cache.mkdir(parents=True, exist_ok=True)
    had = sorted(cache.glob(f"nix-{suite}-*/bin"))
    return had[-1] if had else _fetch(suite, cache)


def use(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test, and all that it starts, find a suite's Nix."""
    try:
        directory = programs(suite)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no Nix of {suite}: {str(getattr(error, 'stderr', '') or error).strip()}")
    if directory is not None:
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def _fetch(suite: str, cache: Path) -> Path:
    """Download and unpack; what appears under its name is whole."""
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as name:
        work = Path(name)
        apt = _apt(suite, work)
        _run(*apt, "update")
        _run(*apt, "install", "--yes", "--download-only", "nix-bin")
        [package] = (work / "cache/archives").glob("nix-bin_*.deb")
        version = package.name.split("_")[1].partition("%")[0]
        root = work / "root"
        for archive in sorted((work / "cache/archives").glob("*.deb")):
            _run("dpkg-deb", "-x", str(archive), str(root))
        target = cache / f"nix-{suite}-{version}"
        if not target.exists():
            root.rename(target)
    return _programs_in(target)


def _apt(suite: str, work: Path) -> list[str]:
    """Spell an apt-get whose lists, status and archives are of this directory alone."""
    for directory in ("lists/partial", "cache/archives/partial"):
        (work / directory).mkdir(parents=True)
    (work / "status").touch()
    sources = work / "sources.list"
    sources.write_text(f"deb {_mirror()} {suite} main\n")
    options = {
        "Dir::State::lists": work / "lists",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Acquire::Languages": "none",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
    }
    spelled = [f"{key}={value}" for key, value in options.items()]
    return ["apt-get", "--quiet", *(part for one in spelled for part in ("-o", one))]


def _mirror() -> str:
    """Find where apt has Debian proper from."""
    if shutil.which("apt-get") is None:
        pytest.skip("no apt here to fetch another Nix with")
    told = _run("apt-get", "indextargets", "--format", "$(ORIGIN)|$(REPO_URI)")
    found = [line.partition("|")[2] for line in told.splitlines() if line.startswith("Debian|")]
    if not found:
        pytest.skip("apt is not configured with a Debian mirror")
    return found[0]


def _programs_in(root: Path) -> Path:
    """Write starters: the packages' own loader, their own libraries."""
    loader = next(iter((root / "usr").glob("lib*/ld-linux*.so.*")), None) or next(
        (root / "usr/lib").glob("*/ld-linux*.so.*")
    )
    libraries = next((root / "usr/lib").glob("*-linux-gnu*"))
    directory = root / "starters"
    directory.mkdir(exist_ok=True)
    for name in PROGRAMS:
        starter = directory / name
        command = f"{loader} --argv0 {name} --library-path {libraries} {root / 'usr/bin/nix'}"
        starter.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        starter.chmod(0o755)
    return directory.rename(root / "bin")


def _run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
