"""`nodeagent release`: build, show, verify, compare and publish releases."""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field
from pydantic_settings import CliApp, CliPositionalArg, CliSubCommand

from nodeagent import log
from nodeagent.cli import progress, signals
from nodeagent.config import Settings, this_system
from nodeagent.errors import NodeAgentError
from nodeagent.model import Document
from nodeagent.names import Reason

Output = Literal["text", "json"]


class Build(Settings):
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
        default_factory=this_system,
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
        from nodeagent import keys
        from nodeagent.bake import build, spec
        from nodeagent.bake.directory import CacheDirectory
        from nodeagent.release import Source

        log.configure()
        parts = spec.parts(self.profile, self.store_root, self.system)
        means = build.Means(CacheDirectory(self.cache), keys.load_secret(self.key))
        source = Source(flake=self.flake, rev=self.rev, lock_digest=_digest(self.lock_file))
        with progress.shown("bake") as show:
            built = signals.run(build.build(parts, means, source, show))
        if built is None:
            sys.exit(signals.INTERRUPTED)
        facts = {
            "release": built.digest,
            "baked": built.baked,
            "reused": built.reused,
            "narinfosWritten": built.narinfos_written,
            "narBytes": built.nar_bytes,
            "fileBytes": built.file_bytes,
        }
        _say(json.dumps(facts) if self.output == "json" else built.digest)


class Named(Settings):
    """What names one release."""

    release: CliPositionalArg[str] = Field(
        description="digest, or the start of one with a cache directory, or a manifest file"
    )
    cache: str | None = Field(None, description="directory or address of the cache that has it")
    output: Output = Field("text", description="how to print")


class Show(Named):
    """Show what is in a release: profiles, number of paths, sizes."""

    def cli_cmd(self) -> None:
        """Print it."""
        from nodeagent.bake import find, show

        found = find.find(self.release, self.cache)
        summary = show.summarise(found.digest, found.release, found.index)
        _print(summary, show.lines(summary), self.output)


class Verify(Named):
    """Check that a release is whole in a cache; lists every fault and exits 1 if there is one."""

    cache_keys: Path = Field(description="file of the public cache keys that are trusted")
    contents: bool = Field(default=False, description="also unpack and hash every NAR")

    def cli_cmd(self) -> None:
        """Check, print, and exit 1 for a fault."""
        from nodeagent import keys
        from nodeagent.bake import find, verify

        trusted = keys.parse_public(_read(self.cache_keys).decode(errors="replace").splitlines())
        found = find.find(self.release, self.cache)
        verified = verify.verify(found, trusted, contents=self.contents)
        _print(verified, verify.lines(verified), self.output)
        if verified.faults:
            sys.exit(1)


class Diff(Settings):
    """Compare two releases: profiles, packages, and what a node would fetch."""

    old: CliPositionalArg[str] = Field(description="the release that a node has")
    new: CliPositionalArg[str] = Field(description="the release that it would get")
    cache: str | None = Field(None, description="directory or address of the cache that has both")
    output: Output = Field("text", description="how to print")

    def cli_cmd(self) -> None:
        """Print the difference."""
        from nodeagent.bake import diff, find

        old, new = find.find(self.old, self.cache), find.find(self.new, self.cache)
        found = diff.diff((old.digest, old.release), (new.digest, new.release), new.index)
        _print(found, diff.lines(found), self.output)


class Publish(Settings):
    """Copy releases from one cache directory to another; prints their digests."""

    source: CliPositionalArg[Path] = Field(description="cache directory to copy from")
    target: CliPositionalArg[Path] = Field(description="cache directory to copy to")
    release: list[str] = Field(
        [], description="digest (or the start of one) of what to copy (default: all)"
    )

    def cli_cmd(self) -> None:
        """Copy, and print what was copied."""
        from nodeagent.bake import find, publish
        from nodeagent.bake.directory import CacheDirectory

        for name in self.release or find.listed(self.source):
            done = publish.publish(name, self.source, CacheDirectory(self.target))
            _say(done.digest)


class Release(BaseModel):
    """Build releases, look at them, and copy them from cache to cache."""

    build: CliSubCommand[Build]
    show: CliSubCommand[Show]
    verify: CliSubCommand[Verify]
    diff: CliSubCommand[Diff]
    publish: CliSubCommand[Publish]

    def cli_cmd(self) -> None:
        """Run what was asked for."""
        CliApp.run_subcommand(self, cli_exit_on_error=False)  # the caller knows the exit codes


def _digest(lock_file: Path | None) -> str | None:
    return None if lock_file is None else f"sha256:{hashlib.sha256(_read(lock_file)).hexdigest()}"


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise NodeAgentError(
            Reason.SETTING_INVALID, f"{file} cannot be read: {error.strerror}; check the path"
        ) from None


def _print(document: Document, lines: Iterable[str], output: Output) -> None:
    if output == "json":
        _say(document.model_dump_json(by_alias=True, indent=1))
    else:
        _say("\n".join(lines))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
