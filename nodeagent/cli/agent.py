"""`nodeagent agent`, and those that ask it: `nodeagent status` and `nodeagent gc`."""

import sys
from typing import Literal

from pydantic import Field

from nodeagent import names
from nodeagent.cli import signals
from nodeagent.config import AgentSettings, Settings


class Agent(AgentSettings):
    """Keep this node's pins realised, verified and published."""

    def cli_cmd(self) -> None:
        """Run until SIGTERM or Ctrl-C."""
        from nodeagent import agent, log

        log.configure()
        if signals.run(agent.run(self)) is False:
            sys.exit(1)


class Status(Settings):
    """Show what an agent is doing, with a progress bar while it pours."""

    url: str = Field(f"http://127.0.0.1:{names.DEFAULT_PORT}", description="the agent's address")
    output: Literal["text", "json"] = Field("text", description="how to print")

    def cli_cmd(self) -> None:
        """Print the status."""
        from nodeagent import status

        url = self.url.rstrip("/")
        if self.output == "json":
            print(status.fetch(url).model_dump_json(by_alias=True, indent=1))
            return
        shown = status.follow(url) if sys.stdout.isatty() else status.fetch(url)
        print("\n".join(status.lines(shown)))


class Gc(Settings):
    """Delete what nothing on this node needs any more, and say why the rest stays.

    The agent does so by itself; this makes it do so now. Run it where the agent runs.
    """

    url: str = Field(f"http://127.0.0.1:{names.DEFAULT_PORT}", description="the agent's address")
    dry_run: bool = Field(default=False, description="only say what would become of each release")
    paths: bool = Field(default=False, description="say of each store path why it stays, too")
    output: Literal["text", "json"] = Field("text", description="how to print")

    def cli_cmd(self) -> None:
        """Collect, and print what became of each release."""
        from nodeagent import status

        done = status.collect(self.url.rstrip("/"), dry=self.dry_run, paths=self.paths)
        if self.output == "json":
            print(done.model_dump_json(by_alias=True, indent=1))
            return
        print("\n".join(status.collection_lines(done, dry=self.dry_run)))
