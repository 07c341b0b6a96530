"""Entity tracking: several things are put into labelled boxes, and one box is asked for.

    The apple is in Box F, the bell is in Box Q, the coat is in Box X. Box Q contains the   ->  bell

The task of Prakash et al. 2024 ("Fine-tuning enhances existing mechanisms"). The object comes first, so that matching the words of the
query alone does not find it. The queried box runs through all slots evenly; `meta["slot"]` says which it is, read off the context. (The
paper's own code reads it off the query sentence and so believes that it is always 0, which makes one triple in seven of its
position desideratum ask for the unpatched answer.) The corrupted prompt asks for another box of the same context.

Spans go by the clean prompt's parts, in the same columns of both: `object` (the right one), `first_label` (where its box is named
first), `query_label`.

Three desiderata, made so that only the named variable gives the target: contexts share no object, and where one variable would give
the same answer as another the draw is repeated.

    object      target = what the source's box holds
    label       target = what `base` keeps in the box whose label the source asks for
    position    target = what `base` keeps in the slot that the source asks for

It misleads when the last object is always a good guess: compare the accuracy by slot.

    from interp.data import tasks
    words = tasks.Lexicon(labels=("market", "mill", "tower", "garden"))        # by default capital letters
    task = tasks.named("entity_tracking", lm.tokenizer, n=6, boxes=3, lexicon=words)
    task[0].clean.meta["slot"], task.chance
    wanted = tasks.desiderata("entity_tracking", lm.tokenizer, "position", n=4, boxes=3, lexicon=words)
    wanted[0].base.meta["slot"], wanted[0].source.meta["slot"], wanted[0].target
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from interp.core.errors import BadInput, one_of
from interp.core.lm import Tokenizer

from ..prompts import Prompt, PromptPair
from .draw import draw, draw_pairs, pick, prompt, some, unmarked
from .lexicon import Lexicon, fill
from .task import Desiderata, Desideratum, Task

VITAL = ("object", "first_label", "query_label", "last")
WHICH = ("object", "label", "position")


def entity_tracking(
    tokenizer: Tokenizer, *, n: int = 100, seed: int = 0, lexicon: Lexicon | None = None, boxes: int = 7
) -> Task:
    """Boxes with one object each. Chance is 1 / `boxes`, among the listed objects. `meta`: slot, objects, labels, template, candidates."""
    lexicon = lexicon or Lexicon()
    objects, labels = _words(lexicon, tokenizer, boxes, contexts=1)

    def make(rng: np.random.Generator, number: int) -> PromptPair:
        form = int(rng.integers(len(lexicon.forms("entity_tracking"))))
        things, names = some(rng, objects, boxes), some(rng, labels, boxes)
        slot = number % boxes
        other = (slot + 1 + int(rng.integers(boxes - 1))) % boxes
        clean = context(lexicon, form, things, names, slot, slot)
        corrupted = context(lexicon, form, things, names, other, slot)
        return PromptPair(replace(clean, foil=corrupted.answer), replace(corrupted, foil=clean.answer))

    pairs = draw_pairs(make, task="entity_tracking", n=n, seed=seed, tokenizer=tokenizer)
    return Task(
        pairs, name="entity_tracking", chance=1 / boxes, vital=VITAL,
        describe=f"what is in one of {boxes} boxes; corrupted: another box of the same context is asked for",
    )  # fmt: skip


def box_desiderata(
    tokenizer: Tokenizer,
    which: Literal["object", "label", "position"],
    *,
    n: int = 100,
    seed: int = 0,
    lexicon: Lexicon | None = None,
    boxes: int = 7,
) -> Desiderata:
    """Triples in which one variable decides: see the module. Both prompts mark their own columns."""
    one_of("which", which, WHICH)
    lexicon = lexicon or Lexicon()
    objects, labels = _words(lexicon, tokenizer, boxes, contexts=2)

    def make(rng: np.random.Generator, number: int) -> Desideratum:
        form = int(rng.integers(len(lexicon.forms("entity_tracking"))))
        things, names = some(rng, objects, 2 * boxes), some(rng, labels, boxes)
        slot = number % boxes
        asked, there = _source(rng, which, slot, names, labels)
        base = context(lexicon, form, things[:boxes], names, slot, slot)
        source = context(lexicon, form, things[boxes:], there, asked, asked)
        held = things[:boxes]
        target = {
            "object": lambda: things[boxes + asked],
            "label": lambda: held[names.index(there[asked])],
            "position": lambda: held[asked],
        }[which]()
        return Desideratum(base, source, f" {target}")

    name = f"entity_tracking/{which}"
    triples = draw(make, unmarked, task=name, n=n, seed=seed, tokenizer=tokenizer)
    said = {
        "object": "what the source's box holds",
        "label": "what the base keeps in the box with the source's label",
        "position": "what the base keeps in the source's slot",
    }[which]
    return Desiderata(triples, task="entity_tracking", which=which, describe=f"the answer becomes {said}", vital=VITAL)


def _source(
    rng: np.random.Generator, which: str, slot: int, names: Sequence[str], labels: Sequence[str]
) -> tuple[int, list[str]]:
    """(queried slot, labels) of a source in which no other variable than `which` leads to the same answer, nor any to the base's own."""
    boxes = len(names)
    others = [place for place in range(boxes) if place != slot]
    if which == "label":  # the same labels elsewhere: the queried one is another than the base's and has moved
        asked = int(rng.integers(boxes))
        label = pick(rng, [place for place in others if place != asked])
        rest = some(rng, [name for name in names if name != names[label]], boxes - 1)
        return asked, [*rest[:asked], names[label], *rest[asked:]]
    asked = pick(rng, others)
    fresh = [name for name in labels if name not in names]
    strange = pick(rng, fresh)  # the queried label is none of the base's
    rest = some(rng, [name for name in labels if name != strange], boxes - 1)
    return asked, [*rest[:asked], strange, *rest[asked:]]


def context(
    lexicon: Lexicon, form: int, things: Sequence[str], names: Sequence[str], asked: int, marked: int
) -> Prompt:
    """The context and the query for slot `asked`; `object` and `first_label` mark slot `marked`."""
    text, spans = "", {}
    for place, (thing, name) in enumerate(zip(things, names, strict=True)):
        part, found = fill(
            lexicon.forms("entity_tracking")[form], {"object": thing, "label": name}, ("object", "label")
        )
        if place:
            text, part = text + ", ", part[0].lower() + part[1:]
        if place == marked:
            shift = len(text)
            spans = {
                "object": (found["object"][0] + shift, found["object"][1] + shift),
                "first_label": (found["label"][0] + shift, found["label"][1] + shift),
            }
        text += part
    part, found = fill(lexicon.forms("entity_query")[0], {"label": names[asked]}, ("label",))
    text += ". "
    spans["query_label"] = (found["label"][0] + len(text), found["label"][1] + len(text))
    meta: dict[str, Any] = {"slot": asked, "objects": tuple(things), "labels": tuple(names), "template": form}
    foil = things[(asked + 1) % len(things)]
    return prompt(text + part, spans, answer=things[asked], foil=foil, candidates=things, **meta)


def _words(
    lexicon: Lexicon, tokenizer: Tokenizer, boxes: int, *, contexts: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if not isinstance(boxes, int) or boxes < 1 + contexts:
        raise BadInput(f"`boxes` must be at least {1 + contexts}; not {boxes!r}.")
    objects = lexicon.usable("objects", tokenizer, need=contexts * boxes)
    return objects, lexicon.usable("labels", tokenizer, need=boxes + contexts - 1)
