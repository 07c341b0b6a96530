"""Laundry lists: several things are named, then all but one of them in another order; the one left out comes next.

    I have to buy the cup, the pen and the book. First, I buy the book and the cup, and then I buy the   ->  pen

The leave-one-out recall of Merullo et al. 2024 ("Talking heads"). Their sentences are known from a figure only, so the wording here
is our own: compare accuracies between models, not with the paper. `the` stands before the blank, since `a` or `an` would give the answer
away. Models prefer the last thing that was named, so the missing one runs through all places evenly (`meta["missing"]`): look
at the accuracy for each place, and at both the best token of all and the best of the things listed (`meta["candidates"]`).

The corrupted prompt leaves out another thing: in the second list the two change places, at one position. Spans: `item_0` to
`item_{items - 1}` in the first list, and `swapped`, where the second list differs.

    from interp.data import tasks
    task = tasks.named("laundry_list", lm.tokenizer, n=4, items=4)
    task[0].clean.meta["missing"], task[0].clean.answer, task[0].corrupted.answer
"""

from collections.abc import Sequence

import numpy as np

from interp.core.errors import BadInput
from interp.core.lm import Tokenizer

from ..prompts import Chars, Prompt, PromptPair
from .draw import draw_pairs, prompt, some
from .lexicon import Lexicon, fill
from .task import Task


def laundry_list(
    tokenizer: Tokenizer, *, n: int = 100, seed: int = 0, lexicon: Lexicon | None = None, items: int = 4
) -> Task:
    """Lists of `items` things with one left out. Chance is 1 / `items`, among the things listed. `meta`: missing, items, template."""
    if not isinstance(items, int) or items < 2:
        raise BadInput(f"`items` must be at least 2; not {items!r}.")
    lexicon = lexicon or Lexicon()
    objects = lexicon.usable("objects", tokenizer, need=items)
    forms = lexicon.forms("laundry_list")

    def make(rng: np.random.Generator, number: int) -> PromptPair:
        form, things, missing = int(rng.integers(len(forms))), some(rng, objects, items), number % items
        rest = some(rng, [thing for thing in things if thing != things[missing]], items - 1)
        place = int(rng.integers(items - 1))
        other = [*rest[:place], things[missing], *rest[place + 1 :]]
        foil = things.index(rest[place])
        clean = listed(forms[form], things, rest, place, (missing, foil), form)
        return PromptPair(clean, listed(forms[form], things, other, place, (foil, missing), form))

    pairs = draw_pairs(make, task="laundry_list", n=n, seed=seed, tokenizer=tokenizer)
    vital = (*(f"item_{place}" for place in range(items)), "swapped", "last")
    return Task(
        pairs, name="laundry_list", chance=1 / items, vital=vital,
        describe=f"which of {items} things is left out of the second list; corrupted: another one is left out",
    )  # fmt: skip


def listed(
    form: str, things: Sequence[str], rest: Sequence[str], swapped: int, asked: tuple[int, int], template: int
) -> Prompt:
    """The form with both lists. `swapped` is the marked place in the second, `asked` = numbers of the missing thing and the foil."""
    first, places = enumerated(things)
    second, others = enumerated(rest)
    text, found = fill(form, {"first": first, "second": second}, ("first", "second"))
    spans = {f"item_{number}": _shift(chars, found["first"][0]) for number, chars in enumerate(places)}
    spans["swapped"] = _shift(others[swapped], found["second"][0])
    answer, foil = things[asked[0]], things[asked[1]]
    return prompt(
        text, spans, answer=answer, foil=foil, candidates=things, missing=asked[0], items=tuple(things), template=template
    )  # fmt: skip


def enumerated(things: Sequence[str]) -> tuple[str, list[Chars]]:
    """`["cup", "pen", "hat"]` -> "the cup, the pen and the hat", and the characters of each thing."""
    text, places = "", []
    for number, thing in enumerate(things):
        text += "" if not number else " and " if number == len(things) - 1 else ", "
        text += f"the {thing}"
        places.append((len(text) - len(thing), len(text)))
    return text, places


def _shift(chars: Chars, by: int) -> Chars:
    return chars[0] + by, chars[1] + by
