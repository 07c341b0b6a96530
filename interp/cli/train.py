"""`interp train FAMILY MODEL...`: capture what a dictionary needs and train it; the options are the fields of the family and of `Training`.

    interp train sae atlas --latents 512 --k 16 --tokens 1000000 -o runs/sae
    interp train sae atlas --sweep k=8,16,32 -o runs/sweep                        # several on one pass over the data
    interp train crosscoder atlas atlas-tuned --dedicated 0.1 -o runs/cc          # then: interp diff atlas atlas-tuned --dictionary runs/cc
    torchrun --nproc-per-node 2 -m interp.cli train sae MODEL --text corpus.txt -o runs/sae

The same command goes on where it was interrupted.
"""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .models import Backend, Device, DryRun, Dtype, Model
from .running import Figure, Paper, Text, check_folder, draw, load, run, show
from .sizes import parse_size
from .sources import Source, Tokens

app = typer.Typer(
    help="Train dictionaries: SAEs, transcoders, crosscoders. MODEL is written as everywhere; all run on the shared activation store.",
    short_help="Train dictionaries: SAEs, transcoders, crosscoders.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

FAMILIES = {
    "sae": "A sparse autoencoder of one site.",
    "transcoder": "What an MLP adds, as a sparse function of what it reads.",
    "crosscoder": "One code for two models (MODEL is the base, OTHER the tuned one).",
    "layer-crosscoder": "One code for several layers of one model.",
    "token-crosscoder": "One code for neighbouring tokens.",
    "clt": "A cross-layer transcoder: what every MLP adds, by latents that write to later layers too.",
    "difference-sae": "A sparse autoencoder of what tuning changed (OTHER minus MODEL).",
}
"""Verbs of `interp train`; the same names as `interp.train.families.FAMILIES`."""
PROSE = 100_000
"""Tokens of a reference checkpoint's prose that are used where no limit is given."""
TAKEN = ("device",)
"""Fields of `Training` that another option gives."""

Other = Annotated[str, typer.Argument(metavar="OTHER", help="The second model, written as MODEL is.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder of the training; one that was interrupted is continued.")
]
Sweep = Annotated[
    str | None,
    typer.Option(help="One dictionary a value of an option of the family, on one pass: k=8,16,32.", metavar="NAME=A,B"),
]


def add_to(parent: typer.Typer) -> None:
    """Register `train` and its families. Options are read off the dataclasses when a verb is asked for."""
    for name, text in FAMILIES.items():
        app.command(
            name=name,
            short_help=text,
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
        )(_verb(name, text))
    parent.add_typer(app, name="train")


def _verb(name: str, text: str) -> Any:
    def verb(context: typer.Context) -> None:
        from interp.train.families import FAMILIES as KINDS
        from interp.train.training import Training

        kind = KINDS[name]
        two = kind().models > 1
        run(_command(kind, Training, two, text), f"interp train {name}", context.args)

    verb.__doc__ = text
    return verb


def _command(kind: Any, training: Any, two: bool, text: str) -> Any:
    from interp.core.options import options_of

    from .derive import parameter

    def command(
        model: Model,
        output: Output,
        other: Other = ...,  # type: ignore[assignment]
        text: Text = None,
        limit_tokens: Tokens = None,
        sweep: Sweep = None,
        heldout: Annotated[float, typer.Option(help="Share of the documents that is kept aside.")] = 0.05,
        skip_first: Annotated[int, typer.Option(min=0, help="First tokens of each document to leave out.")] = 0,
        massive: Annotated[
            Literal["keep", "skip"], typer.Option(help="Rows with more than 20 times the median norm.")
        ] = "keep",
        stored_dtype: Annotated[str | None, typer.Option(help="Dtype of the activations in the store.")] = None,
        max_disk: Annotated[str | None, typer.Option(help="Refuse to let the store grow beyond this: 20GB.")] = None,
        trainer: Annotated[
            Literal["interp", "sae_lens"], typer.Option(help="Who trains; sae_lens: SAEs of one site.")
        ] = "interp",
        architecture: Annotated[
            str, typer.Option(help="With --trainer sae_lens: an architecture that only SAELens trains, such as gated.")
        ] = "",
        shards: Annotated[
            int, typer.Option(min=1, help="Under torchrun: processes that share the latents of one dictionary.")
        ] = 1,
        figure: Figure = None,
        paper: Paper = False,
        backend: Backend = "transformer_lens",
        device: Device = "auto",
        dtype: Dtype = "auto",
        dry_run: DryRun = False,
        **options: Any,
    ) -> None:
        names = [model, other] if two else [model]
        _go(
            kind, training, names, Source(text=text, limit_tokens=limit_tokens), options, sweep, output=output, figure=figure,
            paper=paper, how=(backend, device, dtype), dry_run=dry_run, trainer=trainer, architecture=architecture,
            room=max_disk, shards=shards,
            data={"heldout": heldout, "skip_first": skip_first, "massive": massive, "dtype": stored_dtype},
        )  # fmt: skip

    signature = inspect.signature(command)
    parameters = list(signature.parameters.values())[:-1]
    first = [p for p in parameters if p.name == "model" or (two and p.name == "other")]
    rest = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters if p.name not in ("model", "other")]
    derived = [parameter(entry) for entry in options_of(kind)]
    derived += [parameter(entry) for entry in options_of(training) if entry.name not in TAKEN]

    def call(**arguments: Any) -> None:
        command(**({"other": ""} | arguments))

    call.__signature__ = signature.replace(parameters=[*first, *rest, *derived])  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in [*first, *rest, *derived]}
    call.__name__, call.__doc__ = "train", text
    return call


