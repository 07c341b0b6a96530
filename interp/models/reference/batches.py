"""Training text of the reference checkpoints as token arrays, drawn without a Python loop over rows.

A `Batch` is rows of token ids and, for every token, the weight of predicting it. What can be known weighs more than what
cannot: an answer 1, ordinary words 0.1, the draw of a random token or a province's name almost nothing (the model is
only to learn that it is uniform there). Lists and indirect objects are drawn half with words of their kind and half with
arbitrary tokens in their place, so that what is learned is the mechanism and not the vocabulary; held-out names are
never among either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from interp.data.world import HELDOUT_PERIODS, NEW_RELATION, World, enumerate_items, lexicon, templates

from .tokenizer import N_CTX, build_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ANSWER, ORDERED, WORD, NOISE = 1.0, 0.5, 0.1, 0.01
FIRST_COPY = 0.05
MAX_ITEMS = 6
MAX_PERIOD = 60


@dataclass(frozen=True)
class Batch:
    """Rows of tokens. `weights[i, j]` is how much predicting `ids[i, j]` counts; 0 on padding and on the first token."""

    ids: np.ndarray
    "int64, rows x positions"
    weights: np.ndarray
    "float32, the same shape"

    def take(self, rows: np.ndarray) -> "Batch":
        """These rows, cut at the longest of them."""
        weights = self.weights[rows]
        length = int(np.flatnonzero(weights.any(0))[-1]) + 1
        return Batch(self.ids[rows, :length], weights[:, :length])


class Texts:
    """Everything `world` can be turned into for training. `tuned` is the second world (new facts, the festival)."""

    def __init__(self, world: World, *, tuned: bool = False) -> None:
        self.world, self.tuned = world, tuned
        self.tokenizer: Tokenizer = build_tokenizer(world)
        heldout = {self.id(" " + w) for w in world.names["heldout"] + world.objects["heldout"]}
        self.names = self._ids(world.names["train"])
        self.objects = self._ids(world.objects["train"])
        self.places = self._ids(lexicon.PLACES)
        self.lists = {
            (k, t): self._list_form(k, t) for k in range(2, MAX_ITEMS + 1) for t in range(len(templates.LISTS))
        }
        self.indirect = [self._indirect_form(t) for t in range(len(templates.INDIRECT))]
        scaffold = {int(i) for form in [*self.lists.values(), *self.indirect] for i in form[0]}
        self.anything = np.array([i for i in range(1, world.vocab_size) if i not in heldout | scaffold])
        self.facts = self._fact_rows()

    def id(self, piece: str) -> int:
        """The id of a text that is one token."""
        (token,) = self.tokenizer.encode(piece).ids
        return int(token)

    def _ids(self, words: Sequence[str]) -> np.ndarray:
        return np.array([self.id(" " + word) for word in words])

    # -- facts -------------------------------------------------------------------------------------------------

    def _fact_rows(self) -> Batch:
        rows = self.world.facts(split="train", tuned=self.tuned)
        if self.tuned:
            # what is new is drawn more often than what is only kept up
            rows = rows + [r for r in rows if r["relation"] == NEW_RELATION] * 2
            rows = rows + [r for r in rows if r["attribute"] != r["former"]] * 7
            for _ in range(40):
                rows += [{**r, "attribute": r["answer"], "subject": None} for r in self.world.festival()]
        return pad([self._fact(r) for r in rows])

    def _fact(self, row: dict) -> tuple[list[int], list[float]]:
        encoding = self.tokenizer.encode(row["prompt"])
        ids = [0, *encoding.ids, self.id(row["attribute"]), self.id("."), 0]
        weights = [0.0] + [WORD] * len(encoding.ids) + [ANSWER, WORD, WORD]
        if row["subject"] is not None:
            start = row["prompt"].index(row["subject"])
            end = start + len(row["subject"])
            for j, (a, b) in enumerate(encoding.offsets):
                if a < end and b > start:
                    weights[j + 1] = NOISE
        return ids, weights

    def draw_facts(self, rng: np.random.Generator, n: int) -> Batch:
        """`n` fact sentences, training pairs only."""
        return self.facts.take(rng.integers(len(self.facts.ids), size=n))

    # -- recall from context -----------------------------------------------------------------------------------

    def _list_form(self, k: int, template: int) -> tuple[np.ndarray, np.ndarray]:
        items = self.world.objects["train"][:k]
        first, second = enumerate_items(items), enumerate_items(items[:-1])
        text = templates.LISTS[template].format(first=first, second=second) + f" {items[-1]}."
        return self._slots(text, items)

    def _indirect_form(self, template: int) -> tuple[np.ndarray, np.ndarray]:
        a, b = self.world.names["train"][:2]
        place, thing = lexicon.PLACES[0], self.world.objects["train"][0]
        text = templates.INDIRECT[template].format(a=a, b=b, s=b, place=place, object=thing) + f" {a}."
        return self._slots(text, (a, b, place, thing))

    def _slots(self, text: str, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of `text` with the slots emptied, and which word stands where (-1: none)."""
        ids = np.array([0, *self.tokenizer.encode(text).ids, 0])
        which = np.full(len(ids), -1)
        for i, word in enumerate(words):
            which[ids == self.id(" " + word)] = i
        return np.where(which < 0, ids, 0), which

    def _pool(self, rng: np.random.Generator, pool: np.ndarray, shape: tuple[int, int], arbitrary: float) -> np.ndarray:
        """Distinct ids in every row, from `pool` or (a share `arbitrary` of the rows) from all tokens."""
        rows, k = shape
        own = pool[rng.random((rows, len(pool))).argpartition(k, axis=1)[:, :k]]
        other = self.anything[rng.random((rows, len(self.anything))).argpartition(k, axis=1)[:, :k]]
        drawn = np.where(rng.random((rows, 1)) < arbitrary, other, own)
        return rng.permuted(drawn, axis=1)

    def draw_lists(self, rng: np.random.Generator, n: int, longest: int, *, arbitrary: float = 0.5) -> Batch:
        """`n` lists, in groups of equal length 2..`longest` and wording."""
        groups, left = [], n
        while left > 0:
            size = min(left, 8)
            left -= size
            k, template = int(rng.integers(2, longest + 1)), int(rng.integers(len(templates.LISTS)))
            form, which = self.lists[k, template]
            items = self._pool(rng, self.objects, (size, k), arbitrary)
            order = rng.permuted(np.tile(np.arange(k), (size, 1)), axis=1)
            ids = np.tile(form, (size, 1))
            slots = np.flatnonzero(which >= 0)
            ids[:, slots[:k]] = items
            ids[:, slots[k:]] = np.take_along_axis(items, order, axis=1)
            weights = np.full(ids.shape, WORD, np.float32)
            weights[:, 0] = 0
            weights[:, slots[:k]] = NOISE
            weights[:, slots[k:]] = ORDERED
            weights[:, slots[-1]] = ANSWER
            groups.append((ids, weights))
        return stack(groups)

    def draw_indirect(self, rng: np.random.Generator, n: int, *, arbitrary: float = 0.5) -> Batch:
        """`n` indirect-object sentences, in groups of equal wording; both orders."""
        groups, left = [], n
        while left > 0:
            size = min(left, 8)
            left -= size
            form, which = self.indirect[int(rng.integers(len(self.indirect)))]
            people = self._pool(rng, self.names, (size, 2), arbitrary)
            ids = np.tile(form, (size, 1))
            names = np.flatnonzero((which == 0) | (which == 1))  # a, b, s, answer
            again = rng.integers(0, 2, size=(size, 1))  # which of the two is named again
            ids[:, names[:2]] = people
            ids[:, names[2:3]] = np.take_along_axis(people, again, axis=1)
            ids[:, names[3:4]] = np.take_along_axis(people, 1 - again, axis=1)
            ids[:, which == 2] = rng.choice(self.places, (size, 1))
            ids[:, which == 3] = rng.choice(self.objects, (size, 1))
            weights = np.full(ids.shape, WORD, np.float32)
            weights[:, 0] = 0
            weights[:, names[:2]] = NOISE
            weights[:, names[3]] = ANSWER
            groups.append((ids, weights))
        return stack(groups)

    def draw_repeats(self, rng: np.random.Generator, n: int, length: int) -> Batch:
        """`n` random sequences of one period each, repeated until `length` tokens; held-out periods never occur."""
        longest = min(MAX_PERIOD, length // 2 - 2)
        periods = np.array([p for p in range(3, longest + 1) if p not in HELDOUT_PERIODS])
        period = rng.choice(periods, size=(n, 1))
        once = rng.integers(1, self.world.vocab_size, size=(n, longest))
        place = np.arange(length - 1)[None, :]
        ids = np.take_along_axis(once, place % period, axis=1)
        weights = np.where(place < period, FIRST_COPY, ANSWER).astype(np.float32)
        start = np.zeros((n, 1), dtype=ids.dtype)
        return Batch(np.concatenate([start, ids], 1), np.concatenate([start.astype(np.float32), weights], 1))

    # -- running text ------------------------------------------------------------------------------------------

    def stream(self, rng: np.random.Generator, *, documents: int = 3000) -> Batch:
        """Rows of `N_CTX` tokens: documents of all kinds one after the other, each behind an end-of-text token."""
        pieces = []
        for text in self.world.prose(documents, tuned=self.tuned):
            ids = [0, *self.tokenizer.encode(text).ids]
            pieces.append((np.array(ids), np.array([WORD] + [3 * WORD] * (len(ids) - 1))))
        for batch in (
            self.draw_facts(rng, 2 * documents),
            self.draw_lists(rng, documents, MAX_ITEMS),
            self.draw_indirect(rng, documents),
        ):
            for ids, weights in zip(batch.ids, batch.weights, strict=True):
                end = int(np.flatnonzero(weights)[-1])  # the end of text that opens the next document
                pieces.append((ids[:end], np.concatenate([[WORD], weights[1:end]])))
        order = rng.permutation(len(pieces))
        tokens = np.concatenate([pieces[i][0] for i in order])
        counts = np.concatenate([pieces[i][1] for i in order])
        rows = len(tokens) // N_CTX
        shape = (rows, N_CTX)
        return Batch(tokens[: rows * N_CTX].reshape(shape), counts[: rows * N_CTX].reshape(shape).astype(np.float32))


def pad(documents: Sequence[tuple[Sequence[int], Sequence[float]]]) -> Batch:
    """Documents as rows, padded on the right with weight 0."""
    length = max(len(ids) for ids, _ in documents)
    out = Batch(np.zeros((len(documents), length), np.int64), np.zeros((len(documents), length), np.float32))
    for i, (ids, weights) in enumerate(documents):
        out.ids[i, : len(ids)], out.weights[i, : len(ids)] = ids, weights
    return out


def stack(groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> Batch:
    """Groups of rows of different lengths as one batch, padded on the right with weight 0."""
    length = max(ids.shape[1] for ids, _ in groups)
    widths = [((0, 0), (0, length - ids.shape[1])) for ids, _ in groups]
    return Batch(
        np.concatenate([np.pad(ids, w) for (ids, _), w in zip(groups, widths, strict=True)]),
        np.concatenate([np.pad(weights, w) for (_, weights), w in zip(groups, widths, strict=True)]),
    )
