"""Every refusal of the workbench, by name.

A message repeats what the caller wrote, lists what would have been legal and ends with what to do.
The command line prints `InterpError`s as one message with exit code 2; anything else is a bug of ours and keeps its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class InterpError(Exception):
    """Base of every refusal. Catch this to catch them all."""


class BadInput(InterpError, ValueError):
    """An argument, an option or a file cannot be what the caller meant."""


class UnknownSite(InterpError, KeyError):
    """A site that this model does not have, or that is not a site at all."""

    def __str__(self) -> str:
        return str(self.args[0])


class EditDidNotFire(InterpError, RuntimeError):
    """An edit changed nothing because its site, row or position was never reached."""


class CaptureEmpty(InterpError, RuntimeError):
    """A capture that was asked for holds nothing."""


class UnsupportedArchitecture(InterpError, NotImplementedError):
    """A checkpoint of a family that the workbench has not been proven on."""


class CheckpointError(InterpError, OSError):
    """A checkpoint that cannot be read: no weights, truncated, NaN, tokenizer mismatch."""


class SpanError(BadInput):
    """A named span that is not in its prompt, or that cannot be aligned to tokens."""


class RaggedPair(BadInput):
    """Two prompts of a pair whose tokens do not line up."""


class StoreError(InterpError, OSError):
    """The activation store cannot do what was asked: disk full, read-only, locked."""


class CorruptShard(StoreError):
    """Stored bytes that are not the bytes that were written."""


class ArtifactError(InterpError, OSError):
    """A saved result or dictionary that cannot be read, or would be overwritten."""


class WrongModel(InterpError, ValueError):
    """An artefact that belongs to another model than the one at hand."""


class Diverged(InterpError, ArithmeticError):
    """A training whose loss is not finite any more."""


class RankLost(InterpError, RuntimeError):
    """Another process of the same run ended, did not answer in time, or runs something else."""


def one_of(name: str, value: object, options: Iterable[object]) -> None:
    """Raise `BadInput` unless `value` is among `options`, in the one fixed phrasing."""
    legal = list(options)
    if value in legal:
        return
    raise BadInput(f"`{name}` must be one of {listing(legal)}; not {value!r}.{hint(value, legal)}")


def listing(options: Iterable[object]) -> str:
    """`'a', 'b' or 'c'`."""
    words = [repr(option) for option in options]
    if not words:
        return "nothing"
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def hint(word: object, options: Iterable[object]) -> str:
    """` Did you mean 'x'?`, or an empty string where nothing is close."""
    close = get_close_matches(str(word), [str(option) for option in options], n=3, cutoff=0.6)
    return f" Did you mean {listing(close)}?" if close else ""
