"""Does a number separate some texts from others? Areas under the ROC curve of many scores at once, with whole texts as the unit.

    AUC = P(score of an item inside > score of one outside) + P(equal) / 2 = (sum of ranks inside - n1 (n1 + 1) / 2) / (n1 n0)

Items are texts, or the tokens of texts; in both cases the texts are what was drawn, so labels are exchanged and resampled by text.
Source: Mann & Whitney 1947; Hanley & McNeil 1982.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from interp.core.seed import numpy_generator
from interp.core.stats import Interval, percentile_limits


@dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks of scores among all items, summed over the items of each text."""

    sums: np.ndarray
    """float64 [text, column]."""
    sizes: np.ndarray
    """Items of each text, float64 [text]."""

    @classmethod
    def of(cls, scores: np.ndarray, owner: np.ndarray, texts: int) -> "Ranks":
        """Ranks of `scores` [item, column] whose text is `owner` [item]; ties share their mean rank."""
        from scipy.stats import rankdata

        ranks = np.asarray(rankdata(scores, axis=0), dtype=np.float64)
        sizes = np.bincount(owner, minlength=texts)
        return cls(by_text(np.add, ranks, owner, texts), sizes.astype(np.float64))

    def auc(self, inside: np.ndarray) -> np.ndarray:
        """AUC [..., column] of the texts `inside` [..., text] (bool) against the others; NaN where a side is empty."""
        inside = np.asarray(inside, dtype=np.float64)
        n1 = inside @ self.sizes
        n0 = self.sizes.sum() - n1
        with np.errstate(invalid="ignore", divide="ignore"):
            area = ((inside @ self.sums) - (n1 * (n1 + 1) / 2)[..., None]) / (n1 * n0)[..., None]
        return np.where((n1 * n0 > 0)[..., None], area, np.nan)


def by_text(reduce: np.ufunc, values: np.ndarray, owner: np.ndarray, texts: int) -> np.ndarray:
    """np.add, np.maximum or np.minimum of `values` [item, column] over the items of each text [text, column]; 0 for a text without any."""
    order = np.argsort(owner, kind="stable")
    present, starts = np.unique(owner[order], return_index=True)
    out = np.zeros((texts, values.shape[1]))
    out[present] = reduce.reduceat(values[order], starts, axis=0)
    return out


class Cut(NamedTuple):
    """A threshold chosen on some items."""

    threshold: float
    accuracy: float
    """Mean of the shares that are right inside and outside."""


def best_cut(scores: np.ndarray, inside: np.ndarray) -> Cut:
    """The threshold with the best balanced accuracy for scores [item]: inside is above. It lies midway between two scores."""
    order = np.argsort(scores, kind="stable")
    sorted_scores, flags = scores[order], inside[order].astype(np.float64)
    below = (
        np.r_[0.0, np.cumsum(flags)],
        np.r_[0.0, np.cumsum(1 - flags)],
    )  # items below the k-th gap, inside and outside
    right = 0.5 * (1 - below[0] / flags.sum() + below[1] / (1 - flags).sum())
    usable = np.r_[True, sorted_scores[1:] > sorted_scores[:-1], True]
    place = int(np.argmax(np.where(usable, right, -1.0)))
    if place in (0, len(scores)):
        return Cut(float(sorted_scores[0] - 1 if place == 0 else sorted_scores[-1] + 1), float(right[place]))
    return Cut(float((sorted_scores[place - 1] + sorted_scores[place]) / 2), float(right[place]))


def balanced_accuracy(scores: np.ndarray, inside: np.ndarray, threshold: float) -> float:
    """Mean of the share of items inside above the threshold, and of items outside at or below it."""
    above = scores > threshold
    return float((above[inside].mean() + (~above[~inside]).mean()) / 2)


def wins(scores: np.ndarray, owner: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Won comparisons [text inside, text outside] of items [item], ties half, and the items of each text inside and outside.

    `inside` [text] is bool; texts without items are left out.
    """
    present = np.unique(owner)
    mine, others = (present[inside[present] == side] for side in (True, False))
    sizes = np.bincount(owner, minlength=len(inside)).astype(np.float64)
    tokens = np.flatnonzero(inside[owner])
    row = np.searchsorted(mine, owner[tokens])
    table = np.zeros((len(mine), len(others)))
    for column, text in enumerate(others):
        rival = np.sort(scores[owner == text])
        won = (np.searchsorted(rival, scores[tokens], "left") + np.searchsorted(rival, scores[tokens], "right")) / 2
        table[:, column] = np.bincount(row, weights=won, minlength=len(mine))
    return table, sizes[mine], sizes[others]


def auc_interval(
    table: np.ndarray, mine: np.ndarray, others: np.ndarray, *, level: float, n: int, seed: int, name: str
) -> Interval:
    """AUC of `wins` with a bootstrap over texts, inside and outside each drawn by themselves; NaN limits below two texts a side.

    Levels are widened for few texts, as in `core.stats`. Where every comparison is won, the interval has no width: see the essay.
    """
    estimate = float(table.sum() / (mine.sum() * others.sum()))
    least = min(table.shape)
    if least < 2:
        return Interval(estimate, np.nan, np.nan)
    rng = numpy_generator(seed, name)
    a, b = (rng.multinomial(size, np.full(size, 1 / size), size=n).astype(np.float64) for size in table.shape)
    drawn = ((a @ table) * b).sum(axis=1) / ((a @ mine) * (b @ others))
    low, high = percentile_limits(drawn[:, None], least, level=level)
    return Interval(estimate, float(low[0]), float(high[0]))


def exchange_p(ranks: Ranks, inside: np.ndarray, *, n: int, seed: int, name: str) -> np.ndarray:
    """P-value [column] that texts inside do not score higher: which texts are inside is exchanged. At least 1 / (n + 1)."""
    rng = numpy_generator(seed, name)
    orders = rng.permuted(np.tile(np.asarray(inside, dtype=bool), (n, 1)), axis=1)
    drawn, seen = ranks.auc(orders), ranks.auc(inside)
    return np.asarray((1 + (drawn >= seen - 1e-12).sum(axis=0)) / (n + 1))
