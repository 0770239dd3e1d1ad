"""`nodeagent serve`: a cache directory over HTTP."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from nodeagent import names
from nodeagent.cli import signals
from nodeagent.config import Settings


class Serve(Settings):
    """Serve a binary cache directory as static files."""

    directory: CliPositionalArg[Path] = Field(description="the cache directory")
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(names.DEFAULT_PORT, ge=0, le=65535, description="port to listen on")

    def cli_cmd(self) -> None:
        """Run until SIGTERM or Ctrl-C."""
        from nodeagent.serve import binarycache

        signals.run(binarycache.serve(self.directory, self.host, self.port))
