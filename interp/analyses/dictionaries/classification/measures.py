"""Macro F1, accuracy and AUC of held-out predictions, for many label sets at once, with intervals over groups of texts."""

import numpy as np

from interp.core.seed import numpy_generator
from interp.core.stats import percentile_limits

from ...directions.crossval import Plan, auc_interval, auc_parts

MEASURES = ("f1", "accuracy", "auc")


def measured(score: np.ndarray, targets: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """[measure, target] of held-out scores [target, row] against labels [target, row]; a score of 0 means no.

    F1 is the mean of both classes' F1. AUC compares rows of one fold only, since folds have probes of their own.
    """
    said = score > 0
    cells = [(said & targets), (said & ~targets), (~said & targets), (~said & ~targets)]
    f1, accuracy = _rates(*(cell.sum(axis=1).astype(float) for cell in cells))
    wins, pairs = np.zeros(len(score)), np.zeros(len(score))
    for fold in np.unique(folds):
        rows = folds == fold
        more, total = auc_parts(score[:, rows], targets[:, rows])
        wins, pairs = wins + more, pairs + total
    return np.stack([f1, accuracy, wins / np.maximum(pairs, 1)])


def intervals(score: np.ndarray, plan: Plan, *, level: float = 0.95, n: int = 2000) -> np.ndarray:
    """Limits [measure, 2, cell] of held-out scores [cell, row], by drawing groups anew."""
    resampled = np.stack([resample(one, plan, n=n) for one in score], axis=-1)  # [f1 or accuracy, draw, cell]
    groups = int(plan.groups.max()) + 1
    counted = [np.stack(percentile_limits(values, groups, level=level)) for values in resampled]
    return np.stack([*counted, np.stack(auc_interval(score, plan, level=level, n=n))])


def resample(score: np.ndarray, plan: Plan, *, n: int = 2000, seed: int = 0) -> np.ndarray:
    """Macro F1 and accuracy [2, draw] of one row of scores on groups drawn anew; the same draws for every row of scores."""
    groups = int(plan.groups.max()) + 1
    counts = numpy_generator(seed, "classification").multinomial(groups, np.full(groups, 1 / groups), size=n)
    said, yes = score > 0, plan.yes
    cells = np.zeros((groups, 4))
    for column, cell in enumerate((said & yes, said & ~yes, ~said & yes, ~said & ~yes)):
        np.add.at(cells[:, column], plan.groups, cell.astype(float))
    return np.stack(_rates(*(counts @ cells).T))


def _rates(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Macro F1 and accuracy; the F1 of a class that neither occurs nor is said is 0."""
    yes = 2 * tp / np.maximum(2 * tp + fp + fn, 1)
    no = 2 * tn / np.maximum(2 * tn + fp + fn, 1)
    return (yes + no) / 2, (tp + tn) / (tp + fp + fn + tn)
