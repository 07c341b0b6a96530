"""Probes of many label sets at once: penalised logistic regression, and decision trees.

The loss of a label set is the sum over rows of w_i * log-loss + (penalty / 2) * |weights|^2, the classes' weights balanced: what
scikit-learn's LogisticRegression(C=1/penalty, class_weight="balanced") minimises, without a penalty on the intercept. In the coordinates of
`features.reduced` its Hessian is at most diag(max w / 4 * size^2) + penalty, whatever the labels: a gradient step divided by that bound
never overshoots (Böhning 1992), and with Nesterov's momentum, restarted where it points uphill (O'Donoghue & Candès 2015), hundreds of
label sets and all penalties are a few hundred matrix products. `directions.crossval` takes Newton's steps, whose cost grows with the cube
of the features: right for one site's hundred, not for as many coordinates as there are texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...directions.crossval import auc_parts
from .features import Reduced, reduced, scaled
from .pooling import Matrix

STEPS = 20_000
"""Steps of the logistic fit, at most; hundreds are usual."""
TOLERANCE = 1e-6
"""Fits end when no coordinate of the gradient, over the root of its bound on the curvature, is above this times the root of the rows."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """Probes of several label sets on one fold."""

    score: np.ndarray
    """Of held-out rows [target, held row]: positive means yes."""
    strength: np.ndarray
    """Penalty a row that was chosen [target]; NaN for trees."""
    loose: int
    """Fits that had not converged."""
    weights: np.ndarray | None = None
    """Of the first label set, on the coordinates [r] (logistic) or the features (trees: importances)."""
    space: Reduced | None = None


def logistic_fold(
    x: Matrix, train: np.ndarray, targets: np.ndarray, inner: np.ndarray, *, scaling: str, strengths: Sequence[float]
) -> Fitted:
    """Score held-out rows of x [row, feature] for `targets` bool [target, row]; `inner` [training row] are folds for penalties."""
    whole = reduced(scaled(x, train, scaling), train)
    here, loose = targets[:, train], 0
    grid = np.asarray(strengths, dtype=float)
    wins = np.zeros((len(here), len(grid)))
    if len(grid) > 1:
        rows = np.flatnonzero(train)
        for fold in np.unique(inner):
            part = np.zeros(len(train), dtype=bool)
            part[rows[inner != fold]] = True
            space = reduced(scaled(x[rows], part[rows], scaling), part[rows])
            score, slack = _fits(space, here[:, inner != fold], grid, space.held)
            loose += slack
            for place in range(len(grid)):
                wins[:, place] += auc_parts(score[:, place], here[:, inner == fold])[0]
    order = np.argsort(grid)[::-1]  # of equals the strongest
    chosen = grid[order][np.argmax(np.round(wins[:, order], 6), axis=1)]
    theta, short = logistic(whole.train, whole.size, here, chosen * len(whole.train))
    return Fitted(theta[:, :-1] @ whole.held.T + theta[:, -1:], chosen, loose + int(short.sum()), theta[0, :-1], whole)


def _fits(space: Reduced, targets: np.ndarray, grid: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, int]:
    """Scores [target, strength, row] under every strength."""
    every = np.repeat(targets, len(grid), axis=0)
    penalty = np.tile(grid * len(space.train), len(targets))
    theta, slack = logistic(space.train, space.size, every, penalty)
    score = theta[:, :-1] @ rows.T + theta[:, -1:]
    return score.reshape(len(targets), len(grid), -1), int(slack.sum())


def logistic(
    x: np.ndarray, size: np.ndarray, targets: np.ndarray, penalty: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and intercept [target, r + 1], and whether each fit ran out of steps [target].

    x [row, r] has orthogonal columns of length `size`, each with mean 0; `penalty` [target] is on the sum over rows.
    A label set of one class has no weights.
    """
    both = targets.any(axis=1) & ~targets.all(axis=1)
    theta, loose = np.zeros((len(targets), x.shape[1] + 1)), np.zeros(len(targets), dtype=bool)
    if not both.any():
        return theta, loose
    yes = targets[both].astype(np.float64)
    share = yes.mean(axis=1, keepdims=True)
    weight = np.where(yes > 0, 0.5 / share, 0.5 / (1 - share))
    most = weight.max(axis=1, keepdims=True) / 4
    ridge = np.concatenate([np.repeat(penalty[both, None], x.shape[1], 1), np.zeros((len(yes), 1))], axis=1)
    bound = most * np.append(size**2, len(x)) + ridge
    design = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    theta[both], loose[both] = _descend(design, yes, weight, ridge, bound)
    return theta, loose


def _descend(
    design: np.ndarray, yes: np.ndarray, weight: np.ndarray, ridge: np.ndarray, bound: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    at = np.zeros_like(ridge)
    ahead, pace = at.copy(), np.ones((len(at), 1))
    running, limit = np.arange(len(at)), TOLERANCE * np.sqrt(len(design))
    done = at.copy()
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(ahead @ design.T, -500, 500)))
        slope = (weight * (p - yes)) @ design + ridge * ahead
        finished = np.abs(slope / np.sqrt(bound)).max(axis=1) <= limit
        if finished.any():
            done[running[finished]] = ahead[finished]
            left = ~finished
            if not left.any():
                return done, np.zeros(len(done), dtype=bool)
            running, at, ahead, pace, slope = running[left], at[left], ahead[left], pace[left], slope[left]
            yes, weight, ridge, bound = yes[left], weight[left], ridge[left], bound[left]
        new = ahead - slope / bound
        uphill = ((slope * (new - at)).sum(axis=1) > 0)[:, None]
        faster = np.where(uphill, 1.0, (1 + np.sqrt(1 + 4 * pace**2)) / 2)
        ahead = new + np.where(uphill, 0.0, (pace - 1) / faster) * (new - at)
        at, pace = new, faster
    done[running] = at
    loose = np.zeros(len(done), dtype=bool)
    loose[running] = True
    return done, loose


def tree_fold(x: Matrix, train: np.ndarray, targets: np.ndarray, *, scaling: str, depth: int, seed: int) -> Fitted:
    """The same by decision trees. Trees do not care for the scale of a feature, so only words are scaled."""
    from sklearn.tree import DecisionTreeClassifier

    rows = x if scaling == "spread" else scaled(x, train, scaling)
    rows = rows.astype(np.float32)
    seen, held = rows[train], rows[~train]
    score, importance = np.zeros((len(targets), int((~train).sum()))), None
    for place, labels in enumerate(targets[:, train]):
        tree: Any = DecisionTreeClassifier(max_depth=depth, class_weight="balanced", random_state=seed).fit(
            seen, labels
        )
        if len(tree.classes_) == 2 and held.shape[0]:
            score[place] = tree.predict_proba(held)[:, 1] - 0.5
        if place == 0:
            importance = np.asarray(tree.feature_importances_)
    return Fitted(score, np.full(len(targets), np.nan), 0, importance)


def combined(x: Matrix, train: np.ndarray, fitted: Fitted, scaling: str) -> np.ndarray:
    """The logistic weights [feature] of the scaled features: the change in log-odds by one standard deviation."""
    assert fitted.space is not None and fitted.weights is not None
    rows = fitted.space.axes @ (fitted.weights / fitted.space.size)
    return np.asarray(scaled(x, train, scaling)[train].T @ rows).ravel()
