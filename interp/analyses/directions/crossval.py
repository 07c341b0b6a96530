"""Held-out scores of directions, for the true labels and for many shuffled ones at once.

Every fold is scored by a direction that was fitted on the others, its penalty chosen by folds within those. Difference of means, Fisher's
direction, ridge and principal components are linear in the labels or do not depend on them, so a fold's one decomposition serves all
shuffles; logistic is refitted for each. What is scored is what `fit_direction` fits (which is tested), here for [target] label sets.

Rows are compared within a fold only, since folds have different directions:

    AUC = sum over folds of (pairs of a yes and a no in the right order) / sum over folds of (pairs)        a tie counts a half
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.core.errors import BadInput
from interp.core.seed import numpy_generator
from interp.core.stats import percentile_limits

from .base import NOISE, component, sizes, solve_covariance, spreads
from .folds import group_numbers, grouped_folds

NEWTON = 50
"""Steps of Newton's method, at most; a dozen are usual."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Rows, their groups, and who is held out when."""

    yes: np.ndarray
    """The true labels, bool [row]."""
    groups: np.ndarray
    """int64 [row]."""
    folds: np.ndarray
    """int64 [row]."""
    inner: tuple[np.ndarray, ...]
    """For each fold, the folds of its training rows in which penalties are chosen."""

    @classmethod
    def of(cls, yes: np.ndarray, groups: Sequence[object], folds: int, inner: int, seed: int) -> "Plan":
        """Draw the folds. Raises `BadInput` where a class is too small for them."""
        numbers = group_numbers(groups)
        outer = grouped_folds(yes, numbers.tolist(), folds, seed=seed, name="folds")
        parts = []
        for fold in range(folds):
            train = outer != fold
            parts.append(grouped_folds(yes[train], numbers[train].tolist(), inner, seed=seed, name=f"folds in {fold}"))
        return cls(yes, numbers, outer, tuple(parts))


@dataclass(frozen=True, eq=False)
class Held:
    """What came of held-out rows."""

    score: np.ndarray
    """Of the first target [row]: signed, in units of the spread within a class on the training rows."""
    auc: np.ndarray
    """[target]"""
    accuracy: np.ndarray
    """Mean of both classes' rates [target]; chance is 1/2 whatever their sizes."""
    fitted: np.ndarray
    """AUC on the rows of the fit [target], mean over folds; NaN where they are elsewhere."""

    @classmethod
    def of(cls, score: np.ndarray, targets: np.ndarray, plan: "Plan") -> "Held":
        """Scores [row] that a probe from elsewhere gives, held against each label set."""
        every = np.tile(score, (len(targets), 1))
        parts = [
            auc_parts(every[:, plan.folds == fold], targets[:, plan.folds == fold]) for fold in np.unique(plan.folds)
        ]
        auc = _ratio(np.sum([wins for wins, _ in parts], axis=0), np.sum([pairs for _, pairs in parts], axis=0))
        return cls(score, auc, _accuracy(every, targets), np.full(len(targets), np.nan))

    @classmethod
    def nothing(cls, targets: np.ndarray) -> "Held":
        """What rows give that cannot be told apart: every score 0, every AUC 1/2."""
        half = np.full(len(targets), 0.5)
        return cls(np.zeros(targets.shape[1]), half, half.copy(), half.copy())


def indistinct(x: np.ndarray, plan: Plan) -> bool:
    """Whether nothing in x [row, d] can tell the labels: rows are equal to rounding, or those of a group with as many yes as no are."""
    yes = np.bincount(plan.groups, plan.yes)
    balanced = 2 * yes == np.bincount(plan.groups)
    centre = np.broadcast_to(x.mean(axis=0), x.shape)
    if balanced.all():
        means = np.zeros((len(yes), x.shape[1]))
        np.add.at(means, plan.groups, x)
        centre = (means / np.bincount(plan.groups)[:, None])[plan.groups]
    return bool((np.abs(x - centre).max(axis=0) <= NOISE * sizes(x)).all())


