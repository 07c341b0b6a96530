"""A bag of words: what a text's tokens say without any model, as a baseline for what its activations say."""

from collections.abc import Sequence

import numpy as np

from interp.data import TokenPrompt


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
    total = float(weights.var(axis=0).sum())
    return weights * np.sqrt(min(weights.shape) / total) if total > 0 else weights
