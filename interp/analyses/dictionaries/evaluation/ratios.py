"""Ratios of sums over documents, with intervals that resample what is independent of each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.core.seed import numpy_generator
from interp.core.stats import Interval, percentile_limits

RESAMPLES = 2000


def ratio_ci(
    top: np.ndarray,
    bottom: np.ndarray,
    *,
    clusters: Sequence[Any] | None = None,
    level: float = 0.95,
    name: str = "ratio",
) -> Interval:
    """sum(top) / sum(bottom) of each cell [document, cell], documents (whole clusters of them) drawn anew for both at once.

    NaN where the bottom sums to zero, and limits below two documents that are known.
    """
    known = np.isfinite(top) & np.isfinite(bottom)
    members = np.arange(len(top)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    groups = int(members.max()) + 1
    sums = np.zeros((2, groups, top.shape[1]))
    present = np.zeros((groups, top.shape[1]), dtype=bool)
    for table, values in zip(sums, (top, bottom), strict=True):
        np.add.at(table, members, np.where(known, values, 0.0))
    np.logical_or.at(present, members, known)
    counts = numpy_generator(0, name).multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = np.where(known, top, 0.0).sum(axis=0) / np.where(known, bottom, 0.0).sum(axis=0)
        drawn = (counts @ sums[0]) / (counts @ sums[1])  # [resample, cell]
    estimate = np.where(np.isfinite(estimate), estimate, np.nan)
    low, high = percentile_limits(np.where(np.isfinite(drawn), drawn, np.nan), present.sum(axis=0), level=level)
    return Interval(estimate, np.asarray(low), np.asarray(high))
