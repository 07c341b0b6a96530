"""The checkpoint report card: what a researcher asks of a new checkpoint, in order, on one page.

    import interp
    lm = interp.load("atlas")
    interp.report(lm, "report", facts=interp.reference.facts("atlas"))     # report/index.html, figures/, tables/, manifest.json

It composes analyses and figures and computes nothing of its own; every number on the page is a row of `card.jsonl`, with what it was
measured on, its interval, and what the measure gives by chance.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .card import Report

if TYPE_CHECKING:
    from interp.core.lm import LM

__all__ = ["Report", "report"]


def report(lm: "LM", output: str | Path, *, store: Any = None, overwrite: bool = False, **options: Any) -> Path:
    """Write the report card of a model into the folder `output`; options are the fields of `Report`. Returns the page's path.

    With a `store` (`interp.Store()`), the text is captured there once and every section reads it from there.
    """
    return Report(**options).write(lm, output, store=store, overwrite=overwrite)


class _Callable(ModuleType):
    """`interp.report` is a function, and a package of that name: importing the package must not put it in the function's place."""

    def __call__(self, *arguments: Any, **options: Any) -> Path:
        return report(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
