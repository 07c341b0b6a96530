"""Laundry lists: several things are named, then all but one of them in another order; the one left out comes next.

    I have to buy the cup, the pen and the book. First, I buy the book and the cup, and then I buy the   ->  pen

The leave-one-out recall of Merullo et al. 2024 ("Talking heads"). Their sentences are known from a figure only, so the wording here
is our own (`meta["template"]` says which): compare accuracies between models, not with the paper. What would give the answer away, or
be mistaken for it, is kept out:

- `the` stands before the blank; a form that ends in `a` or `an` is refused, since these agree with some answers only.
- The second list is shuffled by itself, so its order says nothing about the place of the missing thing.
- Models prefer the last thing that was named, so the missing one runs through all places evenly (`meta["missing"]`): look at the
  accuracy for each place, and at both the best token of all and the best of the things listed (`meta["candidates"]`).
- No thing is listed that the form itself names, nor one that another one names (`car` beside `toy car`).
- With as many `items` as there are things, prompts differ in order only.
- Things are one token each. With `pieces` they may have up to that many; those of a list then differ in their first token, by which the
  answer is scored, and spans cover several tokens.

The corrupted prompt leaves out another thing: in the second list the two change places, at one position. Spans: `item_0` to
`item_{items - 1}` in the first list, and `swapped`, where the second list differs. With `orders`, that many prompts in a row
(`meta["set"]`) share everything but the order of the first list: what then varies in the answer is due to order alone.

    from interp.data import tasks
    task = tasks.named("laundry_list", lm.tokenizer, n=4, items=4)
    task[0].clean.meta["missing"], task[0].clean.answer, task[0].corrupted.answer
    tasks.named("laundry_list", lm.tokenizer, n=12, items=3, orders=6)          # two sets, each in all six orders
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations

import numpy as np

from interp.core.errors import BadInput, listing
from interp.core.lm import Tokenizer

from ..prompts import Chars, Prompt, PromptPair
from ..tokens import Answers
from .draw import draw_pairs, prompt, some
from .lexicon import Lexicon, fill
from .task import Task

ENUMERATED = 7
"""Up to so many things all their orders are written out before some are drawn; of more, orders are drawn until they differ."""


def laundry_list(
    tokenizer: Tokenizer,
    *,
    n: int = 100,
    seed: int = 0,
    lexicon: Lexicon | None = None,
    items: int = 4,
    orders: int = 1,
    pieces: int = 1,
    template: int | None = None,
) -> Task:
    """Lists of `items` things with one left out. Chance is 1 / `items`, among the things listed.

    `orders` prompts in a row differ in the order of the first list only. `pieces`: most tokens a thing may have. `template`: the number
    of one sentence form, for all prompts. `meta`: missing, items, second, template, set.
    """
    _check(items, orders)
    lexicon = lexicon or Lexicon()
    objects = laundry_objects(tokenizer, lexicon, pieces=pieces)
    forms = _forms(lexicon, objects, items, template, tokenizer)

    def one_set(rng: np.random.Generator, missing: int) -> tuple[int, list[str], list[str], int]:
        form = template if template is not None else int(rng.integers(len(forms)))
        things = _things(rng, forms[form], objects, items, missing)
        rest = some(rng, [thing for thing in things if thing != things[missing]], items - 1)
        alike = [place for place, thing in enumerate(rest) if len(objects[thing]) == len(objects[things[missing]])]
        return form, things, rest, alike[int(rng.integers(len(alike)))]

    def pair(form: int, things: list[str], rest: list[str], place: int, answer: str, number: int) -> PromptPair:
        other, asked = [*rest[:place], answer, *rest[place + 1 :]], (things.index(answer), things.index(rest[place]))
        clean = listed(forms[form], things, rest, place, asked, {"template": form, "set": number})
        return PromptPair(
            clean, listed(forms[form], things, other, place, asked[::-1], {"template": form, "set": number})
        )

    orderings: list[Iterator[list[str]]] = []
    fixed: list[tuple[int, list[str], int, str]] = []

    def make(rng: np.random.Generator, number: int) -> PromptPair:
        if orders == 1:
            form, things, rest, place = one_set(rng, number % items)
            return pair(form, things, rest, place, things[number % items], number)
        if len(fixed) <= number // orders:
            form, things, rest, place = one_set(rng, 0)
            fixed.append((form, rest, place, things[0]))
            orderings.append(_orders(rng, things, orders))
        form, rest, place, answer = fixed[-1]
        ordered = next(orderings[-1], None)
        if ordered is None:
            raise BadInput(
                f"orders of {listing([answer, *rest])} give prompts that were drawn before, or that do not line up in {tokenizer.name}. "
                "Ask for fewer prompts, or give a larger Lexicon."
            )
        return pair(form, ordered, rest, place, answer, number // orders)

    answers: Answers = "single" if pieces == 1 else "first"
    pairs = draw_pairs(make, task="laundry_list", n=n, seed=seed, tokenizer=tokenizer, answers=answers)
    vital = (*(f"item_{place}" for place in range(items)), "swapped", "last")
    return Task(
        pairs, name="laundry_list", chance=1 / items, vital=vital,
        describe=f"which of {items} things is left out of the second list; corrupted: another one is left out",
    )  # fmt: skip


def laundry_objects(
    tokenizer: Tokenizer, lexicon: Lexicon | None = None, *, pieces: int = 1
) -> dict[str, tuple[int, ...]]:
    """The things that can be listed in a tokenizer, with their tokens after a space; a list may be as long as there are of these.

    A thing of several tokens counts if it has no more than `pieces` and does not begin with a bare space, by which nothing could be told;
    one that the vocabulary does not know (that comes back as another text) does not. Raises `BadInput` for `pieces` below 1.
    """
    if not isinstance(pieces, int) or pieces < 1:
        raise BadInput(f"`pieces` must be at least 1; not {pieces!r}.")
    before = tokenizer.encode("the", bos=False).ids
    found = {}
    for thing in (lexicon or Lexicon()).objects:
        both = tokenizer.encode(f"the {thing}", bos=False).ids
        ids = both[len(before) :]
        if both[: len(before)] != before or not 0 < len(ids) <= pieces or not tokenizer.decode(ids[:1]).strip():
            continue
        if tokenizer.decode(ids).strip().casefold() == thing.casefold():
            found[thing] = ids
    return found


def listed(
    form: str,
    things: Sequence[str],
    rest: Sequence[str],
    swapped: int,
    asked: tuple[int, int],
    meta: Mapping[str, int],
) -> Prompt:
    """The form with both lists. `swapped` is the marked place in the second, `asked` = numbers of the missing thing and the foil."""
    first, places = enumerated(things)
    second, others = enumerated(rest)
    text, found = fill(form, {"first": first, "second": second}, ("first", "second"))
    spans = {f"item_{number}": _shift(chars, found["first"][0]) for number, chars in enumerate(places)}
    spans["swapped"] = _shift(others[swapped], found["second"][0])
    answer, foil = things[asked[0]], things[asked[1]]
    return prompt(
        text, spans, answer=answer, foil=foil, candidates=things, missing=asked[0], items=tuple(things), second=tuple(rest),
        **meta,
    )  # fmt: skip


def enumerated(things: Sequence[str]) -> tuple[str, list[Chars]]:
    """`["cup", "pen", "hat"]` -> "the cup, the pen and the hat", and the characters of each thing."""
    text, places = "", []
    for number, thing in enumerate(things):
        text += "" if not number else " and " if number == len(things) - 1 else ", "
        text += f"the {thing}"
        places.append((len(text) - len(thing), len(text)))
    return text, places


def _things(
    rng: np.random.Generator, form: str, objects: Mapping[str, tuple[int, ...]], items: int, missing: int
) -> list[str]:
    """`items` things that differ in their first token, none named by the form or by another; one has as many tokens as the missing one."""
    pool = _unnamed(form, objects)
    for _ in range(1000):
        drawn = some(rng, pool, items)
        sizes = [len(objects[thing]) for thing in drawn]
        apart = len({objects[thing][0] for thing in drawn}) == items and not _nested(drawn)
        if apart and sizes.count(sizes[missing]) > 1:
            return drawn
    raise BadInput(
        f"no list of {items} things that differ in their first token (and name no other) could be drawn: {len(pool)} things share "
        f"{len({objects[thing][0] for thing in pool})} first tokens. Ask for fewer `items`, or give Lexicon(objects=(...))."
    )


def _nested(things: Sequence[str]) -> bool:
    """Whether a thing is named by another one, as `car` by `toy car`: repeating that one would seem to repeat both."""
    return any(one != other and f" {one} " in f" {other} " for one in things for other in things)


def _unnamed(form: str, objects: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Things that the form itself does not name."""
    said = re.sub(r"\{\w+\}", "", form)
    return [thing for thing in objects if not re.search(rf"\b{re.escape(thing)}\b", said, re.IGNORECASE)]


