"""Feature sets against labels: every probe held out fold by fold, the same for shuffled labels, and which features decide."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.core.progress import track

from ...directions.crossval import Plan
from ...directions.folds import shuffled_labels
from .features import FeatureSet
from .measures import measured
from .probes import combined, logistic_fold, tree_fold


@dataclass(frozen=True, eq=False)
class Study:
    """What probes make of feature sets."""

    score: np.ndarray
    """Held out [feature, probe, row]; positive means yes."""
    null: np.ndarray
    """[measure, feature, probe, shuffle]"""
    strength: np.ndarray
    """Median over folds of the penalty a row that was chosen [feature, probe]; NaN for trees."""
    loose: int
    """Fits that did not converge, shuffled label sets and the search for penalties counted."""
    weights: dict[tuple[str, str], np.ndarray]
    """Of the probe on all texts, (feature set, probe) -> [feature]; sets of latents only."""


def study(
    sets: Sequence[FeatureSet], plan: Plan, *, probes: Sequence[str], strengths: Sequence[float], depth: int, shuffles: int, seed: int
) -> Study:  # fmt: skip
    """Score every set by every probe. The same shuffled labels serve all sets, so that the best of them has a null of its own."""
    drawn = shuffled_labels(plan.yes, plan.groups.tolist(), plan.folds, shuffles, seed=seed, name="shuffles")
    targets = np.concatenate([plan.yes[None], drawn])
    shape = (len(sets) + 1, len(probes))
    score, strength = np.zeros((*shape, len(plan.yes))), np.full(shape, np.nan)
    null, weights, loose = np.zeros((3, *shape, shuffles)), {}, 0
    options: dict[str, Any] = {"strengths": strengths, "depth": depth, "seed": seed}
    for row, given in enumerate(track(sets, "probes")):
        for column, probe in enumerate(probes):
            held, chosen, slack = _held(given, targets, plan, probe, options)
            score[row, column], strength[row, column], loose = held[0], chosen, loose + slack
            null[:, row, column] = measured(held[1:], drawn, plan.folds)
            if given.family == "latents":
                weights[given.name, probe] = _weights(given, plan, probe, options)
    score[-1] = majority(plan)
    null[:, -1] = measured(np.tile(score[-1, 0], (shuffles, 1)), drawn, plan.folds)[:, None]
    return Study(score, null, strength, loose, weights)


def majority(plan: Plan) -> np.ndarray:
    """+1 or -1 [row]: what most of the training texts are; of as many, no."""
    out = np.zeros(len(plan.yes))
    for fold in np.unique(plan.folds):
        train = plan.yes[plan.folds != fold]
        out[plan.folds == fold] = 1.0 if train.sum() > len(train) / 2 else -1.0
    return out


def _held(
    given: FeatureSet, targets: np.ndarray, plan: Plan, probe: str, options: dict[str, Any]
) -> tuple[np.ndarray, float, int]:
    """Held-out scores [target, row], the penalty, and how many fits did not converge."""
    score, strengths, loose = np.zeros(targets.shape), [], 0
    for fold, inner in enumerate(plan.inner):
        train = plan.folds != fold
        fitted = _fold(given, train, targets, inner, probe, options)
        score[:, ~train] = fitted.score
        strengths.append(fitted.strength[0])
        loose += fitted.loose
    return score, float(np.median(strengths)), loose


def _fold(
    given: FeatureSet, train: np.ndarray, targets: np.ndarray, inner: Any, probe: str, options: dict[str, Any]
) -> Any:
    if probe == "tree":
        return tree_fold(
            given.x, train, targets, scaling=given.scaling, depth=options["depth"], seed=options["seed"] % 2**32
        )
    return logistic_fold(given.x, train, targets, inner, scaling=given.scaling, strengths=options["strengths"])


def _weights(given: FeatureSet, plan: Plan, probe: str, options: dict[str, Any]) -> np.ndarray:
    every = np.ones(len(plan.yes), dtype=bool)
    fitted = _fold(given, every, plan.yes[None], plan.folds, probe, options)
    if probe == "tree":
        return np.zeros(given.x.shape[1]) if fitted.weights is None else np.asarray(fitted.weights)
    return combined(given.x, every, fitted, given.scaling)
