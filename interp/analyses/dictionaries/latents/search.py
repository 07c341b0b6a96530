"""Which latents fire on a word: mean code on its tokens less that elsewhere, the AUC, and a null of shifted texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.core.seed import numpy_generator

BLOCK = 2_000_000
"""Shifted occurrences that are looked up at once."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens on which a query is tested, document after document."""

    starts: np.ndarray
    """Row at which each document's counted tokens begin, and where they end, int64 [document, 2]."""
    hits: np.ndarray
    """Rows of the query's tokens, int64 [hit], rising."""

    @property
    def count(self) -> int:
        """All tokens."""
        return int((self.starts[:, 1] - self.starts[:, 0]).sum())

    def keep(self, rows: np.ndarray) -> np.ndarray:
        """Which of some rows are in these documents, bool [row]."""
        if not len(self.starts):
            return np.zeros(len(rows), dtype=bool)
        at = np.searchsorted(self.starts[:, 0], rows, side="right") - 1
        return np.asarray((at >= 0) & (rows < self.starts[at, 1]))


def auc(values: np.ndarray, inside: np.ndarray, *, count: int, hits: int) -> float:
    """Chance that a token of the query has a larger code than another token, ties counted half.

    `values` [firing] are the codes that are not zero, `inside` whether they are on the query's tokens; all other tokens have zero.
    """
    levels, place = np.unique(np.append(values, 0.0), return_inverse=True)
    place, zero = place[:-1], int(place[-1])
    on = np.bincount(place[inside], minlength=len(levels)).astype(float)
    off = np.bincount(place[~inside], minlength=len(levels)).astype(float)
    on[zero] += hits - on.sum()
    off[zero] += count - hits - off.sum()
    below = np.cumsum(off) - off
    return float((on * (below + off / 2)).sum() / (hits * (count - hits)))


def difference(total: float, inside: "float | np.ndarray", *, count: int, hits: int) -> "float | np.ndarray":
    """Mean code on the query's tokens less the mean elsewhere, from the sums over all tokens and over these."""
    return inside / hits - (total - inside) / (count - hits)


def shifted_sums(
    tokens: Tokens, firings: "Sequence[tuple[np.ndarray, np.ndarray]]", *, draws: int, seed: int, name: str
) -> np.ndarray:
    """Sums of codes over the query's tokens [draw, latent] when each document's tokens are rotated against its codes by a random step.

    What tokens have in common with their neighbours, and codes with theirs, is the same in every rotation; only their alignment changes.
    """
    at = np.searchsorted(tokens.starts[:, 0], tokens.hits, side="right") - 1
    begin, length = tokens.starts[at, 0], tokens.starts[at, 1] - tokens.starts[at, 0]
    with_hits, number = np.unique(at, return_inverse=True)
    sizes = (tokens.starts[:, 1] - tokens.starts[:, 0])[with_hits]
    rng = numpy_generator(seed, "latent search", name)
    out = np.zeros((draws, len(firings)))
    step = max(1, BLOCK // max(1, len(tokens.hits)))
    for first in range(0, draws, step):
        size = min(step, draws - first)
        shift = (rng.random((size, len(sizes))) * sizes).astype(np.int64)  # [draw, document]
        moved = begin + (tokens.hits - begin + shift[:, number]) % length  # [draw, hit]
        for place, (rows, values) in enumerate(firings):
            if len(rows):
                found = np.searchsorted(rows, moved)
                found[found == len(rows)] = 0
                out[first : first + size, place] = np.where(rows[found] == moved, values[found], 0.0).sum(axis=1)
    return out


def p_values(seen: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Share of draws [draw, latent] that reach what was seen [latent], the seen one counted."""
    slack = 1e-9 * np.abs(seen) + 1e-12
    return np.asarray((1 + (drawn >= seen - slack).sum(axis=0)) / (len(drawn) + 1))
