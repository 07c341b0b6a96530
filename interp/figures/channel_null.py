"""Where the score of a random direction lies: the band behind composition scores.

For a unit direction w, uniform in n dimensions, and a reader with singular values s, `score² = Σ p_j w_j²` with `p_j = s_j² / Σ s²`, so

    P(score > t) = P(Q > 0),    Q = Σ_j (p_j - t²) g_j²,    g standard normal in n dimensions, p_j = 0 beyond the reader's rank

which the saddle point of Q's cumulants gives to a few per cent of itself (Lugannani and Rice 1980): enough to draw. The p-values of a
result come from the result, not from here.
"""

from collections.abc import Sequence

import numpy as np

STEPS = 40
"""Halvings of the interval that holds the saddle point."""
KNOTS = 36
"""Scores at which a reader's distribution is computed; between them the normal score is interpolated."""
ALONE = 12
"""Largest p_j of a reader that are taken one by one; the smaller ones in groups of equals."""
GROUPS = 12
FARTHEST = 6.0
"""Of those knots, the last, in units of a random direction's root mean square, where the reader reaches so far."""


def quantiles(levels: Sequence[float], spectrum: np.ndarray, n: int) -> np.ndarray:
    """Scores that a random direction stays below with each probability; `spectrum` is [..., component], the answer [..., level].

    NaN for a reader of zeros.
    """
    from scipy.special import ndtri

    flat, shape = _shares(spectrum)
    at, normal = _curves(flat, n)
    wanted = ndtri(np.asarray(levels, dtype=np.float64))
    none = np.full(len(wanted), np.nan)
    found = [np.interp(wanted, z, x) if np.isfinite(z).all() else none for x, z in zip(at, normal, strict=True)]
    return np.asarray(found, dtype=np.float64).reshape(*shape, len(wanted))


def below(score: np.ndarray, spectrum: np.ndarray, n: int) -> np.ndarray:
    """Share of random directions with a score below each `score` [value], for each reader: [..., value]."""
    from scipy.special import ndtr

    flat, shape = _shares(spectrum)
    at, normal = _curves(flat, n)
    score = np.asarray(score, dtype=np.float64)
    share = np.stack([ndtr(np.interp(score, x, z)) for x, z in zip(at, normal, strict=True)])
    share = np.where(score <= 0, 0.0, np.where(score >= at[:, -1:], 1.0, share))
    return share.reshape(*shape, len(score))


def _shares(spectrum: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """p_j of every reader, [reader, component], and the shape of the readers. NaN for a reader of zeros."""
    square = np.nan_to_num(np.asarray(spectrum, dtype=np.float64)) ** 2
    total = square.sum(-1, keepdims=True)
    p = np.divide(square, total, out=np.full(square.shape, np.nan), where=total > 0)
    return p.reshape(-1, p.shape[-1]), p.shape[:-1]


def _curves(p: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and what normal deviate has as much below it, [reader, knot]."""
    from scipy.special import ndtri

    last = np.minimum(np.sqrt(p.max(-1)) * (1 - 1e-9), FARTHEST / np.sqrt(n))
    at = last[:, None] * (np.arange(1, KNOTS + 1) / KNOTS) ** 2
    above = np.concatenate([_above(part, score, n) for part, score in zip(_split(p), _split(at), strict=True)])
    normal = ndtri(np.clip(1 - above, 1e-16, 1 - 1e-16))
    return at, np.maximum.accumulate(normal, axis=1)


def _grouped(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p_j by falling size with their multiplicities, [reader, atom] and [atom]: small ones as the mean of their group."""
    ordered = -np.sort(-p, axis=-1)
    ends = np.unique(
        np.concatenate(
            [np.arange(min(ALONE, p.shape[-1])), np.linspace(min(ALONE, p.shape[-1]), p.shape[-1], GROUPS + 1)]
        )
    )
    ends = np.unique(np.append(ends.astype(int), p.shape[-1]))
    counts = np.diff(ends)
    return np.add.reduceat(ordered, ends[:-1], axis=-1) / counts, counts.astype(np.float64)


def _split(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + 64] for start in range(0, len(rows), 64)]


def _above(p: np.ndarray, score: np.ndarray, n: int) -> np.ndarray:
    """P(Q > 0) [reader, knot]."""
    from scipy.special import ndtr

    t = score[..., None] ** 2
    rest = n - p.shape[-1]
    p, many = _grouped(p)
    v = np.concatenate([p[:, None, :] - t, -t], axis=-1)  # the eigenvalues of Q
    counts = np.append(many, max(rest, 0))
    high = 0.5 / v.max(-1)
    low = 0.5 / v.min(-1)
    for _ in range(STEPS):
        s = (low + high) / 2
        slope = (counts * v / (1 - 2 * s[..., None] * v)).sum(-1)
        low, high = np.where(slope < 0, s, low), np.where(slope < 0, high, s)
    s = (low + high) / 2
    inner = 1 - 2 * s[..., None] * v
    k = -0.5 * (counts * np.log(inner)).sum(-1)
    second = 2 * (counts * (v / inner) ** 2).sum(-1)
    w = np.sign(s) * np.sqrt(np.maximum(-2 * k, 0))
    near = np.abs(w) < 1e-3
    safe_w, safe_u = np.where(near, 1.0, w), np.where(near, 1.0, s * np.sqrt(second))
    skew = 8 * (counts * v**3).sum(-1) / second**1.5
    density = np.exp(-(w**2) / 2) / np.sqrt(2 * np.pi)
    tail = ndtr(-w) + density * (1 / safe_u - 1 / safe_w)
    return np.clip(np.where(near, 0.5 - skew / (6 * np.sqrt(2 * np.pi)), tail), 0.0, 1.0)
