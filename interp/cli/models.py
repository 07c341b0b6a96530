"""Verbs about a model itself: `sites`, `verify`, `reference`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from .cache import WIDE

Model = Annotated[
    str, typer.Argument(help="A Hugging Face name, org/model@revision, a local folder, `atlas` or `atlas-tuned`.")
]
Backend = Annotated[Literal["transformer_lens", "nnsight"], typer.Option(help="Who answers.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="auto (the checkpoint's own), float32, bfloat16, float16.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say bytes, forward passes and time, then stop.")]

reference = typer.Typer(
    help="The embedded reference checkpoints: list them, show one, train them again.",
    short_help="The embedded reference checkpoints: ls, show, train.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command(short_help="List what can be captured and edited in a model.")(sites)
    app.command(short_help="Check this installation against known answers.")(verify)


def sites(
    model: Model,
    like: Annotated[str | None, typer.Option(help="Only sites whose name contains this.")] = None,
    layer: Annotated[int, typer.Option(min=0, help="The layer to show; every layer has the same sites.")] = 0,
) -> None:
    """List a model's sites: name, shape a token, bytes a token, meaning. Reads the config only."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from interp.core.errors import BadInput, hint
    from interp.core.site import sites_of
    from interp.models.load import spec_of_checkpoint

    spec = spec_of_checkpoint(model)
    if layer >= spec.n_layers:
        raise BadInput(f"{spec.name} has no layer {layer}; it has layers 0 to {spec.n_layers - 1}. Choose one of them.")
    here = [info for info in sites_of(spec) if info.site.layer in (None, layer)]
    shown = [info for info in here if like is None or any(like in name for name in info.site.spellings)]
    if not shown:
        near = hint(
            like, {part for info in here for part in (info.site.name, info.site.name.split(".")[-1], info.site.kind)}
        )
        raise BadInput(f"no site of {spec.name} contains {like!r}.{near} Leave out --like to list them all.")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("site", "shape", "bytes/token", "meaning"):
        table.add_column(column, no_wrap=column != "meaning", justify="right" if column == "bytes/token" else "left")
    for info in shown:
        cells = (info.site.name, " × ".join(map(str, info.shape)), f"{info.bytes_per_token:,}", info.site.meaning)
        table.add_row(*(Text(cell) for cell in cells))
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    console.print(Text(spec.short.rpartition(" on ")[0]))
    console.print(table)
    typer.echo(f"\nThe same in layers 0 to {spec.n_layers - 1}; 'blocks.*.hook_resid_post' means all of them.")


def verify() -> None:
    """Run the known answers on this machine: planted mechanisms found, stale caches missed, silent edits refused."""
    from interp.verify import report, run

    outcomes = run()
    report.show(outcomes)
    raise typer.Exit(report.status(outcomes))


@reference.command("ls", short_help="List them and where they are.")
def reference_ls() -> None:
    """List the embedded checkpoints and where they are."""
    from interp.core.errors import CheckpointError
    from interp.models import reference as embedded

    for name in embedded.names():
        try:
            where = str(embedded.path(name))
        except CheckpointError:
            where = "not in this installation"
        typer.echo(f"{name:<14}{where}")


@reference.command("show", short_help="Print a model card.")
def reference_show(name: Annotated[str, typer.Argument(help="atlas or atlas-tuned.")] = "atlas") -> None:
    """Print the model card of an embedded checkpoint: what it was trained on, what it knows, how well."""
    from interp.models import reference as embedded

    text = (embedded.path(name) / "README.md").read_text(encoding="utf-8")
    if not sys.stdout.isatty():
        typer.echo(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))


@reference.command("train", short_help="Train them again (about an hour on two cores).")
def reference_train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write `atlas` and `atlas-tuned` into.")],
    seed: Annotated[int, typer.Option(help="Seed of the world and of the training.")] = 0,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads; the committed files were made with the default.")
    ] = 1,
) -> None:
    """Generate the world and train the reference checkpoints again (about half an hour on one core; resumes if interrupted)."""
    from interp.models.reference.train import train

    train(output, seed=seed, threads=threads, report=typer.echo)
    typer.echo(f"wrote {output / 'atlas'} and {output / 'atlas-tuned'}")
