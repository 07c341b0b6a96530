"""How well attributed effects agree with true ones, pair by pair, without flattering either.

Correlations are taken over cells that were not chosen by their attribution: all of them, or the random ones. The overlap of the top
lists needs the truly largest cells and is taken over all that were patched; where only the best and some random ones were, it is an
upper estimate, since a large effect may hide among the others. Cells that say nothing are left out: those that are 0 in both by
construction (before the first changed token) would agree in any map, and the order of rounding errors in none.
"""

import numpy as np

from interp.core.stats import bootstrap_ci, spearman

ROUNDING = 1e-6
"""Of a pair's largest true effect: cells that are smaller in both are rounding."""
LEAST = 3
"""Cells without which a correlation means nothing."""


def agreements(score: np.ndarray, true: np.ndarray, chosen: np.ndarray, *, k: int) -> dict[str, np.ndarray]:
    """rho, r, top, top_chance, slope and cells of each pair, from maps [pair, ...]."""
    rows: dict[str, list[float]] = {name: [] for name in ("rho", "r", "top", "top_chance", "slope", "cells")}
    for guess, truth, how in zip(score, true, chosen, strict=True):
        patched = np.isfinite(truth) & np.isfinite(guess)
        floor = ROUNDING * np.abs(truth[patched]).max(initial=0.0)
        patched &= (np.abs(truth) > floor) | (np.abs(guess) > floor)
        fair = patched & (how == 1)
        x, y = guess[fair], truth[fair]
        rows["cells"].append(float(len(x)))
        rows["rho"].append(spearman(x, y).rho)
        rows["r"].append(pearson(x, y))
        size = float((x * x).sum())
        rows["slope"].append(float((x * y).sum()) / size if size > 0 and len(x) >= LEAST else np.nan)
        share, chance = overlap(guess[patched], truth[patched], k)
        rows["top"].append(share)
        rows["top_chance"].append(chance)
    return {name: np.array(values) for name, values in rows.items()}


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of two vectors; NaN where one is constant or there are fewer than three."""
    if len(x) < LEAST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def overlap(guess: np.ndarray, truth: np.ndarray, k: int) -> tuple[float, float]:
    """Share of the k truly largest cells (by magnitude) among the k largest attributed, and what a random list would have."""
    if len(truth) <= k or not truth.any():
        return float("nan"), float("nan")
    best, found = (set(np.argsort(-np.abs(values), kind="stable")[:k].tolist()) for values in (truth, guess))
    return len(best & found) / k, k / len(truth)


def summary(found: dict[str, np.ndarray], *, level: float) -> dict[str, float]:
    """Means over pairs, with bootstrap intervals for rho and r."""
    out: dict[str, float] = {}
    for name in ("rho", "r"):
        known = found[name][np.isfinite(found[name])]
        if len(known):
            out[name], out[f"{name}_lo"], out[f"{name}_hi"] = (
                float(x) for x in bootstrap_ci(known, level=level, name="agreement")
            )
        else:
            out |= {name: float("nan"), f"{name}_lo": float("nan"), f"{name}_hi": float("nan")}
    for name in ("top", "top_chance", "slope", "cells"):
        known = found[name][np.isfinite(found[name])]
        out[name] = float(known.mean()) if len(known) else float("nan")
    out["pairs"] = float(np.isfinite(found["rho"]).sum())
    return out
