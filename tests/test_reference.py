"""docs/reference.md says what the code says: nothing lacks a row, and no row is left over.

Meanings are for people; names, defaults, types and labels are compared.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, get_args

import pytest
from aiohttp import web
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nodeagent import cli, names
from nodeagent.cli import NodeAgent, signals
from nodeagent.cli.serve import Serve
from nodeagent.metrics import ControllerMetrics, Metrics
from nodeagent.names import ControllerMetric, Metric, Outcome, Phase, Reason
from nodeagent.readiness import Check
from nodeagent.report import Collection, Status
from nodeagent.serve import binarycache, health
from nodeagent.webhook import health as controller_health
from tests.webhooking import unused

FILE: Final = Path(__file__).parents[1] / "docs/reference.md"
# What marks such a field is private to pydantic-settings: read it off one that is known.
SUB_COMMAND: Final = NodeAgent.model_fields["serve"].metadata[0]
POSITIONAL: Final = Serve.model_fields["directory"].metadata[0]
NONE: Final = "—"
WORKED_OUT: Final = "*…*"  # italics: a default that is only known at start
Row = Sequence[str]


def sections(text: str) -> dict[str, list[Row]]:
    """Give the table rows under each heading, without the heads."""
    found: dict[str, list[Row]] = {}
    rows: list[Row] = []
    for line in text.splitlines():
        if match := re.fullmatch(r"#+ (.*)", line):
            rows = found.setdefault(match[1], [])
        elif line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return {heading: body(rows) for heading, rows in found.items()}


def body(rows: Sequence[Row]) -> list[Row]:
    """Leave out the heads of tables: a rule follows each."""
    rules = {at for at, row in enumerate(rows) if set("".join(row)) == {"-"}}
    return [row for at, row in enumerate(rows) if not {at, at + 1} & rules]


SECTIONS: Final = sections(FILE.read_text())
COMMAND_SECTIONS: Final = {name for name in SECTIONS if name.startswith("nodeagent ")}


def compare(heading: str, documented: Mapping[str, Row], real: Mapping[str, Row]) -> None:
    """Fail with the rows to add, to remove and to change."""
    todo = [f"add a row for {shown(name, real)}" for name in real if name not in documented]
    todo += [f"remove the row of {name}" for name in documented if name not in real]
    todo += [
        f"change the row of {name} from {list(documented[name])} to {list(real[name])}"
        for name in real
        if name in documented and documented[name] != real[name]
    ]
    assert not todo, f"docs/reference.md, {heading!r}: " + "; ".join(todo)


def shown(name: str, rows: Mapping[str, Row]) -> str:
    return " | ".join([name, *rows[name]])


def table(heading: str, *columns: int) -> dict[str, Row]:
    """Give the named columns of a section's rows, by their first cell without backticks."""
    assert heading in SECTIONS, f"docs/reference.md lacks the section {heading!r}"
    rows = SECTIONS[heading]
    names = [row[0].strip("`") for row in rows]
    doubled = {name for name in names if names.count(name) > 1}
    assert not doubled, f"docs/reference.md, {heading!r}: {doubled} stand twice"
    blank = [row[0] for row in rows if not all(row)]
    assert not blank, f"docs/reference.md, {heading!r}: {blank} have an empty cell"
    return {
        name: [row[column] for column in columns] for name, row in zip(names, rows, strict=True)
    }


