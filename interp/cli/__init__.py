"""`interp …`: one verb a noun; the options of a method are the fields of its config.

    interp report atlas -o report/            interp sites gpt2 --like attn
    interp trace gpt2 --facts facts.jsonl     interp capture gpt2 --text corpus.txt --sites 'blocks.*.hook_resid_post'
    interp cache ls                           interp verify

A refusal is one readable message and exit code 2; its traceback appears with `--debug`. Help needs neither torch nor a backend.
"""

import sys

import typer

from interp.cli import cache, models, runs

app = typer.Typer(
    name="interp",
    help="Look inside transformer checkpoints. MODEL: a Hugging Face name, org/model@revision, a folder, `atlas` or `atlas-tuned`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models.add_to(app)
runs.add_to(app)
app.add_typer(cache.app, name="cache")
app.add_typer(models.reference, name="reference")


def main() -> None:
    """Run the command line; the entry point of the console script `interp`."""
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        app(args=arguments, prog_name="interp")
    except KeyboardInterrupt:
        _complain("interrupted")
        raise SystemExit(130) from None
    except Exception as error:
        from interp.core.errors import InterpError

        if debug or not isinstance(error, InterpError):
            raise
        _complain(str(error))
        raise SystemExit(2) from None


def _complain(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(
        Text("interp: ", style="bold red").append(Text(message, style="default"))
    )
