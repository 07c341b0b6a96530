"""Agreement: the verb must have the number of its subject, over the words in between.

    She was happy because the dogs, who           ->  were, not was          attractor="none"
    She was happy because the dogs near the cat   ->  were, not was          attractor="opposite": `cat` is singular and stands nearer

The corrupted prompt has the subject in its other number; an attractor stays as it is. "same" is the attractor's control, a noun of the
clean subject's number. Which number comes first alternates.

It misleads where a model agrees with the nearest noun: it is right without an attractor and far below chance with "opposite" (small
story models are at 0.0 there). And where a verb's forms differ in frequency "was" may win everywhere; the pairs are balanced, so such
a model scores 1/2: look at the accuracy for `meta["number"]`. Templates and verbs must agree in tense.

    from interp.data import tasks
    words = tasks.Lexicon(nouns=("guard guards", "door doors"), verbs=("is are",))
    task = tasks.named("agreement", lm.tokenizer, n=1, lexicon=words)
    task[0].clean.text, task[0].clean.answer, task[0].corrupted.answer
"""

from typing import Any, Literal

import numpy as np

from interp.core.errors import one_of
from interp.core.lm import Tokenizer

from ..prompts import PromptPair
from .draw import draw_pairs, pick, prompt
from .lexicon import Lexicon, fill
from .task import Task

NUMBERS = ("singular", "plural")


def agreement(
    tokenizer: Tokenizer,
    *,
    n: int = 100,
    seed: int = 0,
    lexicon: Lexicon | None = None,
    attractor: Literal["none", "opposite", "same"] = "none",
) -> Task:
    """Subject and verb. Chance is 1/2, between the verb's two forms. `meta`: number, attractor, template, candidates."""
    one_of("attractor", attractor, ("none", "opposite", "same"))
    lexicon = lexicon or Lexicon()
    nouns = lexicon.usable("nouns", tokenizer, need=1 if attractor == "none" else 2)
    verbs = lexicon.usable("verbs", tokenizer, need=1)
    forms = lexicon.forms("agreement" if attractor == "none" else "attractor")

    def make(rng: np.random.Generator, number: int) -> PromptPair:
        form, subject, verb = int(rng.integers(len(forms))), pick(rng, nouns).split(), pick(rng, verbs).split()
        between = pick(rng, [noun for noun in nouns if noun.split() != subject]).split() if attractor != "none" else []
        kind = number % 2
        nearer = {"opposite": 1 - kind, "same": kind}.get(attractor)
        sides = []
        for side in (kind, 1 - kind):
            words = {"noun": subject[side]} | ({"other": between[nearer]} if nearer is not None else {})
            text, found = fill(forms[form], words, ("noun", "other"))
            spans = {{"noun": "subject", "other": "attractor"}[slot]: chars for slot, chars in found.items()}
            said: dict[str, Any] = {
                "answer": verb[side],
                "foil": verb[1 - side],
                "candidates": verb,
                "number": NUMBERS[side],
            }
            sides.append(prompt(text, spans, attractor=attractor, template=form, **said))
        return PromptPair(*sides)

    pairs = draw_pairs(make, task="agreement", n=n, seed=seed, tokenizer=tokenizer)
    between = {"opposite": "a noun of the other number", "same": "a noun of the same number", "none": "nothing"}
    return Task(
        pairs, name="agreement", chance=0.5, vital=("subject", *(["attractor"] if attractor != "none" else []), "last"),
        describe=f"which form of the verb follows, with {between[attractor]} in between; corrupted: the subject's other number",
    )  # fmt: skip
