"""Which texts a vector is to fire on: each text once, the concepts it belongs to, and on which half it is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.core.errors import BadInput, listing
from interp.core.lm import LM
from interp.core.seed import numpy_generator
from interp.data import Corpus, corpus
from interp.data.concepts import Concepts
from interp.data.sources import read_texts

FEWEST = 4
"""Texts on either side: two to choose a sign and a threshold on, two to be scored."""


@dataclass(frozen=True, eq=False)
class Material:
    """Texts, each once, as one corpus."""

    names: tuple[str, ...]
    """The concepts that are scored."""
    texts: tuple[str, ...]
    member: np.ndarray
    """Whether a text is one of a concept's, bool [text, concept]."""
    held: np.ndarray
    """Whether a text is kept for scoring, bool [text]."""
    source: tuple[str, ...]
    """Where a text comes from: names of concepts, or of the further file."""
    corpus: Corpus


def material(
    lm: LM, data: object, names: Sequence[str], further: str, *, split: str, most: int, bos: bool | None, seed: int
) -> Material:
    """The texts of all concepts of `data` and of the file `further`, as a corpus of the model. Raises `BadInput`."""
    if not isinstance(data, Concepts) or not data:
        raise BadInput(
            f"this method needs concepts with texts; not {type(data).__name__}. Read them with `interp.data.concepts(FILE)`."
        )
    chosen = tuple(dict.fromkeys(names)) or tuple(data.names)
    for name in chosen:
        if not data.get(name).texts:
            some = [concept.name for concept in data if concept.texts]
            told = f"; {listing(some)} have" if some else ", and no other concept has any"
            raise BadInput(
                f"the concept {name!r} has no texts to fire on{told}. Give it `texts` (running text about it), or choose by `concept` "
                "those that have."
            )
    first: dict[
        str, str
    ] = {}  # of texts that differ in spaces or capitals only, one on either half would tell the other
    owners: dict[str, dict[str, None]] = {}
    for concept in data:
        for text in concept.texts:
            owners.setdefault(first.setdefault(_bare(text), text), {})[concept.name] = None
    if further:
        for text in _further(further, split, most):
            owners.setdefault(first.setdefault(_bare(text), text), {}).setdefault(further, None)
    texts = tuple(owners)
    member = np.array([[name in owners[text] for name in chosen] for text in texts])
    source = tuple(" + ".join(owners[text]) for text in texts)
    held = _halves(source, seed)
    _check(chosen, member, held, further)
    return Material(chosen, texts, member, held, source, corpus(texts, lm.tokenizer, n_ctx=lm.spec.n_ctx, bos=bos))


def _bare(text: str) -> str:
    """A text without what does not make it another one."""
    return " ".join(text.split()).casefold()


def _further(path: str, split: str, most: int) -> list[str]:
    """At most `most` texts of a file, evenly spread over it."""
    named, _ = read_texts(path, split=split, field="text", subset=None)
    found = [text for _, text in named if text.strip()]
    if not found:
        raise BadInput(f"`corpus={path!r}` holds no text. Give a file with some, or leave it out.")
    places = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))
    return [found[place] for place in places]


def _check(names: Sequence[str], member: np.ndarray, held: np.ndarray, further: str) -> None:
    for column, name in enumerate(names):
        mine = member[:, column]
        inside, outside = int(mine.sum()), int((~mine).sum())
        if inside < FEWEST:
            raise BadInput(
                f"the concept {name!r} has {inside} different text{'s' * (inside != 1)}. A sign and a threshold are chosen on one half "
                f"and scored on the other: give {FEWEST} or more (a long article falls into chunks as `wikipedia_content`)."
            )
        if outside < FEWEST:
            more = " cut into more texts (`corpus_split='line'` or 'blank')" if further else " with `corpus=FILE`"
            raise BadInput(
                f"{outside} of the texts are not about {name!r}, and {FEWEST} or more are needed to be selective against. "
                f"Give a second concept with texts, or further text{more}."
            )
        if min(int((side & half).sum()) for side in (mine, ~mine) for half in (held, ~held)) < FEWEST // 2:
            raise BadInput(
                f"texts of {name!r} belong to other concepts too, and the split leaves fewer than {FEWEST // 2} of a kind on one half. "
                "Give more texts, or another `seed`."
            )


def _halves(source: Sequence[str], seed: int) -> np.ndarray:
    """Texts in a seeded order, source by source; every second one is held out."""
    order: list[int] = []
    for name in dict.fromkeys(source):
        places = np.flatnonzero([one == name for one in source])
        order += places[numpy_generator(seed, "firing split", name).permutation(len(places))].tolist()
    held = np.zeros(len(source), dtype=bool)
    held[order[1::2]] = True
    return held
