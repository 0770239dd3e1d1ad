"""`nodeagent bench`."""

import sys
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from nodeagent.cli import signals
from nodeagent.config import Settings


class Bench(Settings):
    """Measure beside stock tools, keep the figures in build/bench, and write docs/benchmarks.md.

    Exit 1 if a target was missed.
    """

    names: CliPositionalArg[list[str]] = Field(
        [],
        description="pour, durable, small, big, bake, verify, scrub, collect, admission, "
        "webhook, start (none: all); snapshot",
    )
    memory: Path = Field(Path("/dev/shm"), description="a tmpfs with 6 GB free")  # noqa: S108 meant
    disk: Path = Field(Path("build"), description="a directory on a disk with 4 GB free")
    runs: int = Field(3, ge=1, description="pairs of runs; the median counts")
    idle_seconds: float = Field(600.0, gt=0, description="how long idling is watched")
    scale: float = Field(1.0, gt=0, le=1, description="size of the closures; below 1 only to try")
    kubeconfig: Path | None = Field(
        None,
        description="an API server of no other use, for the bench snapshot to fill",
    )

    def cli_cmd(self) -> None:
        """Run the benches."""
        from nodeagent.bench import run
        from nodeagent.bench.room import Room

        room = Room(
            *(self.memory, self.disk.absolute(), self.runs, self.idle_seconds, self.scale),
            kubeconfig=self.kubeconfig,
        )
        room.disk.mkdir(parents=True, exist_ok=True)
        if not signals.run(run.run(self.names, room)):
            sys.exit(1)