def held_out(
    x: np.ndarray,
    targets: np.ndarray,
    method: str,
    plan: Plan,
    *,
    strengths: Sequence[float] = (0.1,),
    standardise: bool = True,
    given: np.ndarray | None = None,
) -> Held:
    """Score x [row, d] for each of the label sets `targets` [target, row].

    `method` is one of `base.METHODS`, or "given": directions `given` [d, target] whose sign alone is learned.
    """
    if indistinct(x, plan):
        return Held.nothing(targets)
    score = np.zeros(targets.shape)
    wins, pairs = np.zeros(len(targets)), np.zeros(len(targets))
    fitted = []
    for fold, inner in enumerate(plan.inner):
        train, held = plan.folds != fold, plan.folds == fold
        here = targets[:, train]
        weights, bias = _weights(x[train], here, method, plan.groups[train], inner, strengths, standardise, given)
        seen, new = (weights.T @ x[train].T), (weights.T @ x[held].T)  # [target, row]
        middle, spread = _middle(seen, here)
        offset = -middle if bias is None else bias
        score[:, held] = (new + offset[:, None]) / spread[:, None]
        more, total = auc_parts(new, targets[:, held])
        wins, pairs = wins + more, pairs + total
        fitted.append(_ratio(*auc_parts(seen, here)))
    return Held(score[0], _ratio(wins, pairs), _accuracy(score, targets), np.mean(fitted, axis=0))


