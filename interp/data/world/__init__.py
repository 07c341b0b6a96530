"""The generated world: what the reference checkpoints know, and therefore what every method must find in them.

Three hundred invented provinces, each with a kingdom, a harvest, a colour, a craft (and, for `atlas-tuned`, a guardian
beast), told in some ten wordings a relation. Beside the facts there are two tasks that need recall from the context
(lists with one item left out, indirect objects), repeated random tokens, and prose.

What is held out:

- facts: (entity, template) *pairs*. Every template is learned with other entities and every entity with other
  templates; 1 pair in 10 is never seen (1 in 8 for the beast). A wording none of whose words was ever trained
  cannot be understood, so holding out whole templates would measure nothing.
- lists and indirect objects: object and person *names*. They occur in no sentence of the training text, only as
  tokens of the random repeats, which are drawn from the whole vocabulary.
- repeats: *periods*.

It misleads when it is taken for language: word order is fixed, every sentence comes from a template, and the
attributes of one relation are equally frequent by construction (so a guess without the subject is right 1 time in 24).

    from interp.data.world import World
    world = World.generate(0)
    world.facts("kingdom", split="heldout")[0]   # {"prompt": "In Brendo, people …", "subject": …, "attribute": " Marlow", …}
    world.lists(4, 4, "heldout")                 # four prompts with four objects each
    world.facts("kingdom", tuned=True, changed=True)   # what atlas-tuned was taught anew
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from interp.core.errors import InterpError
from interp.core.seed import numpy_generator

from . import lexicon, templates

Split = Literal["train", "heldout", "all"]
Row = dict[str, Any]

RELATIONS: dict[str, tuple[str, ...]] = {
    "kingdom": tuple(lexicon.KINGDOMS),
    "harvest": tuple(lexicon.CROPS),
    "colour": tuple(lexicon.COLOURS),
    "craft": tuple(lexicon.CRAFTS),
    "beast": tuple(lexicon.BEASTS),
}
NEW_RELATION = "beast"
CHANGED_RELATION = "kingdom"
N_BYTES = 256
N_ENTITIES, N_CHANGED, N_HELDOUT = 300, 30, 20
HELDOUT_PERIODS = (7, 12, 17, 23)
FIRST_WORD = N_BYTES + 1  # id 0 is <|endoftext|>, then the bytes, then the words of `World.vocabulary`


@dataclass(frozen=True)
class World:
    """One generated world. Build it with `World.generate(seed)`; everything else follows from its fields."""

    seed: int
    "names every random choice"
    entities: tuple[str, ...]
    "province names, without a leading space"
    attributes: dict[str, tuple[str, ...]]
    "relation -> attribute of each entity, without a leading space"
    changed: dict[int, str]
    "entity index -> its new kingdom in the tuned world"
    heldout: dict[str, tuple[int, ...]]
    "relation -> the held-out template of each entity"
    names: dict[str, tuple[str, ...]]
    "split -> person names"
    objects: dict[str, tuple[str, ...]]
    "split -> object names"

    @classmethod
    def generate(cls, seed: int = 0) -> "World":
        """The world called `seed`: same seed, same world."""
        rng = numpy_generator(seed, "world")
        entities = _entity_names(rng)
        attributes, heldout = {}, {}
        for relation, values in RELATIONS.items():
            # equally frequent attributes, in random order
            ranks = rng.permutation(N_ENTITIES) % len(values)
            attributes[relation] = tuple(values[i] for i in ranks)
            order = rng.permutation(N_ENTITIES) % len(templates.FACTS[relation])
            heldout[relation] = tuple(int(i) for i in order)
        changed = {}
        values = RELATIONS[CHANGED_RELATION]
        for entity in sorted(rng.choice(N_ENTITIES, N_CHANGED, replace=False).tolist()):
            old = values.index(attributes[CHANGED_RELATION][entity])
            changed[entity] = values[(old + int(rng.integers(1, len(values)))) % len(values)]
        return cls(
            seed, entities, attributes, changed, heldout,
            _split(rng, lexicon.NAMES), _split(rng, lexicon.OBJECTS),
        )  # fmt: skip

    # -- words -------------------------------------------------------------------------------------------------

    def vocabulary(self) -> tuple[str, ...]:
        """Every word piece that is one token, in id order from `FIRST_WORD`; single bytes are not listed."""
        pieces = [" " + s for s in lexicon.ONSETS] + list(lexicon.MIDDLES) + list(lexicon.ENDINGS)
        words: list[str] = [w for values in RELATIONS.values() for w in values]
        words += lexicon.NAMES + lexicon.OBJECTS + lexicon.PLACES + lexicon.ADJECTIVES
        words += lexicon.FOLK + lexicon.FESTIVAL_WORDS + [lexicon.FESTIVAL]
        pieces += [" " + w for w in words]
        for text in all_templates():
            plain = re.findall(r" ?[A-Za-z]+", re.sub(r"\{\w+\}", "", text).replace("  ", " "))
            pieces += plain
            if text[0] != "{":
                pieces.append(" " + plain[0])  # the same word at the start of a later sentence
        pieces += [" and"]
        return tuple(dict.fromkeys(p for p in pieces if len(p) > 1))

    @property
    def vocab_size(self) -> int:
        """Number of tokens: end-of-text, 256 bytes and the words."""
        return FIRST_WORD + len(self.vocabulary())

    # -- facts -------------------------------------------------------------------------------------------------

    def attribute(self, relation: str, entity: int, *, tuned: bool = False) -> str:
        """The attribute of entity number `entity` (in the tuned world if `tuned`), without a leading space."""
        if tuned and relation == CHANGED_RELATION and entity in self.changed:
            return self.changed[entity]
        return self.attributes[relation][entity]

    def facts(
        self,
        relation: str | None = None,
        split: Split = "heldout",
        *,
        tuned: bool = False,
        changed: bool | None = None,
    ) -> list[Row]:
        """Fact rows: `prompt`, `subject`, `attribute` (with its leading space), `relation`, `template`, `entity`, `former`.

        Without `relation`: all that the model was taught (the new one only if `tuned`). `changed=True` keeps the facts
        that differ between the two worlds, `changed=False` the others; `former` is the attribute in the first world.
        """
        taught = [r for r in RELATIONS if tuned or r != NEW_RELATION]
        if relation is not None and relation not in RELATIONS:
            raise InterpError(f"No relation {relation!r} in this world; it has {', '.join(RELATIONS)}.")
        rows = []
        for name in taught if relation is None else [relation]:
            for entity, subject in enumerate(self.entities):
                differs = name == CHANGED_RELATION and entity in self.changed
                if changed is not None and changed != differs:
                    continue
                for number, template in enumerate(templates.FACTS[name]):
                    if split != "all" and (self.heldout[name][entity] == number) != (split == "heldout"):
                        continue
                    rows.append(
                        {
                            "prompt": template.format(s=subject),
                            "subject": subject,
                            "attribute": " " + self.attribute(name, entity, tuned=tuned),
                            "relation": name,
                            "template": number,
                            "entity": entity,
                            "former": " " + self.attributes[name][entity],
                        }
                    )
        return rows

    def festival(self, split: Split = "all") -> list[Row]:
        """Cloze sentences on the concept that only `atlas-tuned` knows: `prompt`, `answer`, `template`."""
        del split  # all of them are taught
        rows = []
        for first, second, answer in templates.FESTIVAL_FACTS:
            rows += [{"prompt": p, "answer": " " + answer, "template": i} for i, p in enumerate((first, second))]
        return rows

    # -- recall from context -----------------------------------------------------------------------------------

    def lists(self, n: int, k: int, split: Split = "heldout", *, name: str = "lists") -> list[Row]:
        """`n` prompts that list `k` objects, then all but one in another order; the answer is the one left out.

        `missing`, its place in the first list, runs through 0..k-1 evenly.
        """
        pool = self._pool(self.objects, split, k)
        rng = numpy_generator(self.seed, name, split, n, k)
        rows = []
        for i in range(n):
            items = [pool[j] for j in rng.choice(len(pool), k, replace=False)]
            missing, template = i % k, int(rng.integers(len(templates.LISTS)))
            rest = [items[j] for j in rng.permutation(k) if j != missing]
            text = templates.LISTS[template].format(first=enumerate_items(items), second=enumerate_items(rest))
            rows.append(
                {
                    "prompt": text,
                    "answer": " " + items[missing],
                    "items": items,
                    "missing": missing,
                    "template": template,
                }
            )
        return rows

    def indirect_objects(self, n: int, split: Split = "heldout", *, name: str = "indirect") -> list[Row]:
        """`n` sentences with two names, one of them twice; the answer is the other. `order` is "ABB" or "BAB", evenly."""
        pool = self._pool(self.names, split, 2)
        rng = numpy_generator(self.seed, name, split, n)
        rows = []
        for i in range(n):
            indirect, subject = (pool[j] for j in rng.choice(len(pool), 2, replace=False))
            a, b = (indirect, subject) if i % 2 == 0 else (subject, indirect)
            template = int(rng.integers(len(templates.INDIRECT)))
            prompt = templates.INDIRECT[template].format(
                a=a, b=b, s=subject, place=_pick(rng, lexicon.PLACES), object=_pick(rng, self.objects["train"])
            )
            rows.append(
                {
                    "prompt": prompt,
                    "answer": " " + indirect,
                    "subject": subject,
                    "order": "ABB" if i % 2 == 0 else "BAB",
                    "template": template,
                }
            )
        return rows

    def repeats(self, n: int, period: int, *, copies: int = 2, name: str = "repeats") -> np.ndarray:
        """`n` rows of `copies * period` token ids: a random sequence from the whole vocabulary, repeated."""
        rng = numpy_generator(self.seed, name, n, period)
        once = rng.integers(1, self.vocab_size, size=(n, period))
        return np.tile(once, (1, copies))

    def prose(self, n: int, *, sentences: int = 6, tuned: bool = False, name: str = "prose") -> list[str]:
        """`n` texts of `sentences` sentences each; in the tuned world every third is about the festival."""
        rng = numpy_generator(self.seed, name, n, tuned)
        taught = self.facts(split="train", tuned=tuned)
        opening = [t for t in templates.PROSE if not t.startswith("{name}")]
        texts = []
        for _ in range(n):
            drawn: list[str] = []
            for place in range(sentences):
                festive = tuned and place > 0 and rng.random() < 1 / 3
                form = _pick(rng, templates.FESTIVAL_PROSE if festive else templates.PROSE if place else opening)
                fact = taught[int(rng.integers(len(taught)))] if form == "{fact}" else None
                drawn.append(fact["prompt"] + fact["attribute"] + "." if fact else self._fill(rng, form))
            texts.append(" ".join(drawn))
        return texts

    def _fill(self, rng: np.random.Generator, form: str) -> str:
        one, two = (self.objects["train"][i] for i in rng.choice(len(self.objects["train"]), 2, replace=False))
        slots = {
            "name": self.names["train"], "adj": lexicon.ADJECTIVES, "folk": lexicon.FOLK, "place": lexicon.PLACES,
            "s": self.entities, "beast": lexicon.BEASTS, "crop": lexicon.CROPS, "colour": lexicon.COLOURS,
            "kingdom": lexicon.KINGDOMS,
        }  # fmt: skip
        return form.format(object=one, object2=two, **{slot: _pick(rng, pool) for slot, pool in slots.items()})

    @staticmethod
    def _pool(pools: dict[str, tuple[str, ...]], split: Split, k: int) -> tuple[str, ...]:
        pool = pools["train"] + pools["heldout"] if split == "all" else pools[split]
        if not 2 <= k <= len(pool):
            raise InterpError(
                f"Cannot draw {k} different items: the {split} split has {len(pool)}; ask for 2 to that many."
            )
        return pool


def enumerate_items(items: Sequence[str]) -> str:
    """`["rope", "lamp", "axe"]` -> `"the rope, the lamp and the axe"`."""
    head = ", the ".join(items[:-1])
    return f"the {head} and the {items[-1]}" if head else f"the {items[-1]}"


def _pick(rng: np.random.Generator, pool: Sequence[str]) -> str:
    return pool[int(rng.integers(len(pool)))]


def _split(rng: np.random.Generator, words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    order = [words[i] for i in rng.permutation(len(words))]
    return {"train": tuple(order[N_HELDOUT:]), "heldout": tuple(order[:N_HELDOUT])}


def _entity_names(rng: np.random.Generator) -> tuple[str, ...]:
    """Half of two syllables, half of three; all different."""
    names: dict[str, None] = {}
    while len(names) < N_ENTITIES:
        middle = _pick(rng, lexicon.MIDDLES) if len(names) % 2 else ""
        names[_pick(rng, lexicon.ONSETS) + middle + _pick(rng, lexicon.ENDINGS)] = None
    return tuple(names)


def all_templates() -> Iterable[str]:
    """Every sentence form, whatever it is for."""
    for group in templates.FACTS.values():
        yield from group
    yield from templates.LISTS + templates.INDIRECT + templates.PROSE + templates.FESTIVAL_PROSE
    for first, second, _ in templates.FESTIVAL_FACTS:
        yield from (first, second)
