"""Verbs about saved dictionaries: `dictionary show`, `structure`, `compare`, `import`, `export`.

    interp dictionary show runs/sae
    interp dictionary compare runs/seed-0 runs/seed-1                # does a second training find the same latents?
    interp dictionary export runs/sae --to sae_lens exported         # SAE.load_from_disk("exported")
    interp dictionary import downloads/layer_20 runs/gemma --model google/gemma-2-2b --site blocks.20.hook_resid_post

A folder is that of a dictionary, or of a training that holds one.
"""

from pathlib import Path
from typing import Annotated

import typer

from .running import Figure, Overwrite, Paper, check_outputs, finish

app = typer.Typer(
    help="Saved dictionaries: what they are, what their weights say, and to and from other libraries.",
    short_help="Saved dictionaries: show, structure, compare, import, export.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(help="Folder of a dictionary, or of a training.")]

Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder to save the result in.")]
Seed = Annotated[int, typer.Option(help="Of the random directions.")]


@app.command(short_help="Say what a dictionary is.")
def show(folder: Folder) -> None:
    """Say what a dictionary is: views, latents, rule, scalings, what it was trained on."""
    from interp.analyses.dictionaries.source import opened

    found = opened(folder)
    config = found.config
    typer.echo(repr(found))
    for side, views in (("reads", config.reads), ("writes", config.writes)):
        for view in views:
            low, high = config.range_of(view)
            scaling = found.scalings[view.name]
            span = "" if view.latents is None else f" · latents {low:,} to {high - 1:,}"
            minus = f" minus {view.minus}" if view.minus else ""
            shift = f" · token {view.offset:+d}" if view.offset else ""
            typer.echo(
                f"  {side} {view.name}: {view.model or 'a model that is not named'}{minus} {view.site or ''} · width {view.width:,} · "
                f"rows times {scaling.factor:.4g}{span}{shift}"
            )
    for name, size in config.groups:
        typer.echo(f"  group {name}: {size:,} latents")
    if config.activation == "batchtopk":
        typer.echo(f"  threshold: {', '.join(f'{value:.4g}' for value in found.threshold.tolist())}")
    for name in ("corpus", "tokens", "l0", "fvu"):
        if name in found.metadata:
            typer.echo(f"  {name}: {found.metadata[name]}")


@app.command(short_help="What the weights say: near twins, encoder against decoder.")
def structure(
    folder: Folder,
    output: Output = None,
    figure: Figure = None,
    paper: Paper = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> None:
    """Cosines within a dictionary: each latent's nearest other one, and its encoder against its decoder, beside random directions."""
    from interp.analyses.dictionaries.structure import structure as of

    check_outputs(output, figure, overwrite)
    finish(lambda: of(str(folder), seed=seed), output=output, figure=figure, paper=paper, overwrite=overwrite)


@app.command(short_help="Whether two dictionaries have the same latents.")
def compare(
    folder: Folder,
    other: Annotated[Path, typer.Argument(help="Another dictionary of the same site: a second seed, width or k.")],
    output: Output = None,
    figure: Figure = None,
    paper: Paper = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> None:
    """Match the latents of two dictionaries one to one by their decoder rows; beside what random directions match."""
    from interp.analyses.dictionaries.structure import consistency

    check_outputs(output, figure, overwrite)
    finish(
        lambda: consistency(str(folder), str(other), seed=seed), output=output, figure=figure, paper=paper,
        overwrite=overwrite,
    )  # fmt: skip


@app.command("import", short_help="Read a dictionary of another library and save it as ours.")
def import_(
    source: Annotated[Path, typer.Argument(help="Folder of a dictionary of another library.")],
    output: Annotated[Path, typer.Argument(help="Folder to save it in.")],
    format: Annotated[str, typer.Option(help="Of which library; `auto` looks at what the folder holds.")] = "auto",
    model: Annotated[
        str,
        typer.Option(help="The model it belongs to, or several by commas for several views, as `interp` calls them."),
    ] = "",
    site: Annotated[str, typer.Option(help="The site it belongs to, where the folder does not say.")] = "",
    site_out: Annotated[str, typer.Option(help="The site that a transcoder writes.")] = "",
    factor: Annotated[float | None, typer.Option(help="What rows of a SAELens folder were multiplied by.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Read a dictionary of SAELens, dictionary_learning, sparsify, Gemma Scope or circuit-tracer, and save it as ours."""
    from interp.train import formats

    names = [name.strip() for name in model.split(",") if name.strip()]
    found = formats.read(
        source, format, model=names[0] if len(names) == 1 else "", site=site, site_out=site_out, factor=factor
    )
    if len(names) > 1:
        found = formats.placed_by_view(found, names)
    found.save(output, overwrite=overwrite)
    typer.echo(repr(found))
    typer.echo(f"wrote {output}")


@app.command(short_help="Write a dictionary for another library.")
def export(
    folder: Folder,
    output: Annotated[Path, typer.Argument(help="Folder to write.")],
    to: Annotated[str, typer.Option(help="sae_lens, or circuit_tracer for cross-layer transcoders.")] = "sae_lens",
    overwrite: Overwrite = False,
) -> None:
    """Write a dictionary in another library's format; its scalings are folded, so that it encodes raw activations there."""
    from interp.analyses.dictionaries.source import opened
    from interp.train import formats

    formats.write(opened(folder), output, to, overwrite=overwrite)
    typer.echo(f"wrote {output}")
