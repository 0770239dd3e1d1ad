"""Make the example profile: fetch what it is made of, and build it with nix into a scratch store.

The store is a chroot store: its root is a directory, its paths are /nix/store/…, and nix builds
in its sandbox, which needs no /nix on the machine. The builders see the machine's /usr and no
network; all else they read is in the plan.
"""

import asyncio
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from nodeagent.demo import debian, recipe, wheels
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.process import started

REPOSITORY: Final = Path(__file__).resolve().parents[2]
EXAMPLE: Final = REPOSITORY / "examples" / "ds"
EXPRESSION: Final = REPOSITORY / "nix" / "profiles" / "ds.nix"
BUILD_SECONDS: Final = 600.0
SHOWN_LINES: Final = 12

Say = Callable[[str], None]


@dataclass(frozen=True)
class Inputs:
    """What the profile is made of, all of it on this disk."""

    packages: tuple[debian.Package, ...]
    wheels: tuple[wheels.Wheel, ...]
    roots: tuple[str, ...]


async def fetch(cache: Path, say: Say) -> Inputs:
    """Get wheels and Debian packages; what `cache` holds is not fetched again.

    Raises NodeAgentError without a network: then `builtin` still works.
    """
    lock, roots = EXAMPLE / "requirements.lock", _roots()
    wheel_dir = cache / f"wheels-{_key(lock.read_text())}"
    package_dir = cache / f"debian-{_key(' '.join(debian.NAMES))}"
    say("fetching wheels and Debian packages")
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_once(wheel_dir, lambda at: wheels.download(lock, at)))
            tasks.create_task(_once(package_dir, debian.download))
    except* NodeAgentError as errors:
        raise errors.exceptions[0] from None
    found = await debian.read(package_dir)
    return Inputs(tuple(found), tuple(wheels.read(wheel_dir, roots)), roots)


async def builtin(scratch: Path, say: Say) -> Path:
    """Build the same interpreter, without wheels, from what this machine has installed."""
    say("packing the interpreter of this machine")
    directory = scratch / "packages"
    directory.mkdir(parents=True, exist_ok=True)
    return await build(Inputs(tuple(await debian.collect(directory)), (), ()), scratch, say)


async def build(inputs: Inputs, scratch: Path, say: Say) -> Path:
    """Build the profile into the store below `scratch`; gives its path there, /nix/store/…-ds."""
    steps = recipe.write(inputs.packages, inputs.wheels, inputs.roots)
    scratch.mkdir(parents=True, exist_ok=True)
    plan = scratch / "plan.json"
    plan.write_text(json.dumps(asdict(steps), indent=1))
    argv = ["nix-build", str(EXPRESSION), "--argstr", "plan", str(plan.absolute())]
    argv += ["--store", str(scratch.absolute()), "--no-out-link"]
    async with asyncio.timeout(BUILD_SECONDS), started(argv, env=_nix_settings()) as nix:
        assert nix.stdout is not None  # noqa: S101 started() pipes both
        assert nix.stderr is not None  # noqa: S101 …
        last = await _follow(nix.stderr, say)
        output = (await nix.stdout.read()).decode().strip()
        if await nix.wait():
            raise NodeAgentError(Reason.NIX_FAILED, f"nix-build: {'; '.join(last)}")
    return Path(output)


def _nix_settings() -> dict[str, str]:
    visible = [path for path in ("/bin", "/lib", "/lib64", "/usr") if Path(path).exists()]
    settings = {
        "build-users-group": "",
        "experimental-features": "nix-command",
        "max-jobs": str(os.cpu_count() or 1),
        "sandbox": "true",
        "sandbox-paths": " ".join(visible),
        "substituters": "",
    }
    return {"NIX_CONFIG": "\n".join(f"{name} = {value}" for name, value in settings.items())}


async def _follow(stderr: asyncio.StreamReader, say: Say) -> list[str]:
    """Tell each step that nix begins; gives the last lines, for the case that it fails."""
    last: list[str] = []
    total, begun = 1, 0
    async for line in stderr:
        text = line.decode(errors="replace").strip()
        last = [*last[1 - SHOWN_LINES :], text]
        if announced := re.match(r"these (\d+) derivations will be built", text):
            total = int(announced[1])
        elif step := re.match(r"building '/nix/store/\w+-(.*)\.drv'", text):
            begun += 1
            say(f"building {begun}/{total} {step[1]}")
    return last


async def _once(directory: Path, fill: Callable[[Path], Awaitable[None]]) -> None:
    """Fill a directory unless that was done before; a broken attempt begins anew."""
    if directory.exists():
        return
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    await fill(partial)
    partial.rename(directory)


def _roots() -> tuple[str, ...]:
    lines = (EXAMPLE / "requirements.in").read_text().splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def _key(content: str) -> str:
    return hashlib.sha256(f"{platform.machine()} {content}".encode()).hexdigest()[:12]
