"""Indirect objects: two people are named, one of them again, and the sentence goes on with the other.

    When Mary and John went to the store, John gave the bag to   ->  Mary         (order ABB; BAB names John first)

Two corruptions. `flip` names the other person the second time, so the answer changes places with the foil; the difference between the
prompts is one token, and everything found is about *which* name was repeated. `names` is the ABC distribution of Wang et al. 2022
("Interpretability in the wild", section 3.2): three other names, none repeated, so that what is found is about repetition as such;
the prompt then has no right answer, and the one it carries is the name in the place of the indirect object.

Spans go by the clean prompt's parts, in the same columns of both: `IO`, `S1`, `S2` (the subject again).

Three desiderata; the source has the same wording and other people:

    answer      who is given it: other names, the same order                      target = the source's answer
    name        which name was repeated: the source repeats the base's answer     target = the base's other name
    position    where the repeated name stood first: the other order              target = the base's other name

    from interp.data import tasks
    task = tasks.named("ioi", lm.tokenizer, n=6, order="ABB")
    task[0].clean.span("IO"), task[0].clean.answer, task[0].corrupted.answer
    tasks.desiderata("ioi", lm.tokenizer, "position", n=4)[0].target
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from interp.core.errors import one_of
from interp.core.lm import Tokenizer

from ..prompts import Prompt, PromptPair
from .draw import draw, draw_pairs, pick, prompt, some, unmarked
from .lexicon import Lexicon, fill
from .task import Desiderata, Desideratum, Task

ORDERS = ("mixed", "ABB", "BAB")
WHICH = ("answer", "name", "position")
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
    names = lexicon.usable("names", tokenizer, need=2 if corruption == "flip" else 5)
    scene = _scenes(lexicon, tokenizer)

    def make(rng: np.random.Generator, number: int) -> PromptPair:
        kind = order if order != "mixed" else ORDERS[1 + number % 2]
        form, rest, meta = scene(rng)
        people = some(rng, names, 2 if corruption == "flip" else 5)
        meta = {"order": kind, "corruption": corruption, **meta}
        io, s = people[:2]
        clean = sentence(form, (io, s, s), kind, rest, meta)
        other = (io, s, io) if corruption == "flip" else (people[2], people[3], people[4])
        return PromptPair(clean, sentence(form, other, kind, rest, meta))

    pairs = draw_pairs(make, task="ioi", n=n, seed=seed, tokenizer=tokenizer)
    changed = "the other name is repeated" if corruption == "flip" else "three other names stand there, none repeated"
    return Task(
        pairs, name="ioi", chance=0.5, vital=VITAL,
        describe=f"who is given something: the one of two people that is not named again; corrupted: {changed}",
    )  # fmt: skip


def ioi_desiderata(
    tokenizer: Tokenizer,
    which: Literal["answer", "name", "position"],
    *,
    n: int = 100,
    seed: int = 0,
    lexicon: Lexicon | None = None,
) -> Desiderata:
    """Triples in which one variable decides: see the module. Orders alternate; both prompts mark their own columns."""
    one_of("which", which, WHICH)
    lexicon = lexicon or Lexicon()
    names, scene = lexicon.usable("names", tokenizer, need=4), _scenes(lexicon, tokenizer)

    def make(rng: np.random.Generator, number: int) -> Desideratum:
        order = ORDERS[1 + number % 2]
        form, rest, meta = scene(rng)
        io, s, one, two = some(rng, names, 4)
        repeats = io if which == "name" else two
        other = ORDERS[2 - number % 2] if which == "position" else order
        base = sentence(form, (io, s, s), order, rest, {"order": order, **meta})
        source = sentence(form, (one, repeats, repeats), other, rest, {"order": other, **meta})
        return Desideratum(base, source, f" {one if which == 'answer' else s}")

    name = f"ioi/{which}"
    triples = draw(make, unmarked, task=name, n=n, seed=seed, tokenizer=tokenizer)
    said = "the source's answer" if which == "answer" else "the base's other name"
    return Desiderata(triples, task="ioi", which=which, describe=f"the answer becomes {said}", vital=VITAL)


def _scenes(
    lexicon: Lexicon, tokenizer: Tokenizer
) -> Callable[[np.random.Generator], tuple[str, dict[str, str], dict[str, Any]]]:
    """A function that draws a form, the words of its place and object, and what `meta` says of them."""
    forms = lexicon.forms("ioi")
    pools = {
        slot: lexicon.usable(f"{slot}s", tokenizer, need=1)
        for slot in ("place", "object")
        if any(f"{{{slot}}}" in form for form in forms)
    }

    def scene(rng: np.random.Generator) -> tuple[str, dict[str, str], dict[str, Any]]:
        template = int(rng.integers(len(forms)))
        return forms[template], {slot: pick(rng, pool) for slot, pool in pools.items()}, {"template": template}

    return scene


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
