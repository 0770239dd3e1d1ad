"""docs/benchmarks.md, made of the figures that are kept: none is copied by hand."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

from nodeagent.bench.figures import Figure

DOCUMENT: Final = Path("docs/benchmarks.md")
LIMITS: Final = Path(__file__).with_name("limits.md")  # where the time goes, told by a person
_HOW: Final = (
    "Made by `make bench`; do not edit. Each ratio compares pairs of runs, one after the other in "
    "one run of the bench, and is their median; lower is better.\n"
)
_COMMANDS: Final = {  # where it is not `nodeagent bench`
    "cluster": "make bench-cluster",
    "snapshot": "make bench-cluster",
    "webhook-cluster": "make bench-cluster",
}
_GIB: Final = 1 << 30


def render(results: Mapping[str, Sequence[Figure]]) -> str:
    """Write the document."""
    parts = [
        "# Benchmarks\n",
        _HOW,
        f"Machine: {_machine()}.\n",
    ]
    for bench, figures in results.items():
        command = _COMMANDS.get(bench, f"nodeagent bench {bench}")
        parts += [f"## {bench}\n", f"`{command}`\n", _table(figures)]
    return "\n".join([*parts, LIMITS.read_text()])


def _table(figures: Sequence[Figure]) -> str:
    lines = ["| what | value | target | met | runs |", "|---|---|---|---|---|"]
    for one in figures:
        met = "" if one.ok is None else ("yes" if one.ok else "**no**")
        target = "" if one.target is None else f"≤ {one.target:g} {one.unit}"
        runs = ", ".join(f"{run:g}" for run in one.runs)
        name = one.name.replace("|", "\\|")  # commands in a pipe stand in a table, too
        lines.append(f"| {name} | {one.value:g} {one.unit} | {target} | {met} | {runs} |")
    return "\n".join(lines) + "\n"


def _machine() -> str:
    memory = psutil.virtual_memory().total / _GIB
    release = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, {release}"