def _orders(rng: np.random.Generator, things: Sequence[str], count: int) -> Iterator[list[str]]:
    """`count` different orders of things, the first of them at each place in turn."""
    answer, others = things[0], list(things[1:])
    each = -(-count // len(things))  # orders of the others that are needed for each place
    drawn: list[list[list[str]]] = []
    for _ in things:
        if len(others) <= ENUMERATED:
            every = [list(one) for one in permutations(others)]
            drawn.append([every[int(i)] for i in rng.permutation(len(every))[:each]])
        else:
            seen: dict[tuple[str, ...], None] = {}
            while len(seen) < each:
                seen.setdefault(tuple(some(rng, others, len(others))))
            drawn.append([list(one) for one in seen])
    for number in range(count):
        place, order = number % len(things), drawn[number % len(things)][number // len(things)]
        yield [*order[:place], answer, *order[place:]]


def _check(items: int, orders: int) -> None:
    if not isinstance(items, int) or items < 2:
        raise BadInput(f"`items` must be at least 2; not {items!r}.")
    if not isinstance(orders, int) or orders < 1:
        raise BadInput(f"`orders` must be at least 1; not {orders!r}.")
    if items <= 20 and orders > math.factorial(items):
        raise BadInput(
            f"{items} things have {math.factorial(items):,} orders; orders={orders} are more. Ask for fewer."
        )


def _forms(
    lexicon: Lexicon, objects: Mapping[str, tuple[int, ...]], items: int, template: int | None, tokenizer: Tokenizer
) -> tuple[str, ...]:
    """The sentence forms, each of which can be filled and gives nothing away."""
    forms = lexicon.forms("laundry_list")
    if template is not None and (not isinstance(template, int) or not 0 <= template < len(forms)):
        raise BadInput(f"template={template!r}: this Lexicon has the forms 0 to {len(forms) - 1} of 'laundry_list'.")
    for form in forms if template is None else forms[template : template + 1]:
        if form.split()[-1].casefold() in ("a", "an"):
            raise BadInput(
                f"the form {form!r} ends in {form.split()[-1]!r}, which agrees with some answers and not with others. End it in 'the'."
            )
        have = len(_unnamed(form, objects))
        if have < items:
            of = f"of the {len(lexicon.objects)} objects can stand in {form!r} as one token each in {tokenizer.name}"
            fewer = f"Ask for at most {have} items, give" if have > 1 else "Give"
            raise BadInput(
                f"{have} {of}, and a list of {items} needs as many. {fewer} others with Lexicon(objects=(...)), or allow things of several "
                "tokens (pieces=3)."
            )
    return forms


def _shift(chars: Chars, by: int) -> Chars:
    return chars[0] + by, chars[1] + by