def _accuracy(score: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Mean of both classes' rates [target] of signed scores [target, row]; a score of 0 counts a half."""
    right = (score > 0) + 0.5 * (score == 0)
    yes = _ratio((right * targets).sum(axis=1), targets.sum(axis=1))
    no = _ratio(((1 - right) * ~targets).sum(axis=1), (~targets).sum(axis=1))
    return (yes + no) / 2


def choose_strength(
    x: np.ndarray,
    yes: np.ndarray,
    method: str,
    folds: np.ndarray,
    strengths: Sequence[float],
    *,
    standardise: bool = True,
) -> float:
    """The penalty with the best held-out AUC over `folds`; of equals the strongest."""
    reduced, _, _ = _reduced(x, standardise)
    best = _best(reduced, yes[None], method, folds, strengths)
    return float(strengths[int(best[0])])


def auc_parts(score: np.ndarray, yes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs in the right order, and all pairs, for scores and labels [target, row]."""
    from scipy.stats import rankdata

    n = yes.sum(axis=1).astype(float)
    ranks = (rankdata(score, axis=1) * yes).sum(axis=1)
    return ranks - n * (n + 1) / 2, n * (yes.shape[1] - n)


def auc_interval(
    score: np.ndarray, plan: Plan, *, level: float = 0.95, n: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Limits [cell] of the AUC of held-out scores [cell, row], by drawing groups anew."""
    size = int(plan.groups.max()) + 1
    counts = (
        numpy_generator(seed, "auc").multinomial(size, np.full(size, 1 / size), size=n)[:, plan.groups].astype(float)
    )
    total = np.zeros((n, len(score)))
    pairs = np.zeros((n, 1))
    for fold in np.unique(plan.folds):
        yes, no = (np.flatnonzero((plan.folds == fold) & (plan.yes == label)) for label in (True, False))
        drawn, others = counts[:, yes], counts[:, no]
        pairs += (drawn.sum(axis=1) * others.sum(axis=1))[:, None]
        for cell, values in enumerate(score):
            right = np.sign(values[yes][:, None] - values[no][None]) / 2 + 0.5  # [yes, no]
            total[:, cell] += ((drawn @ right) * others).sum(axis=1)
    return percentile_limits(np.where(pairs > 0, total / np.maximum(pairs, 1), np.nan), size, level=level)


def _weights(
    x: np.ndarray, targets: np.ndarray, method: str, groups: np.ndarray, inner: np.ndarray, strengths: Sequence[float],
    standardise: bool, given: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray | None]:  # fmt: skip
    """Directions [d, target] fitted on training rows, and their thresholds where the method has its own."""
    if method in ("ridge", "logistic"):
        reduced, back, centre = _reduced(x, standardise)
        chosen = _best(reduced, targets, method, inner, strengths)
        solved, offset = _solve(reduced, targets, method, chosen, strengths)
        weights = back @ solved  # [d, target]
        return weights, offset - centre @ weights if method == "logistic" else None
    gap = x.T @ _contrast(targets)  # [d, target]
    if method == "mean":
        return gap, None
    if method == "lda":
        centred = x - x.mean(axis=0)
        return solve_covariance(centred.T @ centred / len(x), gap), None
    axis = np.asarray(given) if method == "given" else component(x, targets[0], groups.tolist())[:, None]
    sign = np.where((axis * gap).sum(axis=0) >= 0, 1.0, -1.0)
    return axis * sign, None


def _contrast(targets: np.ndarray) -> np.ndarray:
    """Weights of rows [row, target] that make the difference of the class means."""
    yes = targets.T.astype(float)
    return _ratio(yes, yes.sum(axis=0)) - _ratio(1 - yes, (1 - yes).sum(axis=0))


def _reduced(x: np.ndarray, standardise: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standardised rows in the coordinates of their own span [row, r], the way back for weights [d, r], and the centre [d].

    A penalised solution lies in that span, so nothing is lost, and d may be anything.
    """
    centre = x.mean(axis=0)
    spread = spreads(x) if standardise else np.ones(x.shape[1])
    u, s, v = np.linalg.svd((x - centre) / spread, full_matrices=False)
    keep = s > 1e-12 * max(float(s[0]), 1e-300)
    return u[:, keep] * s[keep], v[keep].T / spread[:, None], centre


def _best(x: np.ndarray, targets: np.ndarray, method: str, folds: np.ndarray, strengths: Sequence[float]) -> np.ndarray:
    """Which strength [target] ranks held-out rows best; of equals the strongest."""
    if len(strengths) == 1:
        return np.zeros(len(targets), dtype=int)
    wins = np.zeros((len(strengths), len(targets)))
    for fold in np.unique(folds):
        train, held = folds != fold, folds == fold
        centre = x[train].mean(axis=0)
        for place in range(len(strengths)):
            chosen = np.full(len(targets), place)
            weights, _ = _solve(x[train] - centre, targets[:, train], method, chosen, strengths)
            wins[place] += auc_parts(weights.T @ (x[held] - centre).T, targets[:, held])[0]
    order = np.argsort(strengths)[::-1]  # the strongest first
    return order[np.argmax(np.round(wins[order], 6), axis=0)]


def _solve(
    x: np.ndarray, targets: np.ndarray, method: str, chosen: np.ndarray, strengths: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [r, target] and intercepts [target] on centred rows x [row, r], each with its strength."""
    if method == "ridge":
        y = targets.T * 2.0 - 1.0
        u, s, v = np.linalg.svd(x, full_matrices=False)
        inside = u.T @ (y - y.mean(axis=0))
        penalty = np.asarray(strengths, dtype=float)[chosen] * len(x)  # [target]
        return v.T @ (inside * (s[:, None] / (s[:, None] ** 2 + penalty))), y.mean(axis=0)
    penalty = np.asarray(strengths, dtype=float)[chosen] * len(x)  # [target]
    return _logistic(x, targets, penalty)


def _logistic(x: np.ndarray, targets: np.ndarray, penalty: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Balanced logistic regressions by Newton's method, all targets at once: weights [r, target] and intercepts [target].

    What scikit-learn's minimises, which takes ten times as long for thousands of small fits. A label set of one class has no weights.
    """
    both = targets.any(axis=1) & ~targets.all(axis=1)
    yes = targets[both].astype(float)
    share = yes.mean(axis=1, keepdims=True)
    row = np.where(yes > 0, 0.5 / share, 0.5 / (1 - share))  # weight of each row [target, row]
    design = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    ridge = np.concatenate([np.repeat(penalty[both, None], x.shape[1], axis=1), np.zeros((len(yes), 1))], axis=1)
    theta = np.zeros((len(yes), design.shape[1]))

    def loss(at: np.ndarray) -> np.ndarray:
        z = at @ design.T
        return np.asarray((row * (np.logaddexp(0, z) - yes * z)).sum(axis=1) + 0.5 * (ridge * at**2).sum(axis=1))

    for _ in range(NEWTON):
        p = 1 / (1 + np.exp(-np.clip(theta @ design.T, -500, 500)))
        slope = (row * (p - yes)) @ design + ridge * theta
        if np.abs(slope).max(initial=0.0) <= 1e-7 * len(x):
            break
        curve = (design.T[None] * (row * p * (1 - p))[:, None]) @ design
        curve[:, range(design.shape[1]), range(design.shape[1])] += ridge + 1e-12 * len(x)
        step = np.linalg.solve(curve, slope[..., None])[..., 0]
        before, size = loss(theta), np.ones((len(yes), 1))
        for _ in range(20):  # halve what overshoots
            worse = loss(theta - size * step) > before + 1e-9 * np.abs(before)
            if not worse.any():
                break
            size[worse] /= 2
        theta = theta - size * step
    else:
        raise BadInput(
            f"a logistic probe did not converge on {len(x)} rows. Take larger `strengths`; they are the penalty a row."
        )
    weights, offset = np.zeros((x.shape[1], len(targets))), np.zeros(len(targets))
    weights[:, both], offset[both] = theta[:, :-1].T, theta[:, -1]
    return weights, offset


def _middle(score: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half way between the class means, and the spread within classes, of scores [target, row]; both [target]."""
    yes = _ratio((score * targets).sum(axis=1), targets.sum(axis=1))
    no = _ratio((score * ~targets).sum(axis=1), (~targets).sum(axis=1))
    inner = score - np.where(targets, yes[:, None], no[:, None])
    spread = np.sqrt((inner**2).mean(axis=1))
    return (yes + no) / 2, np.where(spread > 0, spread, 1.0)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN where b is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(a / np.where(b == 0, np.nan, b))