def commands(model: type[BaseModel], name: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Walk the sub-commands that do something themselves."""
    below = {
        key: get_args(field.annotation)[0]
        for key, field in model.model_fields.items()
        if SUB_COMMAND in field.metadata
    }
    if not below:
        yield name, model
    for key, sub in below.items():
        yield from commands(sub, f"{name} {key}")


COMMANDS: Final = dict(commands(NodeAgent, "nodeagent"))


def flag(name: str, field: FieldInfo) -> str:
    if POSITIONAL in field.metadata:
        return name.upper()
    return "--" + name.replace("_", "-")


def default(field: FieldInfo) -> str:
    """Spell a default as the tables do."""
    value = field.default
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return NONE if field.default_factory is dict else WORKED_OUT
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        value = " ".join(value)
    if value in {None, ""}:
        return NONE
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def test_every_sub_command_has_a_section_and_no_other_has() -> None:
    compare("Command line", dict.fromkeys(COMMAND_SECTIONS, ()), dict.fromkeys(COMMANDS, ()))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_stands_with_its_default(command: str) -> None:
    documented = {
        name: [re.sub(r"^\*.+\*$", WORKED_OUT, cell) for cell in row]
        for name, row in table(command, 1).items()
    }
    fields = COMMANDS[command].model_fields.items()
    compare(command, documented, {flag(name, field): [default(field)] for name, field in fields})


def test_every_exit_code_stands() -> None:
    codes = (0, cli.FAILED, cli.USAGE, signals.INTERRUPTED)
    compare("Command line", table("Command line"), {str(code): [] for code in codes})


def test_every_reason_stands_with_what_to_do() -> None:
    compare("Reasons", table("Reasons"), {reason: [] for reason in Reason})
    short = [row[0] for row in SECTIONS["Reasons"] if len(row) != 4]
    assert not short, f"docs/reference.md, 'Reasons': {short} do not have four cells"


def test_every_outcome_of_admission_stands_in_the_order_of_decision() -> None:
    documented = table("Outcomes of admission")
    compare("Outcomes of admission", documented, {outcome: [] for outcome in Outcome})
    order = [outcome for outcome in Outcome if outcome is not Outcome.NOT_OPTED_IN]
    assert [*documented][1:] == order


def test_every_phase_stands() -> None:
    compare("Phases", table("Phases"), {phase: [] for phase in Phase})


def used() -> Metrics:
    """Give every metric a sample, for only samples tell labels."""
    metrics = Metrics()
    metrics.check.labels("store").set(1)
    metrics.releases.labels("keep", "pods").set(1)
    metrics.phase(Phase.IDLE)
    metrics.published("sha256:0", "stable", 1)
    metrics.wanted("sha256:0", "stable")
    metrics.passed("published")
    metrics.refused(Reason.PINS_MISSING)
    return metrics


def told() -> ControllerMetrics:
    """Do the same for a controller's."""
    metrics = ControllerMetrics()
    metrics.answered(200)
    metrics.snapshot({"nodes": 1.0}, {"nodes": 1})
    metrics.certificates({"leaf": 1.0})
    return metrics


@pytest.mark.parametrize(
    ("heading", "metrics", "names"),
    [("Metrics", used, Metric), ("Metrics of a controller", told, ControllerMetric)],
)
def test_every_metric_stands_with_its_type_and_labels(
    heading: str, metrics: Callable[[], Metrics | ControllerMetrics], names: type[StrEnum]
) -> None:
    real: dict[str, Row] = {}
    for family in metrics().registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels}
        real[name] = [family.type, ", ".join(f"`{label}`" for label in sorted(labels)) or NONE]
    assert real.keys() == set(names)
    documented = {
        name: [kind, ", ".join(sorted(labels.split(", ")))]
        for name, (kind, labels) in table(heading, 1, 2).items()
    }
    compare(heading, documented, real)


class Nothing:
    """A view of an agent that nobody asks."""

    async def checks(self) -> Sequence[Check]:
        raise NotImplementedError

    async def status(self) -> Status:
        raise NotImplementedError

    async def metrics(self) -> bytes:
        raise NotImplementedError

    async def collect(self, *, dry: bool, paths: bool) -> Collection:
        raise NotImplementedError


class Quiet:
    """A view of a controller that nobody asks."""

    def missing(self) -> Mapping[str, str]:
        raise NotImplementedError

    def metrics(self) -> bytes:
        raise NotImplementedError


def routes(application: web.Application) -> dict[str, Row]:
    return {resource.canonical: [] for resource in application.router.resources()}


@pytest.mark.parametrize(
    ("heading", "application"),
    [
        ("Endpoints of an agent", lambda: health.app(Nothing())),
        ("Endpoints of a controller", lambda: controller_health.app(Quiet())),
        ("Endpoints of the webhook", lambda: unused().app()),
        ("Endpoints of a served cache", lambda: binarycache.app(FILE.parent)),
    ],
)
def test_every_route_stands(heading: str, application: Callable[[], web.Application]) -> None:
    documented = {name: () for name in table(heading) if name.startswith("/")}
    compare(heading, documented, dict.fromkeys(routes(application()), ()))


def fields(model: type[BaseModel]) -> set[str]:
    """Give the names that a document has in JSON, those of the documents in it included."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        found.add(field.alias or name)
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= fields(part)
    return found


def test_every_field_of_the_status_document_is_named() -> None:
    text = FILE.read_text().partition("`/v1/status` has ")[2].partition("\n## ")[0]
    lacking = sorted(fields(Status) - set(re.findall(r"`(\w+)`", text)))
    assert not lacking, f"docs/reference.md, after '`/v1/status` has': name the fields {lacking}"


def test_a_stale_row_a_missing_row_and_a_changed_row_are_told() -> None:
    documented = {"stale": ["1"], "changed": ["1"]}
    with pytest.raises(AssertionError) as failure:
        compare("Flags", documented, {"changed": ["2"], "new": ["3"]})
    for told in ("add a row for new | 3", "remove the row of stale", "from ['1'] to ['2']"):
        assert told in str(failure.value)


def test_every_name_in_the_cluster_is_told() -> None:
    text = FILE.read_text().partition("## In the cluster")[2].partition("\n## ")[0]
    written = (names.LABEL_READY, names.LABEL_PROFILE_PREFIX, names.LABEL_CHANNEL)
    for name in (*written, names.CONDITION, names.TAINT, names.GROUP):
        assert f"`{name}" in text or f".{name}`" in text, name
