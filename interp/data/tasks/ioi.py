"""Indirect objects: two people are named, one of them again, and the sentence goes on with the other.

    When Mary and John went to the store, John gave the bag to   ->  Mary         (order ABB; BAB names John first)

Two corruptions. `flip` names the other person the second time, so the answer changes places with the foil; the difference between the
prompts is one token, and everything found is about *which* name was repeated. `names` is the ABC distribution of Wang et al. 2022
("Interpretability in the wild", section 3.2): three other names, none repeated, so that what is found is about repetition as such;
the prompt then has no right answer, and the one it carries is the name in the place of the indirect object.

Spans go by the clean prompt's parts, in the same columns of both: `IO`, `S1`, `S2` (the subject again).

    from interp.data import tasks
    task = tasks.named("ioi", lm.tokenizer, n=6, order="ABB")
    task[0].clean.span("IO"), task[0].clean.answer, task[0].corrupted.answer
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from interp.core.errors import one_of
from interp.core.lm import Tokenizer

from ..prompts import Prompt, PromptPair
from .draw import draw_pairs, pick, prompt, some
from .lexicon import Lexicon, fill
from .task import Task

ORDERS = ("mixed", "ABB", "BAB")
VITAL = ("IO", "S1", "S2", "last")


def ioi(
    tokenizer: Tokenizer,
    *,
    n: int = 100,
    seed: int = 0,
    lexicon: Lexicon | None = None,
    order: Literal["mixed", "ABB", "BAB"] = "mixed",
    corruption: Literal["flip", "names"] = "flip",
) -> Task:
    """Indirect-object pairs. `order="mixed"` alternates ABB and BAB; chance is 1/2, between the two names.

    `meta`: order, template, candidates (and `corruption`).
    """
    one_of("order", order, ORDERS)
    one_of("corruption", corruption, ("flip", "names"))
    lexicon = lexicon or Lexicon()
    forms = lexicon.forms("ioi")
    names = lexicon.usable("names", tokenizer, need=2 if corruption == "flip" else 5)
    objects = lexicon.usable("objects", tokenizer, need=1) if any("{object}" in form for form in forms) else ("",)
    places = lexicon.usable("places", tokenizer, need=1) if any("{place}" in form for form in forms) else ("",)

    def make(rng: np.random.Generator, number: int) -> PromptPair:
        kind = order if order != "mixed" else ("ABB", "BAB")[number % 2]
        template = int(rng.integers(len(forms)))
        rest = {"place": pick(rng, places), "object": pick(rng, objects)}
        people = some(rng, names, 2 if corruption == "flip" else 5)
        meta = {"order": kind, "template": template, "corruption": corruption}
        io, s = people[:2]
        clean = sentence(forms[template], (io, s, s), kind, rest, meta)
        other = (io, s, io) if corruption == "flip" else (people[2], people[3], people[4])
        return PromptPair(clean, sentence(forms[template], other, kind, rest, meta))

    pairs = draw_pairs(make, task="ioi", n=n, seed=seed, tokenizer=tokenizer)
    changed = "the other name is repeated" if corruption == "flip" else "three other names stand there, none repeated"
    return Task(
        pairs, name="ioi", chance=0.5, vital=VITAL,
        describe=f"who is given something: the one of two people that is not named again; corrupted: {changed}",
    )  # fmt: skip


def sentence(
    form: str, people: tuple[str, str, str], order: str, rest: Mapping[str, str], meta: Mapping[str, Any]
) -> Prompt:
    """The form with (IO, S1, S2) in it, marked; the answer is the name of the first two that S2 does not repeat, or IO."""
    io, s1, s2 = people
    first, second = ("IO", "S1") if order == "ABB" else ("S1", "IO")
    words = {"IO": io, "S1": s1}
    text, found = fill(form, {"a": words[first], "b": words[second], "s": s2, **rest}, "abs")
    spans = {first: found["a"], second: found["b"], "S2": found["s"]}
    answer, foil = (s1, io) if s2 == io else (io, s1)
    return prompt(text, spans, answer=answer, foil=foil, candidates=(answer, foil), **meta)
