"""The table at the end: what a task waits for today, and what it waits for here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """Seconds, all of one run. `today` is (install, start + import), unknown without a network."""

    filling: float
    first_pod: float
    second_pod: float
    today: tuple[float, float] | None = None


def table(seconds: Measured) -> None:
    """Print it."""
    from rich.console import Console
    from rich.table import Table

    install, start = seconds.today or (None, None)
    grid = Table(
        "what a task waits for", title="seconds, measured in this run", title_justify="left"
    )
    for column in ("pip install", "nodeagent"):
        grid.add_column(column, justify="right")
    grid.add_row("install", _text(install), "0.00")
    grid.add_row("start + import, first pod", _text(start), _text(seconds.first_pod))
    grid.add_row("start + import, second pod", "", _text(seconds.second_pod), end_section=True)
    if seconds.today is not None:
        today = sum(seconds.today)
        factor = f"({today / seconds.first_pod:.0f} times sooner)"
        grid.add_row("first pod, in all", _text(today), f"{_text(seconds.first_pod)} {factor}")
    grid.add_row(
        "once a node, before any pod", "", f"{_text(seconds.filling)} (empty store to ready)"
    )
    Console(width=100).print(grid)


def _text(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"
