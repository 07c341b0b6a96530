"""Verbs about the shared activation store: `cache ls`, `size`, `verify`, `gc`."""

import sys
from typing import Annotated, Any

import typer

from .sizes import parse_size

WIDE = 140
"""Columns of a table that is piped somewhere."""

app = typer.Typer(
    help="The shared activation store (INTERP_CACHE, or this platform's cache folder).",
    short_help="The shared activation store: ls, size, verify, gc.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(short_help="List what is stored.")
def ls() -> None:
    """List what is stored, most recently used first: key, model, site, tokens, size, state, age."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from interp.cache import Store, human

    store = Store()
    entries = store.ls()
    if not entries:
        typer.echo(f"nothing is stored in {store.root}")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("key", "model", "site", "dtype", "tokens", "size", "state", "used"):
        table.add_column(column, justify="right" if column in ("tokens", "size") else "left", no_wrap=True)
    for entry in entries:
        cells = [
            entry.key[:8], entry.model, entry.site, entry.dtype, f"{entry.tokens:,}", human(entry.bytes), _state(entry),
            _ago(entry.last_used),
        ]  # fmt: skip
        table.add_row(*(Text(cell) for cell in cells))
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    console.print(table)
    console.print(f"{len(entries)} sites, {human(store.size())} in {store.root}", highlight=False, markup=False)


@app.command(short_help="Print how much disk it takes.")
def size() -> None:
    """Print how much disk the store takes."""
    from interp.cache import Store, human

    store = Store()
    typer.echo(f"{human(store.size())} in {store.root}")


@app.command(short_help="Compare every checksum.")
def verify(
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop what is damaged, so that it is captured again.")
    ] = False,
) -> None:
    """Read every stored byte and compare checksums; exit code 1 if something is damaged."""
    from interp.cache import Store

    store = Store()
    problems = store.verify(repair=repair)
    for problem in problems:
        typer.echo(f"{problem.key[:8]} {problem.site}: {problem.what}" + (" Dropped." if problem.repaired else ""))
    if not problems:
        typer.echo(f"{len(store.ls())} sites in {store.root}: every shard is what was written")
        return
    typer.echo(
        f"{len(problems)} damaged" + ("" if repair else "; --repair drops them, so that they are captured again")
    )
    raise typer.Exit(0 if repair else 1)


@app.command(short_help="Make room.")
def gc(
    max_size: Annotated[
        str | None, typer.Option(help="Remove the least recently used until the store is this small: 20GB.")
    ] = None,
    older_than_days: Annotated[float | None, typer.Option(min=0, help="Remove what was not used for so long.")] = None,
    incomplete: Annotated[bool, typer.Option("--incomplete", help="Remove captures that were never finished.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, then stop.")] = False,
) -> None:
    """Make room; what somebody is using stays, leftovers of killed writers always go."""
    from interp.cache import Store, human

    limit = parse_size("--max-size", max_size)
    gone = Store().gc(max_bytes=limit, older_than=older_than_days, incomplete=incomplete, dry_run=dry_run)
    for entry in gone:
        typer.echo(f"{entry.key[:8]} {entry.model} {entry.site} {human(entry.bytes)}")
    what = "would remove" if dry_run else "removed"
    typer.echo(f"{what} {len(gone)} sites, {human(sum(entry.bytes for entry in gone))}")


def _state(entry: Any) -> str:
    if entry.damaged:
        return "damaged: " + entry.damaged
    state = "complete" if entry.complete else f"{entry.rows / max(entry.tokens, 1):.0%} there"
    return state + (", in use" if entry.in_use else "")


def _ago(when: float) -> str:
    import time

    seconds = max(0.0, time.time() - when)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "now"
