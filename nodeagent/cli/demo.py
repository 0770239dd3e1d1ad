"""`nodeagent demo`."""

import sys
from pathlib import Path

from pydantic import Field

from nodeagent.cli import signals
from nodeagent.config import Settings


class Demo(Settings):
    """See it work: a cache, a node and its agent, on this machine."""

    cache_dir: Path = Field(
        Path("build/demo"), description="downloads are kept here for the next time"
    )
    offline: bool = Field(
        default=False, description="use the built-in closure, as without a network"
    )

    def cli_cmd(self) -> None:
        """Run the demo."""
        from nodeagent.demo import run

        if signals.run(run.show(self.cache_dir, offline=self.offline)) is None:
            sys.exit(signals.INTERRUPTED)
