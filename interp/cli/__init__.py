"""`interp …`: one verb a noun; the options of a method are the fields of its config.

    interp report atlas -o report/            interp sites gpt2 --like attn
    interp trace gpt2 --facts facts.jsonl     interp capture gpt2 --text corpus.txt --sites 'blocks.*.hook_resid_post'
    interp cache ls                           interp verify

A refusal is one readable message and exit code 2; its traceback appears with `--debug`. Help needs neither torch nor a backend.
"""

import re
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from interp.cli import cache, dictionary, models, ranks, runs, train

app = typer.Typer(
    name="interp",
    help="Look inside transformer checkpoints. MODEL: a Hugging Face name, org/model@revision, a folder, `atlas` or `atlas-tuned`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
runs.add_to(app)
models.add_to(app)
train.add_to(app)
app.add_typer(dictionary.app, name="dictionary")
app.add_typer(cache.app, name="cache")
app.add_typer(models.reference, name="reference")


def _say_version(wanted: bool) -> None:
    if wanted:
        from interp import __version__

        typer.echo(f"interp {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", is_eager=True, callback=_say_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and warnings. Allowed anywhere.")] = False,
) -> None:
    """Take the options of every verb. (`main` has acted on `--debug` before this is reached.)"""
    del version, debug


_SPELT = re.compile(r"`?\b(answers|backend|device|dtype|corruption|skip_bad)=(?:'(\w+)'|True)`?")
"""Advice that messages give in Python, to be given as options here."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the entry point of the console script `interp`. Leaves by `SystemExit`, with code 2 for a refusal."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in given if word != "--debug"]
    debug = len(words) < len(given)
    try:
        with warnings.catch_warnings(), ranks.one_voice():
            if not debug:
                _soften_warnings()
            ranks.check(words)
            app(args=words, prog_name="interp")
    except KeyboardInterrupt as error:
        if not ranks.told_by_the_first(error):
            _complain("interrupted; nothing half written was left behind.")
        raise SystemExit(130) from None
    except Exception as error:
        message = None if debug else refusal(error)
        if message is None:
            raise
        if not ranks.told_by_the_first(error):
            _complain(message)
        raise SystemExit(2) from None


def refusal(error: Exception) -> str | None:
    """What to tell the user; None for a bug of ours, which keeps its traceback."""
    from interp.core.errors import InterpError

    if isinstance(error, InterpError):
        return _SPELT.sub(
            lambda match: f"--{match[1].replace('_', '-')}" + (f" {match[2]}" if match[2] else ""), str(error)
        )
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        where = f": {str(error.filename)!r}" if error.filename else ""
        return f"{error.strerror}{where}. Check the path, its permissions and the space on its disk."
    return None


def _soften_warnings() -> None:
    """Warnings for people as one line each; those for programmers not at all."""
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", category=UserWarning, module=r"interp(\.|$)")

    def show(message: Any, *_: Any, **__: Any) -> None:
        _say("note: ", "yellow", str(message))

    warnings.showwarning = show


def _complain(message: str) -> None:
    _say(f"interp (process {ranks.rank()}): " if ranks.rank() else "interp: ", "bold red", message)


def _say(head: str, style: str, message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    console.print(Text(head, style=style).append(Text(message, style="default")))
