"""Verbs that run something on a model: `report`, `trace`, `capture`; and `open`, which shows what was saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .models import Backend, Device, DryRun, Dtype, Model
from .sizes import parse_size

if TYPE_CHECKING:
    from interp.core.analysis import Analysis, Result
    from interp.core.lm import LM

Facts = Annotated[
    Path | None, typer.Option(help="Facts: ROME's known-facts JSON, or JSONL with text, subject, answer.")
]
Text = Annotated[
    Path | None, typer.Option(help="Running text: .txt, .jsonl, .json, a folder of .txt or a `datasets` folder.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out facts that cannot be used, and say how many.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output folder if it exists.")]
Figure = Annotated[Path | None, typer.Option(help="Draw it: a path ending in .html, .svg, .pdf, .png or .json.")]
Paper = Annotated[bool, typer.Option("--paper", help="Draw in the paper theme: 8 pt, vector, a venue's width.")]

WIDE_MODEL = 512
"""Width of the residual stream from which several threads pay."""


def add_to(app: typer.Typer) -> None:
    """Register the verbs. `trace` gets its options from the analysis when it is asked for."""
    app.command(short_help="Write a report card of a checkpoint: page, figures, tables.")(report)
    app.command(
        name="trace",
        short_help="Causal tracing: find where a model keeps its facts.",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    )(trace)
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
        given["facts"] = _facts_for(model, facts, max_facts, skip_bad)
    if text is None and model in reference.names():
        given["text"] = reference.text(model)
    job = Report(**given, seed=seed, static=static, max_facts=max_facts, max_tokens=max_tokens)
    shared = Store(say=typer.echo) if store else None
    lm = _load(model, backend, device, dtype)
    if dry_run:
        _say_cost(job.cost(lm), lm)
        if shared is not None:
            typer.echo(f"in the store: {job.preview(lm, shared)}")
        return
    named = [f"--{name} {path.name}" for name, path in (("facts", facts), ("text", text)) if path is not None]
    command = " ".join(["interp report", lm.spec.name, *named, "-o", output.name])
    page = job.write(lm, output, store=shared, overwrite=overwrite, command=command)
    typer.echo(f"wrote {page}")


def trace(context: typer.Context) -> None:
    """Causal tracing: which states, restored after the subject is corrupted, bring the fact back?"""
    from interp.analyses.tracing import CausalTrace

    from .derive import build, with_options

    def command(
        model: Model,
        facts: Facts = None,
        skip_bad: SkipBad = False,
        output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to save the result in.")] = None,
        figure: Figure = None,
        paper: Paper = False,
        limit: Annotated[int, typer.Option(min=1, help="Use at most so many facts.")] = 100,
        overwrite: Overwrite = False,
        backend: Backend = "transformer_lens",
        device: Device = "auto",
        dtype: Dtype = "auto",
        dry_run: DryRun = False,
        **options: Any,
    ) -> None:
        analysis = build(CausalTrace, options)
        _check_outputs(output, figure, overwrite)
        given = _facts_for(model, facts, limit, skip_bad)
        lm = _load(model, backend, device, dtype)
        if dry_run:
            _say_cost(analysis.cost(lm, given), lm)
            return
        _finish(analysis, lm, given, output=output, figure=figure, paper=paper, overwrite=overwrite)

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
    limit_tokens: Annotated[int | None, typer.Option(min=2, help="Use at most so many tokens.")] = None,
    max_disk: Annotated[str | None, typer.Option(help="Refuse to let the store grow beyond this: 20GB.")] = None,
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
    from interp.models import reference

    if text is not None and facts is not None:
        raise BadInput("capture reads one thing at a time: give --text or --facts, not both.")
    if text is None and facts is None and model not in reference.names():
        raise BadInput("capture needs tokens: give --text FILE or --facts FILE.")
    names = [name.strip() for name in sites.split(",") if name.strip()]
    share, room = _share(shard), parse_size("--max-disk", max_disk)
    source: Any = [prompt.text for prompt in data.facts(facts)] if facts is not None else text
    if source is None:
        source = reference.text(model)
    lm = _load(model, backend, device, dtype)
    what = data.corpus(source, lm.tokenizer, n_ctx=lm.spec.n_ctx, limit_tokens=limit_tokens)
    store = Store(max_disk=room, say=typer.echo)
    if dry_run:
        preview = store.preview(lm, what, names, dtype=stored_dtype, shard=share)
        seconds = preview.forward_tokens / _rate(lm)
        typer.echo(preview.describe() + (f", about {seconds:,.0f} s" if preview.forward_tokens else ""))
        return
    typer.echo(repr(store.capture(lm, what, names, dtype=stored_dtype, shard=share)))


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
    _check_outputs(None, figure, overwrite=False)
    if table is not None:
        one_of("--table ending", table.suffix, (".csv", ".parquet"))
        _check_folder("--table", table)
    result = open_result(folder)
    _show(result)
    if figure is not None:
        _draw(result, figure, paper)
    if table is not None:
        frame = result.to_frame()
        frame.to_csv(table, index=False) if table.suffix == ".csv" else frame.to_parquet(table, index=False)
        typer.echo(f"wrote {table}")


def _run(command: Any, name: str, arguments: Sequence[str]) -> None:
    inner = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    inner.command()(command)
    inner(args=list(arguments), prog_name=name)


def _load(model: str, backend: Any, device: str, dtype: str) -> "LM":
    """Load a model and say what it is. Small models run on one thread: their threads would only wait for each other."""
    import torch

    from interp.models.load import load

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lm = load(model, backend=backend, device=device, dtype=dtype)
    if lm.spec.d_model >= WIDE_MODEL:
        torch.set_num_threads(threads)
    typer.echo(repr(lm), err=True)
    return lm


def _facts_for(model: str, facts: Path | None, limit: int, skip_bad: bool) -> list[Any]:
    from interp import data
    from interp.core.errors import BadInput
    from interp.models import reference

    if facts is not None:
        found = data.facts(facts, limit=limit, skip_bad=skip_bad)
        if found.skipped:
            typer.echo(f"left out {len(found.skipped)} facts; the first: {found.skipped[0]}", err=True)
        return found
    if model in reference.names():
        return reference.facts(model, limit)
    raise BadInput(
        f"tracing {model!r} needs facts: give --facts FILE (ROME's known-facts JSON, or JSONL with text, subject, answer)."
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
    _show(result)
    if figure is not None:
        _draw(result, figure, paper)
    if output is not None:
        result.save(output, overwrite=overwrite)
        typer.echo(f"wrote {output}")


def _show(result: "Result") -> None:
    typer.echo(repr(result))
    for name, value in result.headline().items():
        typer.echo(f"  {name}: {value:.4g}")
    typer.echo(f"  {result.manifest.line}")


def _draw(result: Any, path: Path, paper: bool) -> None:
    from interp.figures import export

    export.save(result.plot(theme="paper" if paper else "screen"), path)
    typer.echo(f"wrote {path}")


def _check_outputs(output: Path | None, figure: Path | None, overwrite: bool) -> None:
    """Refuse, before anything is computed, what could not be written after it."""
    from interp.core.errors import ArtifactError, one_of

    if output is not None and output.exists() and not overwrite:
        raise ArtifactError(f"{str(output)!r} exists. Give another --output, or --overwrite to replace it.")
    if figure is not None:
        from interp.figures import export

        one_of("--figure ending", figure.suffix.lstrip(".").lower(), export.FORMATS)
        _check_folder("--figure", figure)
        if figure.suffix.lstrip(".").lower() in export.STATIC:
            export.check_browser()


def _check_folder(option: str, path: Path) -> None:
    from interp.core.errors import BadInput

    if not path.absolute().parent.is_dir():
        raise BadInput(f"the folder of {option} {str(path)!r} does not exist. Make it first.")


def _share(text: str | None) -> tuple[int, int] | None:
    from interp.core.errors import BadInput

    if text is None:
        return None
    first, _, second = text.partition("/")
    if not (first.isdigit() and second.isdigit() and int(first) < int(second)):
        raise BadInput(f"--shard {text!r}: write I/N with 0 <= I < N, for example 0/4.")
    return int(first), int(second)


def _say_cost(cost: Any, lm: "LM") -> None:
    rate = _rate(lm)
    typer.echo(f"{cost} · about {cost.seconds(rate):,.0f} s at {rate:,.0f} tokens/s")


def _rate(lm: "LM") -> float:
    """Tokens a second of this model on this machine: the best of three small batches, without cold start or busy moment."""
    import time

    width = min(64, lm.spec.n_ctx)
    tokens = [[(7 * row + place) % lm.spec.vocab for place in range(width)] for row in range(4)]
    spent = []
    for _ in range(3):
        start = time.perf_counter()
        lm.run(tokens)
        spent.append(time.perf_counter() - start)
    return 4 * width / min(spent)
