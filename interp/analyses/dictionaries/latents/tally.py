"""What every latent does over a corpus, in one pass: how often it is on, how strongly, and on which tokens; sums in float64."""

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.sparse as sp

from interp.core.dictionary import Codes

from .reading import Chunk


class Tally:
    """Sums of codes of all latents, by half of the corpus: memory is a few numbers a latent (and query), whatever the text."""

    def __init__(self, latents: int, half: np.ndarray, queries: Mapping[str, Sequence[int]]) -> None:
        """`half` [document] is 0 or 1: which half of the corpus a document is of. `queries` are token ids by name."""
        self.half = half
        self.rows = np.zeros(2, dtype=np.int64)
        self.count, self.total, self.square, self.largest = (np.zeros((2, latents)) for _ in range(4))
        self.queries = {name: np.asarray(ids, dtype=np.int64) for name, ids in queries.items()}
        self.hits = {name: np.zeros(2, dtype=np.int64) for name in queries}
        self.on_token = {name: np.zeros((2, latents)) for name in queries}

    def add(self, chunk: Chunk) -> None:
        """Count a chunk."""
        ids, values, row = (
            chunk.codes.ids.numpy(),
            chunk.codes.values.numpy().astype(np.float64),
            chunk.codes.row_of().numpy(),
        )
        side, latents = self.half[chunk.document], self.count.shape[1]
        self.rows += np.bincount(side, minlength=2)
        flat = side[row] * latents + ids
        for sums, weights in ((self.count, None), (self.total, values), (self.square, values**2)):
            sums += np.bincount(flat, weights, minlength=2 * latents).reshape(2, latents)
        np.maximum.at(self.largest.reshape(-1), flat, values)
        for name, wanted in self.queries.items():
            hit = np.isin(chunk.ids, wanted)
            self.hits[name] += np.bincount(side[hit], minlength=2)
            mine = hit[row]
            self.on_token[name] += np.bincount(flat[mine], values[mine], minlength=2 * latents).reshape(2, latents)

    @property
    def density(self) -> np.ndarray:
        """Share of tokens on which each latent is on [latent]."""
        return self.count.sum(axis=0) / max(1, int(self.rows.sum()))

    @property
    def most(self) -> np.ndarray:
        """Largest code of each latent [latent]."""
        return self.largest.max(axis=0)

    def specific(self, name: str, half: int) -> np.ndarray:
        """How many standard deviations of a latent's code its mean on the query's tokens lies above that elsewhere [latent], on one half.

        -inf for latents that are never on there, or of the same code everywhere.
        """
        rows, hits = int(self.rows[half]), int(self.hits[name][half])
        on = self.on_token[name][half] / max(hits, 1)
        off = (self.total[half] - self.on_token[name][half]) / max(rows - hits, 1)
        mean = self.total[half] / max(rows, 1)
        spread = np.sqrt(np.maximum(self.square[half] / max(rows, 1) - mean**2, 0))
        return np.where(spread > 1e-12, (on - off) / np.where(spread > 1e-12, spread, 1.0), -np.inf)


class Firings:
    """Every token on which some latents are on, and which others are on with them."""

    def __init__(self, chosen: Sequence[int], latents: int) -> None:
        """`chosen` are latents, in the order in which they are kept; `latents` is how many there are in all."""
        self.chosen = [int(one) for one in chosen]
        self._rows: list[list[np.ndarray]] = [[] for _ in self.chosen]
        self._values: list[list[np.ndarray]] = [[] for _ in self.chosen]
        self.product = np.zeros((len(self.chosen), latents))
        """Sum over tokens of the product of a chosen latent's code and every latent's."""
        self.both = np.zeros((len(self.chosen), latents), dtype=np.int64)
        """Tokens on which both are on."""

    def add(self, chunk: Chunk) -> None:
        """Keep a chunk's."""
        every = _matrix(chunk.codes)
        mine = every[:, self.chosen].tocsc()
        for place in range(len(self.chosen)):
            start, stop = mine.indptr[place], mine.indptr[place + 1]
            self._rows[place].append(chunk.rows[mine.indices[start:stop]])
            self._values[place].append(mine.data[start:stop])
        self.product += (mine.T @ every).toarray()
        on, among = mine.copy(), every.copy()
        on.data[:], among.data[:] = 1.0, 1.0
        self.both += (on.T @ among).toarray().astype(np.int64)

    def of(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers (rising) and codes, float64, of a chosen latent, by its place."""
        if not self._rows[place]:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        rows, values = np.concatenate(self._rows[place]), np.concatenate(self._values[place])
        order = np.argsort(rows, kind="stable")
        return rows[order], values[order]


def _matrix(codes: Codes) -> "sp.csr_matrix":
    """Codes as scipy keeps them, float64 [row, latent]."""
    values = codes.values.numpy().astype(np.float64)
    return sp.csr_matrix((values, codes.ids.numpy(), codes.offsets.numpy()), shape=(len(codes), codes.latents))
