"""`nodeagent release`: build, show, verify, compare and publish releases."""

import asyncio
import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field
from pydantic_settings import CliApp, CliSubCommand

from nodeagent.cli import progress
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

Output = Literal["text", "json"]


class Build(BaseModel):
    """Bake store paths into a release in a binary cache; prints its digest.

    A profile is [SYSTEM:]NAME=STORE_PATH[:KIND], where KIND is env (default), uv-cache or models;
    a link to a store path, such as ./result, will do. Without SYSTEM it is for --system.
    """

    profile: list[str] = Field(
        description="[SYSTEM:]NAME=STORE_PATH[:KIND], e.g. ds=./result; once for each profile"
    )
    cache: Path = Field(description="cache directory to write to; made if it is not there")
    key: Path = Field(description="secret cache key file, in Nix's format")
    system: str = Field(
        default_factory=lambda: f"{platform.machine()}-linux",
        description="Nix system of the profiles that name none",
    )
    store_root: list[str] = Field(
        ["/"], description="[SYSTEM:]DIRECTORY that has the nix/store with the profiles"
    )
    flake: str | None = Field(None, description="recorded as the source: the flake's address")
    rev: str | None = Field(None, description="recorded as the source: its revision")
    lock_file: Path | None = Field(None, description="recorded as the source: its lock's digest")
    output: Output = Field("text", description="text: the digest alone; json: sizes, too")

    def cli_cmd(self) -> None:
        """Build."""
        from nodeagent import bake, keys
        from nodeagent.bake import spec
        from nodeagent.bake.directory import CacheDirectory
        from nodeagent.release import Source

        parts = spec.parts(self.profile, self.store_root, self.system)
        means = bake.Means(CacheDirectory(self.cache), keys.load_secret(self.key))
        source = Source(flake=self.flake, rev=self.rev, lock_digest=_digest(self.lock_file))
        with progress.shown("bake") as show:
            built = asyncio.run(bake.build(parts, means, source, show))
        facts = {
            "release": built.digest,
            "baked": built.baked,
            "reused": built.reused,
            "narinfosWritten": built.narinfos_written,
            "narBytes": built.nar_bytes,
            "fileBytes": built.file_bytes,
        }
        _say(json.dumps(facts) if self.output == "json" else built.digest)


def _digest(lock_file: Path | None) -> str | None:
    if lock_file is None:
        return None
    try:
        return f"sha256:{hashlib.sha256(lock_file.read_bytes()).hexdigest()}"
    except OSError as error:
        raise NodeAgentError(
            Reason.SETTING_INVALID, f"the lock file {lock_file} cannot be read: {error.strerror}"
        ) from None


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


class Release(BaseModel):
    """Build releases, look at them, and copy them from cache to cache."""

    build: CliSubCommand[Build]

    def cli_cmd(self) -> None:
        """Run what was asked for."""
        CliApp.run_subcommand(self)
