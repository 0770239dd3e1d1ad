"""The command line: one settings model per sub-command; each command builds what it needs.

Exit codes: 0 done, 1 failed (one line on stderr says what and what to do), 2 usage.
"""

import sys
from collections.abc import Sequence
from typing import Final

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliSubCommand,
    CliToggleFlag,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from nodeagent import __version__
from nodeagent.cli import signals
from nodeagent.cli.agent import Agent, Gc, Status
from nodeagent.cli.bench import Bench
from nodeagent.cli.cleanup import Cleanup
from nodeagent.cli.controller import Controller
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

    version: CliToggleFlag[bool] = Field(default=False, description="print the version")
    agent: CliSubCommand[Agent] = Field(description="keep a node's pins realised and published")
    controller: CliSubCommand[Controller] = Field(description="admit pods to ready nodes")
    release: CliSubCommand[Release] = Field(description="build, show, verify, compare, publish")
    promote: CliSubCommand[Promote] = Field(description="sign a release into the pins")
    rollback: CliSubCommand[Rollback] = Field(description="back to the previous release")
    status: CliSubCommand[Status] = Field(description="what an agent is doing")
    gc: CliSubCommand[Gc] = Field(description="delete what nothing needs; say why the rest stays")
    cleanup: CliSubCommand[Cleanup] = Field(description="take nodeagent off this node again")
    serve: CliSubCommand[Serve] = Field(description="serve a cache directory over HTTP")
    bench: CliSubCommand[Bench] = Field(description="measure beside stock tools")
    demo: CliSubCommand[Demo] = Field(description="see it work on this machine")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 pydantic-settings gives it
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take sub-commands from the command line alone: a variable STATUS is nobody's."""
        return (init_settings,)

    def cli_cmd(self) -> None:
        """Run the sub-command."""
        if self.version:
            print(f"nodeagent {__version__}")
        else:
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
        failure = first(group)
        if failure is None:
            raise
        return _complain(failure)
    except ValidationError as error:
        return _usage("; ".join(_flag_fault(fault) for fault in error.errors()))
    except SettingsError as error:
        return _usage(str(error))
    return 0


def _flag_fault(fault: ErrorDetails) -> str:
    """Say what is wrong with a flag, by the name that it has on the command line."""
    names = [part for part in fault["loc"] if isinstance(part, str)]
    flag = f"--{names[-1].replace('_', '-')}" if names else "command"
    if fault["type"] == "missing":
        return f"{flag} is missing"
    return f"{flag}: {fault['msg'].removeprefix('Value error, ')}"


def _usage(text: str) -> int:
    print(f"nodeagent: {text}", file=sys.stderr)
    return USAGE


def _complain(error: NodeAgentError) -> int:
    print(f"nodeagent: {error.reason}: {error.message}", file=sys.stderr)
    return FAILED
