"""`nodeagent controller`."""

from nodeagent.cli import signals
from nodeagent.config import ControllerSettings


class Controller(ControllerSettings):
    """Add mounts to pods that ask for them, where enough nodes are ready."""

    def cli_cmd(self) -> None:
        """Run until SIGTERM or Ctrl-C."""
        from nodeagent import controller, log

        log.configure()
        signals.run(controller.run(self))
