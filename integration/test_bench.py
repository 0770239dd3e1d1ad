"""The benches run, on closures so small that their figures mean nothing."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from nodeagent.bench.cases import BENCHES

SECONDS = 110


@pytest.mark.parametrize("name", BENCHES)
async def test_a_bench_keeps_its_figures_and_leaves_nothing_else(name: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "memory").mkdir()
    bench = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nodeagent", "bench", name, "--runs", "1", "--scale", "0.01"),
        *("--memory", str(tmp_path / "memory"), "--disk", str(tmp_path / "disk")),
        *("--idle-seconds", "1"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(SECONDS):
        output = (await bench.communicate())[0].decode()
    assert bench.returncode in {0, 1}, output  # 1: a target was missed
    figures = json.loads((tmp_path / f"build/bench/{name}.json").read_text())
    assert figures
    for figure in figures:
        assert figure.keys() == {"name", "value", "unit", "target", "ok", "runs"}
        told = figure["name"].replace("|", "\\|")
        assert told in (tmp_path / "docs/benchmarks.md").read_text()
    assert not any((tmp_path / "memory").iterdir())
    assert not any((tmp_path / "disk").iterdir())
