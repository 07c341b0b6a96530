"""Other features: counts of a text's tokens, the baseline for its activations; and a kernel's of these, for non-linear probes."""

from collections.abc import Sequence

import numpy as np

from interp.data import TokenPrompt

from .base import spreads


def bag_of_words(tokens: Sequence[TokenPrompt]) -> np.ndarray:
    """log(1 + count) of each token that occurs, each text's row at one length: float64 [text, token]. A BOS is no word.

    The length is such that the variance per dimension is 1 on average, as of standardised features, so that the same penalties fit.
    """
    bodies = [np.asarray(text.ids[int(text.bos) :], dtype=np.int64) for text in tokens]
    seen, place = np.unique(np.concatenate(bodies), return_inverse=True)
    counts = np.zeros((len(bodies), len(seen)))
    rows = np.repeat(np.arange(len(bodies)), [len(body) for body in bodies])
    np.add.at(counts, (rows, place), 1.0)
    weights = np.log1p(counts)
    weights /= np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-300)
    return balanced(weights)


def kernel_features(x: np.ndarray) -> np.ndarray:
    """Features [row, row] whose products are a radial basis function kernel of x [row, d], its width the median distance of rows.

    A ridge probe on them is kernel ridge regression: non-linear in x, linear in the labels. No label is used.
    """
    from sklearn.metrics.pairwise import euclidean_distances

    rows = (x - x.mean(axis=0)) / spreads(x)
    squares = euclidean_distances(rows, squared=True)
    width = float(np.median(squares[np.triu_indices(len(x), 1)]))
    values, vectors = np.linalg.eigh(np.exp(-squares / width) if width > 0 else np.ones_like(squares))
    return balanced(vectors * np.sqrt(np.clip(values, 0.0, None)))


def balanced(x: np.ndarray) -> np.ndarray:
    """x [row, feature] times a number, so that the variance per dimension is 1 on average, as of standardised features."""
    total = float(x.var(axis=0).sum())
    return x * np.sqrt(min(x.shape) / total) if total > 0 else x
