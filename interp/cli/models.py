"""Verbs about a model itself: `sites`, `verify`, `reference`."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Argument(help="A Hugging Face name, org/model@revision, a local folder, `atlas` or `atlas-tuned`.")
]
Backend = Annotated[str, typer.Option(help="Who answers: transformer_lens or nnsight.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="auto (the checkpoint's own), float32, bfloat16, float16.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say bytes, forward passes and time, then stop.")]

reference = typer.Typer(
    help="The embedded reference checkpoints: list them, show one, train them again.", no_args_is_help=True
)


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command()(sites)
    app.command()(verify)


def sites(
    model: Model,
    like: Annotated[str | None, typer.Option(help="Only sites whose name contains this.")] = None,
    layer: Annotated[int, typer.Option(help="The layer to show; every layer has the same sites.")] = 0,
) -> None:
    """List a model's sites: name, shape a token, bytes a token, meaning. Reads the config only."""
    from rich.console import Console
    from rich.table import Table

    from interp.core.site import sites_of
    from interp.models.load import spec_of_checkpoint

    spec = spec_of_checkpoint(model)
    table = Table(title=spec.short, title_justify="left", box=None, pad_edge=False)
    for column in ("site", "shape", "bytes/token", "meaning"):
        table.add_column(column, no_wrap=column != "meaning", justify="right" if column == "bytes/token" else "left")
    shown = 0
    for info in sites_of(spec):
        if (info.site.layer in (None, layer)) and (like is None or like in info.site.name):
            shown += 1
            table.add_row(
                info.site.name, " × ".join(map(str, info.shape)), f"{info.bytes_per_token:,}", info.site.meaning
            )
    if not shown:
        from interp.core.errors import BadInput

        raise BadInput(f"no site of layer {layer} contains {like!r}. `interp sites {model}` lists them all.")
    Console(soft_wrap=False).print(table)
    typer.echo(
        f"\nThe same in every layer, 0 to {spec.n_layers - 1}; write `blocks.*.hook_resid_post` for all of them."
    )


def verify() -> None:
    """Run the known answers on this machine: planted mechanisms found, stale caches missed, silent edits refused."""
    from interp.verify import report, run

    outcomes = run()
    report.show(outcomes)
    if not all(outcome.ok for outcome in outcomes):
        raise typer.Exit(1)


@reference.command("ls")
def reference_ls() -> None:
    """List the embedded checkpoints and where they are."""
    from interp.models import reference as embedded

    for name in embedded.names():
        typer.echo(f"{name:<14}{embedded.path(name)}")


@reference.command("show")
def reference_show(name: Annotated[str, typer.Argument(help="atlas or atlas-tuned.")] = "atlas") -> None:
    """Print the model card of an embedded checkpoint: what it was trained on, what it knows, how well."""
    from interp.models import reference as embedded

    typer.echo((embedded.path(name) / "README.md").read_text(encoding="utf-8"))


@reference.command("train")
def reference_train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write `atlas` and `atlas-tuned` into.")],
    seed: Annotated[int, typer.Option(help="Seed of the world and of the training.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; the committed files were made with the default.")] = 1,
) -> None:
    """Generate the world and train the reference checkpoints again (about an hour on two cores; resumes if interrupted)."""
    from interp.models.reference.train import train

    train(output, seed=seed, threads=threads)
