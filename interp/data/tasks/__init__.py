"""Tasks: pairs of prompts with known answers, generated for any tokenizer.

    from interp.data import tasks
    tasks.NAMES                                        # what there is
    task = tasks.named("ioi", lm.tokenizer, n=10)      # a list of PromptPairs, for every method that takes pairs
    task.chance, task.vital, task.describe

Every pair is checked in the given tokenizer: as many tokens on both sides, every named span in the same columns, answers of one token.
Prompts differ from one another and follow from `seed` and the task's name. Words come from a `Lexicon`, whose English
defaults can be replaced pool by pool.
"""

from collections.abc import Callable
from typing import Any

from interp.core.errors import one_of
from interp.core.lm import Tokenizer

from .ioi import ioi
from .lexicon import Lexicon
from .task import Desiderata, Desideratum, Task

_MAKERS: dict[str, Callable[..., Task]] = {"ioi": ioi}
NAMES = tuple(_MAKERS)
"""Names of the tasks that `named` makes."""


def named(
    name: str, tokenizer: Tokenizer, *, n: int = 100, seed: int = 0, lexicon: Lexicon | None = None, **options: Any
) -> Task:
    """The task called `name` with `n` pairs; `options` are those of its maker (`help(tasks.ioi)`)."""
    one_of("task", name, NAMES)
    return _MAKERS[name](tokenizer, n=n, seed=seed, lexicon=lexicon, **options)


__all__ = ["NAMES", "Desiderata", "Desideratum", "Lexicon", "Task", "ioi", "named"]