def _go(
    kind: Any,
    training: Any,
    names: list[str],
    source: Source,
    options: dict[str, Any],
    sweep: str | None,
    *,
    output: Path,
    figure: Path | None,
    paper: bool,
    how: tuple[Any, str, str],
    dry_run: bool,
    trainer: str,
    architecture: str,
    room: str | None,
    shards: int,
    data: dict[str, Any],
) -> None:
    from interp.cache import Store
    from interp.train import fit, plan
    from interp.train.distributed import Parallel

    from .derive import build

    _check(output, figure)
    families = _families(build(kind, options), sweep)
    if source.text is None and source.limit_tokens is None:
        source = replace(source, limit_tokens=PROSE)
    store = Store(max_disk=parse_size("--max-disk", room), say=lambda line: typer.echo(line, err=True))
    found = source.early(names[-1], "text")
    models = [load(name, *how) for name in names]
    corpus = source.late(models[-1], names[-1], "text", found)
    if dry_run:
        for family in families:
            typer.echo(plan(family, models, corpus, store).describe())
        return
    setting = build(training, options | {"device": models[0].spec.device})
    parallel = Parallel.from_environment(latents=shards)
    trained = fit(
        families, models, corpus, setting, store=store, folder=output, trainer=trainer, architecture=architecture,
        parallel=parallel, say=typer.echo, **data,
    )  # fmt: skip
    if not parallel.main:
        return
    for dictionary in trained.dictionaries:
        typer.echo(repr(dictionary))
    show(trained.result)
    typer.echo(f"wrote {output}")
    if figure is not None:
        draw(trained.result, figure, paper)


def _families(family: Any, sweep: str | None) -> list[Any]:
    """The family, or one for each value of the swept option."""
    from dataclasses import fields

    from interp.core.errors import BadInput, one_of

    if sweep is None:
        return [family]
    name, _, values = sweep.partition("=")
    name = name.strip().replace("-", "_")
    numbers = [entry.name for entry in fields(family) if isinstance(getattr(family, entry.name), int | float)]
    one_of("--sweep", name, numbers)
    whole = isinstance(getattr(family, name), int)
    try:
        given = [int(value) if whole else float(value) for value in values.split(",") if value.strip()]
    except ValueError:
        given = []
    if not given or len(set(given)) < len(given):
        raise BadInput(f"--sweep {sweep!r}: write NAME=A,B with different numbers, for example k=8,16,32.")
    return [replace(family, **{name: value}) for value in given]


def _check(output: Path, figure: Path | None) -> None:
    from interp.core.errors import one_of

    from .running import check_writable

    check_writable("--output", output)
    if figure is not None:
        from interp.figures import export

        one_of("--figure ending", figure.suffix.lstrip(".").lower(), export.FORMATS)
        check_folder("--figure", figure)
