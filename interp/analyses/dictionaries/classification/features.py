"""What a probe is given: named feature sets, and how each is scaled by its training rows alone.

Latents and hidden states are divided by their standard deviation on the training rows; words become log(1 + count), with their inverse
document frequency there (TF-IDF), each text at length 1. Scaled rows are then written in the coordinates of their own span, so that
a probe with 65,000 features on 600 texts is one with at most 600: a penalised solution lies in that span.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from interp.data import TokenPrompt

from ...directions.base import spreads
from .pooling import Matrix


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of all texts under a name."""

    name: str
    family: str
    """`latents`, `hidden` or `words`."""
    x: Matrix
    """[text, feature]"""
    scaling: str = "spread"
    """`spread`, `length` (words) or `tfidf`."""


@dataclass(frozen=True, eq=False)
class Reduced:
    """Rows in the coordinates of the span of the training rows."""

    train: np.ndarray
    """[training row, r], columns orthogonal, mean 0."""
    held: np.ndarray
    """[held row, r]"""
    size: np.ndarray
    """Length of each column of `train` [r], falling."""
    axes: np.ndarray
    """`train / size` [training row, r]: weights w on the coordinates are the combination `axes @ (w / size)` of the training rows."""


def words(tokens: Sequence[TokenPrompt]) -> sp.csr_matrix:
    """Counts of each text's tokens but a BOS, float64 CSR [text, token that occurs]."""
    bodies = [np.asarray(text.ids[int(text.bos) :], dtype=np.int64) for text in tokens]
    seen, place = np.unique(np.concatenate(bodies), return_inverse=True)
    starts = np.cumsum([0, *map(len, bodies)])
    out = sp.csr_matrix((np.ones(len(place)), place, starts), shape=(len(bodies), len(seen)))
    out.sum_duplicates()
    return out


def scaled(x: Matrix, train: np.ndarray, scaling: str) -> Matrix:
    """All rows, scaled by what the rows `train` (bool [row]) say and no others."""
    if scaling == "spread":
        if not sp.issparse(x):
            return (x - x[train].mean(axis=0)) / spreads(x[train])
        return x @ sp.diags(1.0 / _spreads(x[train]))
    out = x.copy()
    out.data = np.log1p(out.data)
    if scaling == "tfidf":
        documents = np.asarray((x[train] > 0).sum(axis=0)).ravel()
        out = out @ sp.diags(np.log((1 + train.sum()) / (1 + documents)) + 1)
    length = np.sqrt(np.asarray(out.multiply(out).sum(axis=1)).ravel())
    out = sp.csr_matrix(sp.diags(1.0 / np.maximum(length, 1e-300)) @ out)
    total = float((_spreads(out[train], fill=0.0) ** 2).sum())
    # the variance per dimension is 1 on average, as of the others, so that the same penalties fit
    return out * np.sqrt(min(int(train.sum()), out.shape[1]) / total) if total > 0 else out


def reduced(x: Matrix, train: np.ndarray) -> Reduced:
    """Scaled rows x [row, feature] in the coordinates of the centred training rows, by the smaller of two decompositions."""
    active = np.flatnonzero(np.asarray(abs(x[train]).sum(axis=0)).ravel())
    if len(active) < train.sum():
        dense = x[:, active].toarray() if sp.issparse(x) else x[:, active]
        centre = dense[train].mean(axis=0)
        u, s, v = np.linalg.svd(dense[train] - centre, full_matrices=False)
        keep = s > 1e-9 * max(s.max(initial=0.0), 1e-300)
        return Reduced(u[:, keep] * s[keep], (dense[~train] - centre) @ v[keep].T, s[keep], u[:, keep])
    gram = x @ x[train].T  # [row, training row]
    gram = np.asarray(gram.toarray() if sp.issparse(gram) else gram)
    inner = gram[train]
    mean, whole = inner.mean(axis=0), inner.mean()
    values, vectors = np.linalg.eigh(inner - mean - mean[:, None] + whole)
    keep = np.flatnonzero(values > 1e-10 * max(values.max(initial=0.0), 1e-300))[::-1]
    s, u = np.sqrt(values[keep]), vectors[:, keep]
    outer = gram[~train]
    outer = outer - outer.mean(axis=1, keepdims=True) - mean + whole
    return Reduced(u * s, outer @ (u / s), s, u)


def _spreads(x: sp.csr_matrix, fill: float = 1.0) -> np.ndarray:
    """Standard deviations [feature] of sparse rows; `fill` where a feature is constant."""
    n = x.shape[0]
    mean = np.asarray(x.sum(axis=0)).ravel() / n
    square = np.asarray(x.multiply(x).sum(axis=0)).ravel() / n
    variance = square - mean**2
    return np.where(variance > 1e-12 * square, np.sqrt(np.maximum(variance, 0)), fill)
