"""Verbs that run something on a model: `report`, `trace`, `capture`; and `open`, which shows what was saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .models import Backend, Device, DryRun, Dtype, Model

if TYPE_CHECKING:
    from interp.core.analysis import Analysis
    from interp.core.lm import LM

Facts = Annotated[
    Path | None, typer.Option(help="Facts: ROME's known-facts JSON or JSONL with prompt, subject, answer.")
]
Text = Annotated[
    Path | None, typer.Option(help="Running text: .txt, .jsonl, .json, a folder of .txt or a `datasets` folder.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output folder if it exists.")]


def add_to(app: typer.Typer) -> None:
    """Register the verbs. `trace` gets its options from the analysis when it is asked for."""
    app.command()(report)
    app.command(
        name="trace",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    )(trace)
    app.command()(capture)
    app.command(name="open")(open_)


def report(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("report"),
    facts: Facts = None,
    text: Text = None,
    overwrite: Overwrite = False,
    backend: Backend = "transformer_lens",
    device: Device = "auto",
    dtype: Dtype = "auto",
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    static: Annotated[bool, typer.Option(help="Also export SVG and PDF where a Chromium is found.")] = True,
    dry_run: DryRun = False,
) -> None:
    """The whole battery on one checkpoint: a page, figures, tables, a manifest."""
    from interp.cache import Store
    from interp.models.load import load
    from interp.report import Report

    job = Report(facts=facts, text=text, seed=seed, static=static)
    job.check(output, overwrite=overwrite)
    lm = load(model, backend=backend, device=device, dtype=dtype)
    typer.echo(lm.fidelity().line)
    if dry_run:
        _say_cost(job.cost(lm), lm)
        return
    page = job.write(lm, output, store=Store(), overwrite=overwrite)
    typer.echo(f"wrote {page}")


def trace(context: typer.Context) -> None:
    """Causal tracing: which states, restored after the subject is corrupted, bring the fact back?"""
    from interp.analyses.tracing import CausalTrace

    from .derive import build, with_options

    def command(
        model: Model,
        facts: Facts = None,
        output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to save the result in.")] = None,
        figure: Annotated[
            Path | None, typer.Option(help="Also draw it: a path ending in .html, .svg, .pdf, .png or .json.")
        ] = None,
        paper: Annotated[bool, typer.Option("--paper", help="Draw the figure in the paper theme.")] = False,
        limit: Annotated[int, typer.Option(help="Use at most so many facts.")] = 100,
        overwrite: Overwrite = False,
        backend: Backend = "transformer_lens",
        device: Device = "auto",
        dtype: Dtype = "auto",
        dry_run: DryRun = False,
        **options: Any,
    ) -> None:
        analysis = build(CausalTrace, options)
        _check_outputs(output, figure, overwrite)
        from interp.models.load import load

        lm = load(model, backend=backend, device=device, dtype=dtype)
        prompts = _facts_for(lm, model, facts)[:limit]
        if dry_run:
            _say_cost(analysis.cost(lm, prompts), lm)
            return
        _finish(analysis, lm, prompts, output=output, figure=figure, paper=paper, overwrite=overwrite)

    command.__doc__ = trace.__doc__
    _run(with_options(command, CausalTrace), "interp trace", context.args)


def capture(
    model: Model,
    sites: Annotated[str, typer.Option(help="Sites, comma separated; `*` is any layer.")],
    text: Text = None,
    facts: Facts = None,
    stored_dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; the model's own if not given.")
    ] = None,
    limit_tokens: Annotated[int | None, typer.Option(help="Use at most so many tokens.")] = None,
    max_disk_gb: Annotated[float | None, typer.Option(help="Refuse to let the store grow beyond this.")] = None,
    shard: Annotated[
        str | None, typer.Option(help="I/N: write only the I-th of N shares, from 0, for several processes.")
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
    from interp.models.load import load

    if (text is None) == (facts is None):
        raise BadInput("capture needs tokens: give --text FILE or --facts FILE (one of them).")
    names = [name.strip() for name in sites.split(",") if name.strip()]
    share = _share(shard)
    lm = load(model, backend=backend, device=device, dtype=dtype)
    if text is not None:
        what: Any = data.corpus(text, lm.tokenizer, n_ctx=lm.spec.n_ctx, limit_tokens=limit_tokens)
    else:
        what = data.corpus(
            [prompt.text for prompt in data.facts(facts)], lm.tokenizer, n_ctx=lm.spec.n_ctx, limit_tokens=limit_tokens
        )
    store = Store(max_disk=None if max_disk_gb is None else int(max_disk_gb * 1e9))
    typer.echo(store.preview(lm, what, names, dtype=stored_dtype).describe())
    if not dry_run:
        typer.echo(store.capture(lm, what, names, dtype=stored_dtype, shard=share).describe())


def open_(
    folder: Annotated[Path, typer.Argument(help="A folder that an analysis was saved in.")],
    figure: Annotated[
        Path | None, typer.Option(help="Draw it: a path ending in .html, .svg, .pdf, .png or .json.")
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Draw in the paper theme.")] = False,
    table: Annotated[Path | None, typer.Option(help="Write the long table: a path ending in .csv or .parquet.")] = None,
) -> None:
    """Show a saved result: what it is, its numbers, where they come from; draw or tabulate it."""
    from interp.core.artifact import open_result

    result = open_result(folder)
    typer.echo(repr(result))
    for name, value in result.headline().items():
        typer.echo(f"  {name}: {value:.4g}")
    if figure is not None:
        _draw(result, figure, paper)
    if table is not None:
        from interp.core.errors import one_of

        one_of("table ending", table.suffix, (".csv", ".parquet"))
        frame = result.to_frame()
        frame.to_csv(table, index=False) if table.suffix == ".csv" else frame.to_parquet(table, index=False)
        typer.echo(f"wrote {table}")


def _run(command: Any, name: str, arguments: Sequence[str]) -> None:
    inner = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
    )
    inner.command()(command)
    inner(args=list(arguments), prog_name=name)


def _facts_for(lm: "LM", model: str, facts: Path | None) -> list[Any]:
    from interp import data
    from interp.core.errors import BadInput
    from interp.models import reference

    if facts is not None:
        return data.facts(facts)
    if model in reference.names():
        return reference.facts(model)
    raise BadInput(
        f"tracing {model!r} needs facts: give --facts FILE (ROME's known-facts JSON, or JSONL with prompt, subject, answer)."
    )


def _finish(
    analysis: "Analysis",
    lm: "LM",
    given: Any,
    *,
    output: Path | None,
    figure: Path | None,
    paper: bool,
    overwrite: bool,
) -> None:
    result = analysis(lm, given)
    typer.echo(repr(result))
    for name, value in result.headline().items():
        typer.echo(f"  {name}: {value:.4g}")
    if figure is not None:
        _draw(result, figure, paper)
    if output is not None:
        result.save(output, overwrite=overwrite)
        typer.echo(f"wrote {output}")


def _draw(result: Any, path: Path, paper: bool) -> None:
    from interp.figures import export

    export.save(result.plot(theme="paper" if paper else "screen"), path)
    typer.echo(f"wrote {path}")


def _check_outputs(output: Path | None, figure: Path | None, overwrite: bool) -> None:
    from interp.core.errors import ArtifactError, BadInput

    if output is not None and output.exists() and not overwrite:
        raise ArtifactError(f"{str(output)!r} exists. Give another --output, or --overwrite to replace it.")
    if figure is not None and not figure.parent.is_dir():
        raise BadInput(f"the folder of --figure {str(figure)!r} does not exist. Make it first.")


def _share(text: str | None) -> tuple[int, int] | None:
    from interp.core.errors import BadInput

    if text is None:
        return None
    first, _, second = text.partition("/")
    if not (first.isdigit() and second.isdigit() and int(first) < int(second)):
        raise BadInput(f"--shard {text!r}: write I/N with 0 <= I < N, for example 0/4.")
    return int(first), int(second)


def _say_cost(cost: Any, lm: "LM") -> None:
    import time

    rows, width = 4, min(32, lm.spec.n_ctx)
    tokens = [[(7 * row + place) % lm.spec.vocab for place in range(width)] for row in range(rows)]
    lm.run(tokens)
    start = time.perf_counter()
    lm.run(tokens)
    rate = rows * width / (time.perf_counter() - start)
    typer.echo(f"{cost} · about {cost.seconds(rate):,.0f} s at {rate:,.0f} tokens/s")
