"""Every claim of docs/security.md names tests, and they are there."""

import ast
import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
TEXT: Final = (ROOT / "docs/security.md").read_text()
TEST: Final = re.compile(r"`((?:tests|integration)/\w+\.py)::(\w+)`")
ATTACKERS: Final = [
    "A pod that uses a store",
    "An agent, or its token",
    "A node",
    "A cache, or whoever sits before it",
    "Whoever writes the pins",
    "The controller",
    "Whoever makes a pod",
]


def claims(section: str) -> list[list[str]]:
    """Give a section's lines of what somebody can or cannot do, in cells."""
    body = TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def missing(text: str) -> list[str]:
    """List the tests that a text names and that do not exist."""
    return [f"{file}::{name}" for file, name in TEST.findall(text) if name not in functions(file)]


def functions(file: str) -> set[str]:
    path = ROOT / file
    body = ast.parse(path.read_text()).body if path.exists() else []
    return {one.name for one in body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("attacker", ATTACKERS)
def test_each_line_says_can_or_cannot_and_names_its_tests(attacker: str) -> None:
    lines = claims(attacker)
    assert {line[0] for line in lines} == {"can", "cannot"}
    for _, what, shown in lines:
        assert what
        assert TEST.sub("", shown).strip(" ,") == ""
        assert TEST.search(shown), what


def test_every_test_that_is_named_exists() -> None:
    assert len(TEST.findall(TEXT)) == TEXT.count("::test_")
    assert missing(TEXT) == []


def test_a_test_that_does_not_exist_is_told() -> None:
    here = "tests/test_security_doc.py"
    named = [f"{here}::test_no_such", "tests/test_none.py::test_a", f"{here}::{functions.__name__}"]
    assert missing(" ".join(f"`{one}`" for one in named)) == named[:2]


def test_every_table_of_claims_is_looked_at() -> None:
    tables = re.findall(r"^\| \| what \| shown by \|$", TEXT, re.MULTILINE)
    assert len(tables) == len(ATTACKERS)
