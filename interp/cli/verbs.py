"""From a row of `METHODS` to a verb that runs: options, models, data, the call, and what is shown and saved after it."""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .methods import METHODS, Method
from .models import Backend, Device, DryRun, Dtype, Model
from .running import Figure, Overwrite, Paper, check_outputs, finish, load, run, say_cost
from .sources import Source, without

if TYPE_CHECKING:
    from interp.core.analysis import Analysis

Other = Annotated[str, typer.Argument(metavar="OTHER", help="The model to compare with, written as MODEL is.")]
Clean = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="A model that never knew it, written as MODEL is: what forgetting should give."),
]

Others = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL",
        help="A further model that the dictionary reads (crosscoders), written as MODEL is; may be repeated.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Register a verb for every row. Options are read off the analysis when its verb is asked for."""
    for method in METHODS:
        app.command(
            name=method.verb,
            short_help=method.help,
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
        )(_verb(method))


def _verb(method: Method) -> Any:
    def verb(context: typer.Context) -> None:
        from .derive import with_options

        module, _, name = method.analysis.partition(":")
        analysis = getattr(importlib.import_module(module), name)
        left_out: tuple[str, ...] = () if method.two_models else ("other",)
        left_out += () if method.clean else ("clean",)
        left_out += () if method.others else ("others",)
        command = with_options(
            _command(method, analysis), analysis, without=(*left_out, *without(analysis.may_take or analysis.takes))
        )
        run(command, f"interp {method.verb}", context.args)

    verb.__doc__ = method.essay
    return verb


def _command(method: Method, kind: "type[Analysis]") -> Callable[..., None]:
    said = [field.name for field in fields(Source)]

    def command(
        model: Model,
        other: Other = ...,  # type: ignore[assignment]
        clean: Clean = None,
        others: Others = None,
        output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to save the result in.")] = None,
        figure: Figure = None,
        paper: Paper = False,
        overwrite: Overwrite = False,
        backend: Backend = "transformer_lens",
        device: Device = "auto",
        dtype: Dtype = "auto",
        dry_run: DryRun = False,
        **options: Any,
    ) -> None:
        names = [model, other] if method.two_models else [model]
        source = Source(**{name: options.pop(name) for name in said if name in options})
        _go(
            method, kind, (names, clean, others or []), options, source, output=output, figure=figure, paper=paper, overwrite=overwrite,
            how=(backend, device, dtype), dry_run=dry_run,
        )  # fmt: skip

    signature = inspect.signature(command)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    data = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(Source)
    ]
    rest = inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD, annotation=Any)
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[own[0], own[1], *data, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own[2:]), rest]
    )
    command.__doc__ = method.essay
    return command


def _go(
    method: Method,
    kind: "type[Analysis]",
    models: "tuple[list[str], str | None, list[str]]",
    options: dict[str, Any],
    source: Source,
    *,
    output: Path | None,
    figure: Path | None,
    paper: bool,
    overwrite: bool,
    how: tuple[Any, str, str],
    dry_run: bool,
) -> None:
    from .derive import build

    analysis: Any = build(kind, options)
    check_outputs(output, figure, overwrite)
    names, clean, others = models
    asked = others[-1] if others else names[0] if method.knows == "first" else names[-1]
    found = source.early(asked, analysis.takes, optional=analysis.optional)
    loaded = [load(name, *how) for name in names]
    given = source.late(loaded[-1], asked, analysis.takes, found)
    if dry_run:
        say_cost(analysis.cost(*loaded, given), loaded[0])
        return
    extra: dict[str, Any] = {} if clean is None else {"clean": load(clean, *how)}
    if others:
        extra["others"] = [load(name, *how) for name in others]
    finish(lambda: analysis(*loaded, given, **extra), output=output, figure=figure, paper=paper, overwrite=overwrite)
