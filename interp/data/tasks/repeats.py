"""Induction: random words, then some of them again, and the next one is known.

    The cup mill apron king lamp boat mill apron king   ->  lamp

The words are drawn from those that are one token each, and the stretch that is repeated begins anywhere, so that neither meaning nor
position tells the answer. The corrupted prompt has another of the words as its last token, and so another successor; the two
differ in that token only.

Spans go by the clean prompt's parts: `first` is where the last word stood before, `after` the word behind it, which is the answer.

It misleads where the model was trained on few of the words: prefer a `Lexicon(words=...)` of frequent ones for small models.

    from interp.data import tasks
    task = tasks.named("induction", lm.tokenizer, n=4, words=8, repeated=3)
    task[0].clean.text, task[0].clean.answer, task[0].corrupted.answer
"""

import re

import numpy as np

from interp.core.errors import BadInput
from interp.core.lm import Tokenizer

from ..prompts import Chars, Prompt, PromptPair
from ..repeats import WORD
from .draw import draw_pairs, pick, prompt, some
from .lexicon import Lexicon, one_token
from .task import Task

OPENER = "The"


def induction(
    tokenizer: Tokenizer,
    *,
    n: int = 100,
    seed: int = 0,
    lexicon: Lexicon | None = None,
    words: int = 12,
    repeated: int = 4,
) -> Task:
    """`words` random words, then `repeated` of them again. Chance is 1 / `words`. `meta`: start (of the repeated stretch), candidates."""
    if not 2 <= repeated < words:
        raise BadInput(f"`repeated` must be at least 2 and less than `words`; not {repeated} of {words}.")
    if words < repeated + 3:
        raise BadInput(f"`words` must be at least `repeated` + 3, so that another word can be asked for; not {words}.")
    pool = _pool(tokenizer, lexicon or Lexicon(), need=2 * words)

    def make(rng: np.random.Generator, number: int) -> PromptPair:
        drawn = some(rng, pool, words)
        start = int(rng.integers(words - repeated))
        asked = start + repeated - 1
        # not among the repeated ones, where it would have two successors, nor the word whose successor is asked for anyway
        other = pick(rng, [place for place in range(words - 1) if not start <= place <= asked])
        again = drawn[start:asked]
        clean = _row(drawn, again, asked, other, start, marked=asked)
        return PromptPair(clean, _row(drawn, again, other, asked, start, marked=asked))

    pairs = draw_pairs(make, task="induction", n=n, seed=seed, tokenizer=tokenizer)
    return Task(
        pairs, name="induction", chance=1 / words, vital=("first", "after", "last"),
        describe=f"the word that followed before, of {words} random ones; corrupted: another of the words is the last",
    )  # fmt: skip


def _row(drawn: list[str], again: list[str], asked: int, other: int, start: int, *, marked: int) -> Prompt:
    text, places = OPENER, list[Chars]()
    for word in [*drawn, *again, drawn[asked]]:
        places.append((len(text) + 1, len(text) + 1 + len(word)))
        text += f" {word}"
    spans = {"first": places[marked], "after": places[marked + 1]}
    return prompt(text, spans, answer=drawn[asked + 1], foil=drawn[other + 1], candidates=drawn, start=start)


def _pool(tokenizer: Tokenizer, lexicon: Lexicon, *, need: int) -> tuple[str, ...]:
    """The lexicon's words, or those lower-case ones of the vocabulary that are one token."""
    if lexicon.words:
        return lexicon.usable("words", tokenizer, need=need)
    labels = {tokenizer.label(i)[1:] for i in range(tokenizer.vocab) if WORD.fullmatch(tokenizer.label(i))}
    words = sorted(word for word in labels if re.fullmatch("[a-z]{3,}", word))
    if len(words) < 4096:  # where there are more, nearly all are whole tokens, and a pair that is not is drawn again
        words = [word for word in words if one_token(word, tokenizer)]
    if len(words) < need:
        raise BadInput(
            f"{len(words)} words of {tokenizer.name} are one token each; {need} are needed. Ask for fewer words a row, or give them: "
            "Lexicon(words=(...))."
        )
    return tuple(words)
