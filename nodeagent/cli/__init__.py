"""The command line: one settings model per sub-command; each command builds what it needs.

Exit codes: 0 done, 1 failed (one line on stderr says what and what to do), 2 usage.
"""

import sys
from collections.abc import Sequence
from typing import Final

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, CliSubCommand, SettingsConfigDict, SettingsError

from nodeagent import model
from nodeagent.cli import signals
from nodeagent.cli.agent import Agent, Status
from nodeagent.cli.demo import Demo
from nodeagent.cli.promote import Promote, Rollback
from nodeagent.cli.release import Release
from nodeagent.cli.serve import Serve
from nodeagent.errors import NodeAgentError, first

FAILED: Final = 1
USAGE: Final = 2


class NodeAgent(BaseSettings):
    """Fill this node's Nix store before the pods that need it arrive."""

    model_config = SettingsConfigDict(
        cli_prog_name="nodeagent",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    agent: CliSubCommand[Agent] = Field(description="keep a node's pins realised and published")
    release: CliSubCommand[Release] = Field(description="build, show, verify, compare, publish")
    promote: CliSubCommand[Promote] = Field(description="sign a release into the pins")
    rollback: CliSubCommand[Rollback] = Field(description="back to the previous release")
    status: CliSubCommand[Status] = Field(description="what an agent is doing")
    serve: CliSubCommand[Serve] = Field(description="serve a cache directory over HTTP")
    demo: CliSubCommand[Demo] = Field(description="see it work on this machine")

    def cli_cmd(self) -> None:
        """Run the sub-command."""
        CliApp.run_subcommand(self)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run the command line; give the exit code."""
    try:
        CliApp.run(NodeAgent, cli_args=list(argv) or ["--help"])
    except KeyboardInterrupt:
        return signals.INTERRUPTED
    except NodeAgentError as error:
        return _complain(error)
    except BaseExceptionGroup as group:
        return _complain(first(group))
    except ValidationError as error:
        print(f"nodeagent: {model.explain(error)}", file=sys.stderr)
        return USAGE
    except SettingsError as error:
        print(f"nodeagent: {error}", file=sys.stderr)
        return USAGE
    return 0


def _complain(error: NodeAgentError) -> int:
    print(f"nodeagent: {error.reason}: {error.message}", file=sys.stderr)
    return FAILED
