"""Verbs about saved dictionaries: `dictionary show`, `import`, `export`.

interp dictionary show runs/sae
interp dictionary export runs/sae --to sae_lens exported         # SAE.load_from_disk("exported")
interp dictionary import downloads/layer_20 runs/gemma --model google/gemma-2-2b --site blocks.20.hook_resid_post
"""

from pathlib import Path
from typing import Annotated

import typer

from .running import Overwrite

app = typer.Typer(
    help="Saved dictionaries: show, import from and export to other libraries.",
    short_help="Saved dictionaries: show, import, export.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(help="Folder of a dictionary, or of a training.")]


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
