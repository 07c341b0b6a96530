"""What every verb that runs something shares: its options, loading a model, checking outputs before work, finishing after it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from interp.core.analysis import Result
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


def run(command: Any, name: str, arguments: Sequence[str]) -> None:
    """Read the arguments by the options of `command`, which were worked out only now, and call it."""
    inner = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    inner.command()(command)
    inner(args=list(arguments), prog_name=name)


def load(model: str, backend: Any, device: str, dtype: str) -> "LM":
    """Load a model and say what it is. Small models run on one thread: their threads would only wait for each other."""
    import torch

    from interp.models.load import load

    from .ranks import own_device

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lm = load(model, backend=backend, device=own_device(device), dtype=dtype)
    if lm.spec.d_model >= WIDE_MODEL:
        torch.set_num_threads(threads)
    typer.echo(repr(lm), err=True)
    return lm


def facts_for(model: str, facts: Path | None, limit: int, skip_bad: bool) -> list[Any]:
    """Facts from a file, or those of a reference checkpoint; says how many were left out."""
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


def finish(
    compute: "Callable[[], Result]",
    *,
    output: Path | None,
    figure: Path | None,
    paper: bool,
    overwrite: bool,
) -> None:
    """Compute, show, save and draw, in this order: a figure that is refused must not cost the numbers."""
    result = compute()
    show(result)
    if output is not None:
        result.save(output, overwrite=overwrite)
        typer.echo(f"wrote {output}")
    if figure is not None:
        draw(result, figure, paper)


def show(result: "Result") -> None:
    """Print what a result is, its numbers, its table where it has one, and where they come from."""
    typer.echo(repr(result))
    for name, value in result.headline().items():
        typer.echo(f"  {name}: {value:.4g}")
    for line in result.report_lines():
        typer.echo(f"  {line}")
    typer.echo(f"  {result.manifest.line}")


def draw(result: Any, path: Path, paper: bool) -> None:
    """Write the figure of a result; as .html its page, where it has one."""
    from interp.figures import export

    export.draw(result, path, theme="paper" if paper else "screen")
    typer.echo(f"wrote {path}")


def check_outputs(output: Path | None, figure: Path | None, overwrite: bool) -> None:
    """Refuse, before anything is computed, what could not be written after it."""
    from interp.core.errors import ArtifactError, one_of

    if output is not None and output.exists() and not overwrite:
        raise ArtifactError(f"{str(output)!r} exists. Give another --output, or --overwrite to replace it.")
    if output is not None:
        check_writable("--output", output)
    if figure is not None:
        from interp.figures import export

        one_of("--figure ending", figure.suffix.lstrip(".").lower(), export.FORMATS)
        check_folder("--figure", figure)
        if figure.suffix.lstrip(".").lower() in export.STATIC:
            export.check_browser()


def check_folder(option: str, path: Path) -> None:
    """Refuse a file whose folder is not there."""
    from interp.core.errors import BadInput

    if not path.absolute().parent.is_dir():
        raise BadInput(f"the folder of {option} {str(path)!r} does not exist. Make it first.")
    check_writable(option, path)


def check_writable(option: str, path: Path) -> None:
    """Refuse a path in whose nearest folder nothing can be made; tried with an empty folder that is taken away again."""
    from tempfile import TemporaryDirectory

    from interp.core.errors import BadInput

    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        with TemporaryDirectory(dir=nearest, prefix=".interp-"):
            pass
    except OSError as error:
        raise BadInput(
            f"{option} {str(path)!r} cannot be written: {error.strerror} in {str(nearest)!r}. Choose another place."
        ) from None


def say_cost(cost: Any, lm: "LM") -> None:
    """Print a cost with the time that it would take on this machine."""
    speed = rate(lm)
    typer.echo(f"{cost} · about {cost.seconds(speed):,.0f} s at {speed:,.0f} tokens/s")


def rate(lm: "LM") -> float:
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
