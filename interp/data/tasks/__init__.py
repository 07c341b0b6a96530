"""Tasks: pairs of prompts with known answers, generated for any tokenizer.

    from interp.data import tasks
    tasks.NAMES                                        # what there is
    task = tasks.named("ioi", lm.tokenizer, n=10)      # a list of PromptPairs, for every method that takes pairs
    task.chance, task.vital, task.describe

Every pair is checked in the given tokenizer: as many tokens on both sides, every named span in the same columns, answers of one token.
Prompts differ from one another and follow from `seed` and the task's name. Words come from a `Lexicon`, whose English
defaults can be replaced pool by pool.
"""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from interp.core.errors import BadInput, hint, listing, one_of
from interp.core.lm import Tokenizer

from .agreement import agreement
from .boxes import box_desiderata, entity_tracking
from .ioi import ioi, ioi_desiderata
from .laundry import laundry_list, laundry_objects
from .lexicon import Lexicon
from .repeats import induction
from .swaps import facts_swapped
from .task import Desiderata, Desideratum, Task
from .years import greater_than

_MAKERS: dict[str, Callable[..., Task]] = {
    "ioi": ioi,
    "greater_than": greater_than,
    "entity_tracking": entity_tracking,
    "laundry_list": laundry_list,
    "agreement": agreement,
    "induction": induction,
}
_DESIDERATA: dict[str, Callable[..., Desiderata]] = {"ioi": ioi_desiderata, "entity_tracking": box_desiderata}
NAMES = tuple(_MAKERS)
"""Names of the tasks that `named` makes."""


def named(
    name: str, tokenizer: Tokenizer, *, n: int = 100, seed: int = 0, lexicon: Lexicon | None = None, **options: Any
) -> Task:
    """The task called `name` with `n` pairs; `options` are those of its maker (`help(tasks.ioi)`)."""
    one_of("task", name, NAMES)
    check_options(name, _MAKERS[name], options)
    return _MAKERS[name](tokenizer, n=n, seed=seed, lexicon=lexicon, **options)


def desiderata(
    name: str,
    tokenizer: Tokenizer,
    which: str,
    *,
    n: int = 100,
    seed: int = 0,
    lexicon: Lexicon | None = None,
    **options: Any,
) -> Desiderata:
    """`n` triples (base, source, target) of a task's variable `which`: object, label or position; for `ioi` answer, name or position."""
    one_of("task", name, _DESIDERATA)
    check_options(name, _DESIDERATA[name], options)
    return _DESIDERATA[name](tokenizer, which, n=n, seed=seed, lexicon=lexicon, **options)


def check_options(name: str, maker: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise `BadInput` for an option that the maker of `name` does not have."""
    legal = [word for word in signature(maker).parameters if word not in ("tokenizer", "which", "n", "seed", "lexicon")]
    if bad := [word for word in options if word not in legal]:
        have = f"has {listing(legal)}" if legal else "has none"
        raise BadInput(f"{listing(bad)} is no option of the task {name!r}; it {have}.{hint(bad[0], legal)}")


__all__ = [
    "NAMES",
    "Desiderata",
    "Desideratum",
    "Lexicon",
    "Task",
    "agreement",
    "box_desiderata",
    "desiderata",
    "entity_tracking",
    "facts_swapped",
    "greater_than",
    "induction",
    "ioi",
    "ioi_desiderata",
    "laundry_list",
    "laundry_objects",
    "named",
]
