"""`nodeagent cleanup`: take what nodeagent made off this node again."""

import sys

from nodeagent.cli import signals
from nodeagent.config import CleanupSettings


class Cleanup(CleanupSettings):
    """Take what nodeagent made off this node: labels, condition, NodeStore, gates, roots, state.

    No agent may run on the node, and no pod use its store. Run it again if it was broken off.
    """

    def cli_cmd(self) -> None:
        """Clean up; a cleanup that was ended by a signal is not done."""
        from nodeagent import cleanup, log

        log.configure()
        if signals.run(cleanup.run(self)) is None:
            sys.exit(signals.INTERRUPTED)
