"""Drawing pairs that are distinct and line up, or saying why there are none.

A maker draws one pair from a generator; `draw_pairs` calls it until there are `n` whose clean texts differ and whose tokens line up,
and gives up on a pair after 60 tries with the last refusal. A maker is also told the pair's number, which balanced choices go by.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from interp.core.errors import BadInput
from interp.core.lm import Tokenizer
from interp.core.seed import numpy_generator

from ..prompts import Chars, Prompt, PromptPair, continuation
from ..tokens import Answers, tokenize_pair
from .task import Desideratum

TRIES = 60
T = TypeVar("T")


def draw_pairs(
    make: Callable[[np.random.Generator, int], PromptPair],
    *,
    task: str,
    n: int,
    seed: int,
    tokenizer: Tokenizer,
    answers: Answers = "single",
) -> list[PromptPair]:
    """`n` pairs with different clean texts whose tokens line up; a pair depends on the seed, the task's name and those before it.

    Raises `BadInput` with the last refusal where no pair lines up, and where the words allow fewer different prompts than asked for.
    """
    return draw(make, lambda pair: pair, task=task, n=n, seed=seed, tokenizer=tokenizer, answers=answers)


def draw(
    make: Callable[[np.random.Generator, int], T],
    as_pair: Callable[[T], PromptPair],
    *,
    task: str,
    n: int,
    seed: int,
    tokenizer: Tokenizer,
    answers: Answers = "single",
) -> list[T]:
    """`draw_pairs` for anything that can be shown as a pair."""
    if not isinstance(n, int) or n < 1:
        raise BadInput(f"`n` must be at least 1; not {n!r}.")
    rng = numpy_generator(seed, "task", task)
    drawn: list[T] = []
    seen: set[str] = set()
    for number in range(n):
        refusal: BadInput | None = None
        for _ in range(TRIES):
            one = make(rng, number)
            pair = as_pair(one)
            if pair.clean.text in seen:
                continue
            try:
                tokenize_pair(pair, tokenizer, answers=answers)
            except BadInput as error:
                refusal = error
                continue
            seen.add(pair.clean.text)
            drawn.append(one)
            break
        else:
            raise _exhausted(task, n, number, tokenizer, refusal)
    return drawn


def prompt(
    text: str, spans: Mapping[str, Chars], *, answer: str, foil: str, candidates: Sequence[str], **meta: Any
) -> Prompt:
    """A prompt with character spans; answer, foil and the candidates of a guess become continuations of the text."""
    listed = tuple(continuation(text, word) for word in candidates)
    known = {**meta, "candidates": listed}
    return Prompt(text, continuation(text, answer), continuation(text, foil), dict(spans), meta=known)


def unmarked(one: Desideratum) -> PromptPair:
    """A desideratum as a pair without spans, which may stand in different columns of base and source."""
    return PromptPair(replace(one.pair.clean, spans={}), replace(one.source, spans={}))


def pick(rng: np.random.Generator, pool: Sequence[T]) -> T:
    """One of a pool."""
    return pool[int(rng.integers(len(pool)))]


def some(rng: np.random.Generator, pool: Sequence[T], k: int) -> list[T]:
    """`k` different ones of a pool, in random order."""
    return [pool[int(i)] for i in rng.choice(len(pool), k, replace=False)]


def _exhausted(task: str, n: int, number: int, tokenizer: Any, refusal: BadInput | None) -> BadInput:
    if refusal is not None:
        return BadInput(
            f"no pair of {task!r} could be made for {tokenizer.name} in {TRIES} tries. The last one: {refusal}"
        )
    return BadInput(
        f"{n} different prompts of {task!r} were asked for; after {number}, {TRIES} draws in a row were repeats. "
        "Ask for fewer, or give a larger Lexicon."
    )
