"""Prompts that judge an edit: the same question in other words, and the same question about somebody else.

They are taken from the first of these that has any:

- the prompt's own `meta`: `paraphrases` and `neighbours` (or CounterFact's `paraphrase_prompts` and
  `neighborhood_prompts`), texts or Prompts, taken from the beginning of the list
- the generated world, for prompts that are sentences of it (`interp.reference.facts`): another of its wordings; another
  province in the same wording; by seed, among pairs that the reference checkpoints were taught
- the other facts at hand: the same subject and relation in another sentence; another subject of the same relation
  (`relation`, `relation_id` in `meta`); by seed

Neighbours that share the true answer come first, as CounterFact's do on purpose: an erased fact must not take the same answer
away from others. It misleads that such neighbours are many or few from relation to relation; beyond them any subject is taken.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from interp.core.errors import BadInput
from interp.core.seed import numpy_generator
from interp.data.prompts import Prompt
from interp.data.world import CHANGED_RELATION, World
from interp.data.world.templates import FACTS

NAMES = {"paraphrase": ("paraphrases", "paraphrase_prompts"), "neighbour": ("neighbours", "neighborhood_prompts")}
RELATION = ("relation", "relation_id")


def paraphrases(prompt: Prompt, facts: Sequence[Prompt] = (), *, count: int = 1, seed: int = 0) -> tuple[Prompt, ...]:
    """Up to `count` prompts that ask the same of the same subject in other words; each marks the subject."""
    given = _given(prompt, "paraphrase")
    if given is None and in_world(prompt):
        relation, entity = prompt.meta["relation"], int(prompt.meta["entity"])
        numbers = [n for n in range(len(FACTS[relation])) if n != int(prompt.meta["template"])]
        given = [_world_prompt(relation, entity, n) for n in numbers if n != _held_out(relation, entity)]
    if given is None:
        same = [one for one in facts if _asks_alike(one, prompt) and one.text != prompt.text]
        given = [one for one in same if one.span("subject") == prompt.span("subject")]
    return _pick(given, count, seed, "paraphrase", prompt)


def neighbours(prompt: Prompt, facts: Sequence[Prompt] = (), *, count: int = 1, seed: int = 0) -> tuple[Prompt, ...]:
    """Up to `count` prompts that ask the same of other subjects; their `answer`, where there is one, is what they should keep."""
    given = _given(prompt, "neighbour")
    if given is None and in_world(prompt):
        relation, number, own = prompt.meta["relation"], int(prompt.meta["template"]), int(prompt.meta["entity"])
        given = [
            _world_prompt(relation, entity, number)
            for entity in range(len(_world().entities))
            if entity != own
            and _held_out(relation, entity) != number
            and not (relation == CHANGED_RELATION and entity in _world().changed)  # the two checkpoints differ there
        ]
    if given is None:
        given = [one for one in facts if _asks_alike(one, prompt) and one.span("subject") != prompt.span("subject")]
    return _pick(given, count, seed, "neighbour", prompt)


def in_world(prompt: Prompt) -> bool:
    """Whether the prompt is a fact sentence of the generated world, word for word."""
    relation, number, entity = (prompt.meta.get(name) for name in ("relation", "template", "entity"))
    if relation not in FACTS or not isinstance(number, int) or not isinstance(entity, int):
        return False
    known = 0 <= number < len(FACTS[relation]) and 0 <= entity < len(_world().entities)
    return known and FACTS[relation][number].format(s=_world().entities[entity]) == prompt.text


def relation_of(prompt: Prompt) -> Any:
    """The prompt's relation, from its `meta`; None where nothing is said."""
    return next((prompt.meta[name] for name in RELATION if prompt.meta.get(name) is not None), None)


@cache
def _world() -> World:
    return World.generate()


def _held_out(relation: str, entity: int) -> int:
    return _world().heldout[relation][entity]


def _world_prompt(relation: str, entity: int, number: int) -> Prompt:
    world = _world()
    subject = world.entities[entity]
    answer = " " + world.attribute(relation, entity)
    where = {"relation": relation, "template": number, "entity": entity}
    return Prompt.of(
        FACTS[relation][number].format(s=subject),
        answer=answer,
        id=f"{relation}-{entity}-{number}",
        meta=where,
        subject=subject,
    )


def _asks_alike(one: Prompt, prompt: Prompt) -> bool:
    relation = relation_of(prompt)
    return relation is not None and relation_of(one) == relation and "subject" in one.spans


def _given(prompt: Prompt, kind: str) -> list[Prompt] | None:
    """What the prompt's meta says, or None where it says nothing."""
    for name in NAMES[kind]:
        if (found := prompt.meta.get(name)) is None:
            continue
        if isinstance(found, str | Prompt | Mapping) or not isinstance(found, Sequence):
            raise BadInput(f"meta[{name!r}] of {prompt.text!r} must be a list of texts or Prompts; not {found!r:.80}.")
        return [_as_prompt(one, prompt, kind, name) for one in found]
    return None


def _as_prompt(one: Any, prompt: Prompt, kind: str, name: str) -> Prompt:
    if isinstance(one, Prompt):
        return one
    if not isinstance(one, str):
        raise BadInput(f"meta[{name!r}] of {prompt.text!r} must hold texts or Prompts; not {one!r:.80}.")
    subject = prompt.span("subject")
    if (
        kind == "paraphrase" and subject in one
    ):  # published paraphrases repeat it at times; the last is the one asked about
        return Prompt.of(one, subject=subject, occurrence=-1)
    return Prompt.of(one)


def _pick(given: Sequence[Prompt], count: int, seed: int, kind: str, prompt: Prompt) -> tuple[Prompt, ...]:
    """`count` of them: from the beginning of a published list, else by seed, those with the prompt's own answer first."""
    if count < 0:
        raise BadInput(f"the number of {kind}s must be 0 or more; not {count}.")
    if _given(prompt, kind) is not None:
        return tuple(given[:count])
    order = numpy_generator(seed, kind, prompt.id).permutation(len(given))
    shuffled = [given[place] for place in order]
    return tuple(sorted(shuffled, key=lambda one: one.answer != prompt.answer)[:count])
