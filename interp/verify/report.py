"""The outcomes as a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .case import Outcome

if TYPE_CHECKING:
    from rich.console import Console


def table(outcomes: Sequence[Outcome]) -> Any:
    """A rich table: a row a case."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "case", "expected", "found", "s"):
        made.add_column(column, justify="right" if column == "s" else "left", no_wrap=column in ("", "case", "s"))
    for outcome in outcomes:
        mark = Text("ok", style="green") if outcome.ok else Text("FAIL", style="bold red")
        made.add_row(mark, Text(outcome.name), Text(outcome.expected), Text(outcome.found), f"{outcome.seconds:.1f}")
    return made


def verdict(outcomes: Sequence[Outcome]) -> str:
    """One line: how many known answers came out, and what to do if one did not."""
    failed = [outcome.name for outcome in outcomes if not outcome.ok]
    seconds = sum(outcome.seconds for outcome in outcomes)
    if not failed:
        return f"{len(outcomes)} of {len(outcomes)} known answers, in {seconds:.0f} s."
    return (
        f"{len(failed)} of {len(outcomes)} FAILED ({', '.join(failed)}): results from this installation cannot be trusted. "
        "Compare its library versions with .ci/constraints.txt, then report the table above."
    )


def show(outcomes: Sequence[Outcome], console: "Console | None" = None) -> None:
    """Print table and verdict."""
    from rich.console import Console

    console = console or Console()
    console.print(table(outcomes))
    console.print(verdict(outcomes), highlight=False, markup=False)


def status(outcomes: Sequence[Outcome]) -> int:
    """Exit status: 0 if every known answer came out, else 1."""
    return 0 if outcomes and all(outcome.ok for outcome in outcomes) else 1
