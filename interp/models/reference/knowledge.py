"""What the embedded checkpoints know, as concepts: the words, the texts that taught them, and the questions that ask for them.

    from interp.models import reference
    concepts = reference.concept_set("atlas")          # kingdom, harvest, colour, craft
    concepts.get("colour").words                       # its 24 colours
    reference.labelled("atlas", "colour", 60)          # sentences on colours, each beside another on the same province

A concept's texts are sentences that the checkpoint was trained on; its related prompts ask in wordings that were held out for that
province, with the gold answer, and its unrelated ones ask for the other relations. `atlas-tuned` also has `beast` (a relation that `atlas`
was never taught), `festival` (Emberfest, likewise) and `changed` (thirty kingdoms that tuning changed; each prompt's foil is what `atlas`
says), so that for these `atlas` is the clean model that unlearning ought to give back.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from interp.core.errors import one_of
from interp.core.seed import numpy_generator

if TYPE_CHECKING:
    from interp.data import Concept, Concepts, Labelled, Prompt
    from interp.data.world import World

PLAIN = ("kingdom", "harvest", "colour", "craft")
NEW = ("beast", "festival", "changed")


def concept_set(name: str = "atlas", n: int = 40, texts: int = 120, seed: int = 0) -> "Concepts":
    """The concepts of a reference checkpoint, with up to `n` related and `n` unrelated prompts and `texts` texts each."""
    from interp.data import Concepts

    from . import path

    path(name)
    return Concepts(_concepts(name == "atlas-tuned", n, texts, seed))


def labelled(name: str = "atlas", topic: str = "colour", n: int = 120, seed: int = 0) -> "Labelled":
    """`n` pairs of sentences about one province, up to where the answer begins: one on the topic, one on another relation.

    Only the wordings differ, and no answer is in them. For `festival`, prose with and without Emberfest, not paired.
    """
    from interp.data import labelled as read
    from interp.data.world import World

    from . import path

    path(name)
    tuned = name == "atlas-tuned"
    one_of("topic", topic, _topics(tuned))
    world, rng = World.generate(), numpy_generator(seed, "labelled texts", topic)
    if topic == "festival":
        festive = [text for text in _festive(world, seed)][:n]
        plain = world.prose(len(festive), sentences=1, name="labelled texts")
        return read(positive=festive, negative=plain, name=f"{name}: {topic}")
    kind = "kingdom" if topic == "changed" else topic
    others = [other for other in _relations(tuned) if other != kind]
    positive, negative = [], []
    entities = rng.permutation(sorted(world.changed) if topic == "changed" else len(world.entities))
    for place in range(n):
        entity = int(entities[place % len(entities)])
        positive.append(_sentence(world, kind, entity, rng))
        negative.append(_sentence(world, others[int(rng.integers(len(others)))], entity, rng))
    return read(positive=positive, negative=negative, paired=True, name=f"{name}: {topic}")


@lru_cache(maxsize=8)
def _concepts(tuned: bool, n: int, texts: int, seed: int) -> "tuple[Concept, ...]":
    """The concepts of one of the two, which take a third of a second to write out."""
    from interp.data.world import World

    world = World.generate()
    asked = {topic: _asked(world, topic, tuned, seed) for topic in _topics(tuned)}
    return tuple(_concept(world, topic, asked, (n, texts), tuned, seed) for topic in asked)


def _topics(tuned: bool) -> tuple[str, ...]:
    return (*PLAIN, *NEW) if tuned else PLAIN


def _relations(tuned: bool) -> tuple[str, ...]:
    return (*PLAIN, "beast") if tuned else PLAIN


def _sentence(world: "World", relation: str, entity: int, rng: Any) -> str:
    from interp.data.world import templates

    forms = templates.FACTS[relation]
    return forms[int(rng.integers(len(forms)))].format(s=world.entities[entity])


def _rows(world: "World", topic: str, split: Any, tuned: bool) -> list[dict[str, Any]]:
    if topic == "festival":
        return [row | {"attribute": row["answer"]} for row in world.festival()]
    changed = None if not tuned or topic not in ("kingdom", "changed") else topic == "changed"
    return world.facts("kingdom" if topic == "changed" else topic, split, tuned=tuned, changed=changed)


def _asked(world: "World", topic: str, tuned: bool, seed: int) -> "list[Prompt]":
    """Held-out prompts with their gold answers, in a fixed random order."""
    from interp.data import Prompt

    rows = _rows(world, topic, "heldout", tuned)
    order = numpy_generator(seed, "concept prompts", topic).permutation(len(rows))
    found = []
    for place in order:
        row = rows[place]
        spans = {"subject": row["subject"]} if "subject" in row else {}
        foil = row["former"] if topic == "changed" else None
        found.append(Prompt.of(row["prompt"], answer=row["attribute"], foil=foil, meta={"topic": topic}, **spans))
    return found


def _festive(world: "World", seed: int) -> list[str]:
    """Sentences on Emberfest alone."""
    from interp.data.world import lexicon, templates

    del seed
    rng = numpy_generator(0, "festival texts")
    texts = [f"{row['prompt']}{row['answer']}." for row in world.festival()]
    pools = {"name": world.names["train"], "folk": lexicon.FOLK, "place": lexicon.PLACES, "adj": lexicon.ADJECTIVES}
    for place in range(120):
        form = templates.FESTIVAL_PROSE[place % len(templates.FESTIVAL_PROSE)]
        texts.append(form.format(**{slot: pool[int(rng.integers(len(pool)))] for slot, pool in pools.items()}))
    return list(dict.fromkeys(texts))


def _concept(
    world: "World", topic: str, asked: "dict[str, list[Prompt]]", sizes: tuple[int, int], tuned: bool, seed: int
) -> Any:
    from interp.data import Concept, Prompt
    from interp.data.world import RELATIONS, lexicon

    n, size = sizes
    rng = numpy_generator(seed, "concept texts", topic)
    if topic == "festival":
        texts = _festive(world, seed)
    else:
        rows = _rows(world, topic, "train", tuned)
        texts = [f"{row['prompt']}{row['attribute']}." for row in rows]
    texts = [texts[place] for place in rng.permutation(len(texts))[:size]]
    words: Sequence[str] = RELATIONS.get("kingdom" if topic == "changed" else topic) or (
        *lexicon.FESTIVAL_WORDS, lexicon.FESTIVAL,
    )  # fmt: skip
    apart = {topic, "kingdom"} if topic == "changed" else {topic, "changed"} if topic == "kingdom" else {topic}
    rest = [other for other in asked if other not in apart]
    unrelated = [asked[other][place] for place in range(n) for other in rest if place < len(asked[other])][:n]
    halves = [_halves(text) for text in texts[:10]]
    return Concept(
        topic, tuple(words), (), tuple(asked[topic][:n]), tuple(unrelated),
        tuple(Prompt.of(first, answer=second) for first, second in halves), tuple(texts),
    )  # fmt: skip


def _halves(text: str) -> tuple[str, str]:
    """A text cut before its middle word; the second half keeps its space."""
    words = text.split(" ")
    middle = max(1, len(words) // 2)
    return " ".join(words[:middle]), " " + " ".join(words[middle:])
