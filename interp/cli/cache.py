"""Verbs about the shared activation store: `cache ls`, `size`, `verify`, `gc`."""

from typing import Annotated

import typer

app = typer.Typer(
    help="The shared activation store (INTERP_CACHE, or this platform's cache folder).", no_args_is_help=True
)


@app.command()
def ls() -> None:
    """List what is stored: key, model, sites, tokens, bytes, age."""
    from rich.console import Console
    from rich.table import Table

    from interp.cache import Store

    store = Store()
    table = Table(box=None, pad_edge=False)
    for column in ("key", "model", "site", "tokens", "size", "state", "created"):
        table.add_column(column)
    entries = store.ls()
    for entry in entries:
        table.add_row(*entry.row())
    Console().print(table) if entries else typer.echo(f"nothing is stored in {store.root}")


@app.command()
def size() -> None:
    """Print how much disk the store takes."""
    from interp.cache import Store

    store = Store()
    typer.echo(f"{store.size() / 1e6:,.1f} MB in {store.root}")


@app.command()
def verify(
    repair: Annotated[bool, typer.Option(help="Remove damaged shards, so that they are captured again.")] = False,
) -> None:
    """Read every stored byte and compare checksums; exit code 1 if something is damaged."""
    from interp.cache import Store

    problems = Store().verify(repair=repair)
    for problem in problems:
        typer.echo(str(problem))
    typer.echo(
        "every shard is what was written"
        if not problems
        else f"{len(problems)} damaged" + (", removed" if repair else "")
    )
    if problems and not repair:
        raise typer.Exit(1)


@app.command()
def gc(
    max_gb: Annotated[
        float | None, typer.Option(help="Remove the least recently used until the store is this small.")
    ] = None,
    older_than_days: Annotated[float | None, typer.Option(help="Remove what was not used for so long.")] = None,
    incomplete: Annotated[bool, typer.Option(help="Remove captures that were never finished.")] = False,
) -> None:
    """Remove what is no longer wanted; leftovers of killed writers always go."""
    from interp.cache import Store

    limit = None if max_gb is None else int(max_gb * 1e9)
    age = None if older_than_days is None else older_than_days * 86400
    gone = Store().gc(max_bytes=limit, older_than=age, incomplete=incomplete)
    typer.echo(f"removed {len(gone)} captures, {sum(item.bytes for item in gone) / 1e6:,.1f} MB")
