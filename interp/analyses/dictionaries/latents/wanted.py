"""Which latents are looked at: picked by how often they fire, or by a search on one half of the texts that the other half tests."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interp.core.errors import BadInput
from interp.core.seed import numpy_generator
from interp.core.stats import holm

from .search import Tokens, auc, difference, p_values, shifted_sums
from .tally import Firings, Tally

LEAST_HITS = 3
"""Tokens of a word that each half must have."""
DRAWS_A_TEST = 40
"""Rotations for each latent and word that are tested: then the smallest p, corrected, is 1/40 and not above 0.05 whatever is found."""


def halves(texts: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Which half each document is of [document]: pieces of one text on the same, unless there is only one text."""
    labels = np.asarray(texts)
    if len(np.unique(labels)) < 2:
        labels = np.arange(len(labels))
    names, number = np.unique(labels, return_inverse=True)
    side = np.arange(len(names)) % 2
    return np.asarray(rng.permutation(side)[number], dtype=np.int64)


def spread(tally: Tally, n: int, order: str, seed: int) -> list[int]:
    """`n` of the latents that are on somewhere, rising."""
    alive = np.flatnonzero(tally.count.sum(axis=0) > 0)
    if not len(alive):
        raise BadInput(
            "no latent of the dictionary is on anywhere in this text. Is it of this model and site, and is its threshold calibrated?"
        )
    by_density = alive[np.argsort(-tally.density[alive], kind="stable")]
    size = min(n, len(alive))
    if order == "random":
        chosen = numpy_generator(seed, "latents shown").permutation(alive)[:size]
    elif order == "strong":
        chosen = alive[np.argsort(-tally.most[alive], kind="stable")][:size]
    elif order == "spread":
        chosen = by_density[np.unique(np.linspace(0, len(alive) - 1, size).round().astype(int))]
    else:
        chosen = by_density[:size] if order == "dense" else by_density[::-1][:size]
    return sorted(int(one) for one in chosen)


class Searched:
    """What a search found: the latents that were tested for each word, and how that came out [query, candidate], padded by -1 and NaN."""

    def __init__(self, tested: Mapping[str, Sequence[int]], *, named: bool) -> None:
        self.tested = {word: [int(one) for one in latents] for word, latents in tested.items()}
        self.named = named
        """Whether the latents were named by the caller: they are then tested on all texts."""
        self.every = list(dict.fromkeys(one for latents in self.tested.values() for one in latents))
        shape = (len(self.tested), max(map(len, self.tested.values())))
        self.ids = np.full(shape, -1)
        self.difference, self.on, self.off, self.auc, self.p, self.p_holm = (np.full(shape, np.nan) for _ in range(6))
        self.hits = np.zeros(len(self.tested), dtype=np.int64)

    def test(
        self, firings: Firings, tally: Tally, data: Any, half: np.ndarray, *, bos: bool, draws: int, seed: int
    ) -> None:
        """Difference, AUC and p of every candidate, on the half that did not pick it."""
        draws = max(draws, DRAWS_A_TEST * sum(map(len, self.tested.values())) - 1)
        starts = np.cumsum([0, *data.lengths])
        skip = int(data.bos and not bos)
        ids = np.concatenate([document.numpy() for document in data.documents])
        kept = np.flatnonzero(self.named | (half == 1))
        spans = np.stack([starts[:-1] + skip, starts[1:]], axis=1)[kept]
        spans = spans[spans[:, 1] > spans[:, 0]]
        for row, (word, latents) in enumerate(self.tested.items()):
            everywhere = np.flatnonzero(np.isin(ids, tally.queries[word]))
            tokens = Tokens(spans, everywhere)
            tokens = Tokens(spans, everywhere[tokens.keep(everywhere)])
            mine = []
            for latent in latents:
                rows, values = firings.of(firings.chosen.index(latent))
                here = tokens.keep(rows)
                mine.append((rows[here], values[here]))
            self.hits[row] = len(tokens.hits)
            how = {"count": tokens.count, "hits": len(tokens.hits)}
            inside = [np.isin(rows, tokens.hits) for rows, _ in mine]
            sums = np.array([values[on].sum() for (_, values), on in zip(mine, inside, strict=True)])
            totals = np.array([values.sum() for _, values in mine])
            drawn = shifted_sums(tokens, mine, draws=draws, seed=seed, name=word)
            size = len(latents)
            self.ids[row, :size] = latents
            self.on[row, :size] = sums / how["hits"]
            self.off[row, :size] = (totals - sums) / (how["count"] - how["hits"])
            self.difference[row, :size] = [difference(t, s, **how) for t, s in zip(totals, sums, strict=True)]
            self.auc[row, :size] = [auc(values, on, **how) for (_, values), on in zip(mine, inside, strict=True)]
            self.p[row, :size] = p_values(sums, drawn)
        self.p_holm = np.asarray(holm(self.p))

    def best(self, n: int) -> list[int]:
        """The `n` latents with the smallest corrected p, then the largest AUC, over all words."""
        order = np.lexsort((-self.auc.ravel(), self.p_holm.ravel()))
        found = self.ids.ravel()[order]
        return list(dict.fromkeys(int(one) for one in found if one >= 0))[:n]


def searched(
    tally: Tally, queries: Mapping[str, Sequence[int]], named: Sequence[int], candidates: int
) -> Searched | None:
    """The latents that are to be tested for each word; None without words. Raises `BadInput` for words that hardly occur."""
    if not queries:
        return None
    tested = {}
    for word in queries:
        hits = tally.hits[word]
        few = int(hits.sum() if named else hits.min()) < LEAST_HITS
        if few or int((tally.rows - hits).min()) < LEAST_HITS:
            sides = "" if named else f" ({int(hits[0])} and {int(hits[1])} on the two halves of the texts)"
            where = "" if named else " on either half"
            raise BadInput(
                f"{word!r} is {int(hits.sum())} of the {int(tally.rows.sum()):,} tokens of this text{sides}; {LEAST_HITS}{where} are "
                "needed, and as many others. Bring more text, or another word."
            )
        score = tally.specific(word, 0)
        best = np.argsort(-score, kind="stable")[:candidates]
        tested[word] = list(named) or [int(one) for one in best if np.isfinite(score[one])]
        if not tested[word]:
            raise BadInput("no latent of the dictionary is on anywhere in one half of this text. Bring more text.")
    return Searched(tested, named=bool(named))
