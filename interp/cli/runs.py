"""Verbs that run something on a model: `report`, `capture` and those of single methods; and `open`, which shows what was saved."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import ranks, verbs
from .models import Backend, Device, DryRun, Dtype, Model
from .running import (
    Facts,
    Figure,
    Overwrite,
    Paper,
    SkipBad,
    Text,
    check_folder,
    check_outputs,
    draw,
    facts_for,
    load,
    rate,
    say_cost,
    show,
)
from .sizes import parse_size


def add_to(app: typer.Typer) -> None:
    """Register the verbs; those of single methods lie in `verbs`."""
    app.command(short_help="Write a report card of a checkpoint: page, figures, tables.")(report)
    verbs.add_to(app)
    app.command(short_help="Fill the shared activation store.")(capture)
    app.command(name="open", short_help="Show, draw or tabulate a saved result.")(open_)


def report(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("report"),
    facts: Facts = None,
    text: Text = None,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    backend: Backend = "transformer_lens",
    device: Device = "auto",
    dtype: Dtype = "auto",
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    max_facts: Annotated[int, typer.Option(min=1, help="Trace at most so many facts.")] = 60,
    max_tokens: Annotated[int, typer.Option(min=2, help="Read at most so many tokens of text.")] = 12_000,
    static: Annotated[bool, typer.Option(help="Also export SVG and PDF where a Chromium is found.")] = True,
    store: Annotated[bool, typer.Option(help="Read the text's activations through the shared store.")] = True,
    dry_run: DryRun = False,
) -> None:
    """The whole battery on one checkpoint: a page, figures, tables, a manifest.

    Without --facts and --text it brings its own text and leaves the rows out that need facts; for `atlas` and `atlas-tuned` it takes the
    facts and prose of their world.
    """
    from interp.cache import Store
    from interp.models import reference
    from interp.report import Report

    given: dict[str, Any] = {"facts": facts, "text": text}
    Report(**given).check(output, overwrite=overwrite)
    if facts is not None or model in reference.names():
        given["facts"] = facts_for(model, facts, max_facts, skip_bad)
    if text is None and model in reference.names():
        given["text"] = reference.text(model)
    job = Report(**given, seed=seed, static=static, max_facts=max_facts, max_tokens=max_tokens)
    shared = Store(say=typer.echo) if store else None
    lm = load(model, backend, device, dtype)
    if dry_run:
        say_cost(job.cost(lm), lm)
        if shared is not None:
            typer.echo(f"in the store: {job.preview(lm, shared)}")
        return
    named = [f"--{name} {path.name}" for name, path in (("facts", facts), ("text", text)) if path is not None]
    command = " ".join(["interp report", lm.spec.name, *named, "-o", output.name])
    page = job.write(lm, output, store=shared, overwrite=overwrite, command=command)
    typer.echo(f"wrote {page}")


def capture(
    model: Model,
    sites: Annotated[str, typer.Option(help="Sites, comma separated; `*` is any layer.")],
    text: Text = None,
    facts: Facts = None,
    stored_dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; the model's own if not given.")
    ] = None,
    limit_tokens: Annotated[int | None, typer.Option(min=2, help="Use at most so many tokens.")] = None,
    max_disk: Annotated[str | None, typer.Option(help="Refuse to let the store grow beyond this: 20GB.")] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="I/N: write only the I-th of N shares, from 0, for several machines. torchrun needs none."),
    ] = None,
    backend: Backend = "transformer_lens",
    device: Device = "auto",
    dtype: Dtype = "auto",
    dry_run: DryRun = False,
) -> None:
    """Fill the shared activation store: from then on every method reads instead of computing."""
    from interp import data
    from interp.cache import Store
    from interp.core.errors import BadInput
    from interp.models import reference

    if text is not None and facts is not None:
        raise BadInput("capture reads one thing at a time: give --text or --facts, not both.")
    if text is None and facts is None and model not in reference.names():
        raise BadInput("capture needs tokens: give --text FILE or --facts FILE.")
    names = [name.strip() for name in sites.split(",") if name.strip()]
    share, room = _share(shard), parse_size("--max-disk", max_disk)
    together = ranks.size() > 1 and share is None
    source: Any = [prompt.text for prompt in data.facts(facts)] if facts is not None else text
    if source is None:
        source = reference.text(model)
    lm = load(model, backend, device, dtype)
    what = data.corpus(source, lm.tokenizer, n_ctx=lm.spec.n_ctx, limit_tokens=limit_tokens)
    store = Store(max_disk=room, say=typer.echo)
    if dry_run:
        preview = store.preview(lm, what, names, dtype=stored_dtype, shard=share)
        seconds = preview.forward_tokens / rate(lm)
        typer.echo(preview.describe() + (f", about {seconds:,.0f} s" if preview.forward_tokens else ""))
        return
    if together:
        typer.echo(store.preview(lm, what, names, dtype=stored_dtype).describe() + f", by {ranks.size()} processes")
        found = _own_share_first(Store(max_disk=room, say=lambda text: None), lm, what, names, stored_dtype)
    else:
        found = store.capture(lm, what, names, dtype=stored_dtype, shard=share)
    typer.echo(repr(found))


def open_(
    folder: Annotated[Path, typer.Argument(help="A folder that an analysis was saved in.")],
    figure: Figure = None,
    paper: Paper = False,
    table: Annotated[Path | None, typer.Option(help="Write the long table: a path ending in .csv or .parquet.")] = None,
) -> None:
    """Show a saved result: what it is, its numbers, where they come from; draw or tabulate it."""
    from interp.core.artifact import open_result
    from interp.core.errors import BadInput, one_of

    if (folder / "card.jsonl").is_file() and (folder / "results").is_dir():
        inside = ", ".join(sorted(str(path) for path in (folder / "results").iterdir()))
        raise BadInput(
            f"{str(folder)!r} is a report: open {folder / 'index.html'} in a browser, or one of its results: {inside}."
        )
    check_outputs(None, figure, overwrite=False)
    if table is not None:
        one_of("--table ending", table.suffix, (".csv", ".parquet"))
        check_folder("--table", table)
    result = open_result(folder)
    show(result)
    if figure is not None:
        draw(result, figure, paper)
    if table is not None:
        frame = result.to_frame()
        frame.to_csv(table, index=False) if table.suffix == ".csv" else frame.to_parquet(table, index=False)
        typer.echo(f"wrote {table}")


def _own_share_first(store: Any, lm: Any, what: Any, names: list[str], dtype: str | None) -> Any:
    """A capture by several processes: each does its share, then what others have not begun, and waits for what they have."""
    found = store.capture(lm, what, names, dtype=dtype, shard=(ranks.rank(), ranks.size()))
    store.capture(lm, what, names, dtype=dtype, quiet=True)
    return found.refresh()


def _share(text: str | None) -> tuple[int, int] | None:
    from interp.core.errors import BadInput

    if text is None:
        return None
    first, _, second = text.partition("/")
    if not (first.isdigit() and second.isdigit() and int(first) < int(second)):
        raise BadInput(f"--shard {text!r}: write I/N with 0 <= I < N, for example 0/4.")
    return int(first), int(second)
