"""How sure a number is: intervals, tests, corrections for many tests, and random directions to compare with.

Everything resamples *examples*, never cells: the prompts are what was drawn from a larger world; the cells of a grid (layers, heads,
positions) share them. So one resample is used for every cell at once, which keeps cells paired, and costs one matrix product:

    mean*[b, cell] = Σ_i count[b, i] · x[i, cell] / Σ_i count[b, i]        count[b, :] ~ Multinomial(n; 1/n, …, 1/n)

    interval = bootstrap_ci(effects, axis="prompt", seed=0, name="trace")   # .estimate .low .high, each [layer, position]
    p = sign_flip_test(effects, axis="prompt")                              # is the mean of paired differences zero?
    holm(p), benjamini_hochberg(p)                                          # over the whole grid

Sources: Efron & Tibshirani 1993 (bootstrap); Hesterberg 2015, The American Statistician 69 (plain percentiles are too narrow for
few examples; the levels are widened here as advised there); Phipson & Smyth 2010 (a permutation p-value is never 0); Holm 1979;
Benjamini & Hochberg 1995. scipy does what it can do; its resampling knows neither NaN nor clusters, hence ours.

When it misleads: below about ten examples no interval is worth its name. Prompts built from one template are not independent: pass
`clusters`. A sign-flip test assumes differences that are symmetric when there is no effect.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .errors import BadInput, one_of
from .seed import generator, numpy_generator
from .shapes import Float

Array: TypeAlias = Any
"""A numpy array, CPU tensor or DataArray. A DataArray names its axis (`axis="prompt"`) and gives DataArrays back."""
Alternative = Literal["two-sided", "greater", "less"]
BLOCK = 1 << 22  # resampled numbers held at once


class Interval(NamedTuple):
    """An estimate and its confidence limits; NaN limits where fewer than two examples are known."""

    estimate: Array
    low: Array
    high: Array


class Correlation(NamedTuple):
    """Rank correlation, its two-sided p-value, and the number of pairs."""

    rho: float
    p: float
    n: int


def bootstrap_ci(
    values: Array,
    axis: int | str = 0,
    *,
    statistic: "Literal['mean', 'median'] | Callable[..., Any]" = "mean",
    level: float = 0.95,
    n: int = 2000,
    seed: int = 0,
    name: str = "bootstrap",
    clusters: Sequence[Any] | None = None,
) -> Interval:
    """Percentile bootstrap over the examples along `axis`, for every other cell at once; NaN examples are left out cell by cell.

    `statistic` may be a function `f(values, axis=0)` that ignores NaN. `clusters` gives a label an example: whole clusters are drawn.
    """
    if not 0 < level < 1 or n < 1:
        raise BadInput(f"`level` must lie between 0 and 1 and `n` above 0; not {level} and {n}.")
    if isinstance(statistic, str):
        one_of("statistic", statistic, ["mean", "median"])
    flat, restore = _flatten(values, axis)
    groups, members = _groups(clusters, len(flat))
    rng = numpy_generator(seed, name)
    counts = rng.multinomial(groups, np.full(groups, 1 / groups), size=n)  # [resample, group]
    present = np.zeros((groups, flat.shape[1]), dtype=bool)
    np.logical_or.at(present, members, np.isfinite(flat))
    known = present.sum(axis=0)
    estimate, low, high = (np.full(flat.shape[1], np.nan) for _ in range(3))
    for cells in _blocks(flat.shape[1], n):
        x = flat[:, cells]
        estimate[cells], resampled = _resample(x, counts, members, statistic)
        low[cells], high[cells] = _limits(resampled, known[cells], level)
    return Interval(restore(estimate), restore(low), restore(high))


def percentile_limits(resampled: Array, examples: Array, *, level: float = 0.95) -> tuple[Array, Array]:
    """Limits [cell] of statistics resampled elsewhere [resample, cell]; NaN below two independent `examples` (one number, or a cell's)."""
    if not 0 < level < 1:
        raise BadInput(f"`level` must lie between 0 and 1; not {level}.")
    return _limits(resampled, np.broadcast_to(np.asarray(examples), resampled.shape[1:]), level)


def sign_flip_test(
    values: Array,
    axis: int | str = 0,
    *,
    alternative: Alternative = "two-sided",
    n: int = 9999,
    seed: int = 0,
    name: str = "sign-flip",
    clusters: Sequence[Any] | None = None,
) -> Array:
    """P-value that paired differences have mean zero, by flipping their signs; exact where all flips are no more than `n`.

    NaN examples are left out cell by cell; a cell without any gives NaN. `clusters` gives a label an example: the examples of a
    cluster are flipped together.
    """
    one_of("alternative", alternative, ["two-sided", "greater", "less"])
    flat, restore = _flatten(values, axis)
    if clusters is not None:
        groups, members = _groups(clusters, len(flat))
        total, present = np.zeros((groups, flat.shape[1])), np.zeros((groups, flat.shape[1]), dtype=bool)
        np.add.at(total, members, np.where(np.isfinite(flat), flat, 0.0))
        np.logical_or.at(present, members, np.isfinite(flat))
        flat = np.where(present, total, np.nan)  # flipping a cluster flips its sum
    exact = 2 ** min(len(flat), 60) <= n
    signs = _signs(len(flat), n, exact, numpy_generator(seed, name))
    return restore(_p_values(flat, signs, alternative, exact))


def permutation_test(
    a: Array, b: Array, axis: int | str = 0, *, alternative: Alternative = "two-sided", n: int = 9999, seed: int = 0,
    name: str = "permutation",
) -> Array:  # fmt: skip
    """P-value that two independent groups have the same mean, by exchanging their examples; exact where feasible within `n`.

    The groups may differ in number along `axis` only. NaN examples are left out cell by cell.
    """
    one_of("alternative", alternative, ["two-sided", "greater", "less"])
    first, restore = _flatten(a, axis)
    second, _ = _flatten(b, axis)
    if first.shape[1] != second.shape[1]:
        raise BadInput(
            f"the groups have {first.shape[1]} and {second.shape[1]} cells; they may differ along the axis only."
        )
    both, size = np.concatenate([first, second]), len(first)
    total = math.comb(len(both), size)
    exact = total <= n
    member = np.zeros((total if exact else n, len(both)))  # [resample, example]: 1 in the first group
    if exact:
        for row, chosen in enumerate(itertools.combinations(range(len(both)), size)):
            member[row, list(chosen)] = 1.0
    else:
        order = numpy_generator(seed, name).permuted(np.tile(np.arange(len(both)), (n, 1)), axis=1)
        np.put_along_axis(member, order[:, :size], 1.0, axis=1)
    known = np.isfinite(both)
    observed = np.r_[np.ones(size), np.zeros(len(second))][None]
    p = np.full(both.shape[1], np.nan)
    for cells in _blocks(both.shape[1], len(member)):
        x, ok = np.where(known, both, 0.0)[:, cells], known[:, cells].astype(float)
        here = _difference(observed, x, ok)[0]
        p[cells] = _share(_difference(member, x, ok), here, np.abs(x).max(axis=0, initial=0.0), alternative, exact)
    return restore(p)


def holm(p: Array, *, log10: bool = False) -> Array:
    """Holm's adjusted p-values over all entries together (family-wise error); NaN stays NaN and does not count.

    With `log10`, takes and gives log10 p, which may lie far below what a float can hold as p; -inf is p = 0.
    """
    return _adjust(p, _holm_log10) if log10 else _adjust(p, _holm, top=1.0)


def benjamini_hochberg(p: Array, *, log10: bool = False) -> Array:
    """Benjamini and Hochberg's adjusted p-values over all entries together (false discovery rate); NaN does not count.

    With `log10`, takes and gives log10 p.
    """
    from scipy.stats import false_discovery_control

    if log10:
        return _adjust(p, _bh_log10)
    return _adjust(p, lambda known: false_discovery_control(known, method="bh"), top=1.0)


def spearman(a: Array, b: Array) -> Correlation:
    """Rank correlation of two vectors, pairs with a NaN left out. NaN where a vector is constant or fewer than three pairs remain."""
    from scipy.stats import spearmanr

    x, y = np.asarray(a, dtype=float).ravel(), np.asarray(b, dtype=float).ravel()
    if x.shape != y.shape:
        raise BadInput(f"the vectors have {x.size} and {y.size} entries. Give pairs.")
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(math.nan, math.nan, len(x))
    found = spearmanr(x, y)
    return Correlation(float(found.statistic), float(found.pvalue), len(x))


def spearman_permutation(
    a: Array, b: Array, *, within: Sequence[Any] | None = None, n: int = 9999, seed: int = 0, name: str = "spearman"
) -> Correlation:
    """Rank correlation of two vectors with the two-sided p-value of exchanging the entries of `b`; pairs with a NaN are left out.

    `within` gives a label an entry: entries are exchanged among those of one label only, so what labels have in common (a
    layer's number, say) is no evidence. NaN where a vector is constant or fewer than three pairs remain.
    """
    from scipy.stats import rankdata

    found = spearman(a, b)
    if math.isnan(found.rho):
        return found
    x, y = np.asarray(a, dtype=float).ravel(), np.asarray(b, dtype=float).ravel()
    labels = np.zeros(len(x), dtype=int) if within is None else _groups(within, len(x))[1]
    known = np.isfinite(x) & np.isfinite(y)
    x, y, labels = rankdata(x[known]), rankdata(y[known]), labels[known]
    x, y = x - x.mean(), y - y.mean()
    rng = numpy_generator(seed, name)
    orders = np.tile(np.arange(len(y)), (n, 1))
    for label in np.unique(labels):
        place = np.flatnonzero(labels == label)
        orders[:, place] = rng.permuted(orders[:, place], axis=1)
    hits = _extreme(y[orders] @ x[:, None], np.array([x @ y]), np.array([np.abs(x) @ np.abs(y)]), "two-sided")
    return Correlation(found.rho, float((hits[0] + 1) / (n + 1)), found.n)


def random_directions(n: int, d: int, seed: int = 0, name: str = "directions") -> Float[Tensor, "n d"]:
    """Unit vectors, uniform on the sphere, float32: what an arbitrary direction would have done."""
    x = torch.randn(n, d, generator=generator(seed, name), dtype=torch.float64)  # [n, d]
    return (x / x.norm(dim=1, keepdim=True)).float()


def random_subspace(k: int, d: int, seed: int = 0, name: str = "subspace") -> Float[Tensor, "d k"]:
    """An orthonormal basis of a uniformly random subspace, float32: the control for a subspace of the same rank."""
    if not 0 < k <= d:
        raise BadInput(f"a subspace of {d} dimensions has rank 1 to {d}; not {k}.")
    q, r = torch.linalg.qr(torch.randn(d, k, generator=generator(seed, name), dtype=torch.float64))
    return (q * r.diagonal().sign()).float()  # the signs make it uniform


def _flatten(values: Array, axis: int | str) -> tuple[np.ndarray, Callable[[np.ndarray], Any]]:
    """Examples first, cells flattened [example, cell]; and the way back for one number a cell."""
    if isinstance(values, xr.DataArray):
        dim = values.dims[axis] if isinstance(axis, int) else axis
        if dim not in values.dims:
            raise BadInput(f"there is no axis {axis!r}; there are {list(map(str, values.dims))}.")
        moved = values.transpose(dim, ...)
        frame = moved.isel({dim: 0}, drop=True)
        data = moved.values
        back: Callable[[np.ndarray], Any] = lambda x: frame.copy(data=x.reshape(frame.shape))  # noqa: E731
    else:
        if isinstance(axis, str):
            raise BadInput(f"the axis {axis!r} needs a DataArray. Give its number instead.")
        data = np.moveaxis(np.asarray(values), axis, 0)
        shape = data.shape[1:]
        back = lambda x: x.reshape(shape) if shape else float(x[0])  # noqa: E731
    if len(data) == 0:
        raise BadInput("there is no example to resample. Give at least one.")
    return np.asarray(data, dtype=np.float64).reshape(len(data), -1), back


def _groups(clusters: Sequence[Any] | None, examples: int) -> tuple[int, np.ndarray]:
    if clusters is None:
        return examples, np.arange(examples)
    if len(clusters) != examples:
        raise BadInput(f"`clusters` has {len(clusters)} labels for {examples} examples. Give one each.")
    number = {label: group for group, label in enumerate(dict.fromkeys(clusters))}  # in order of appearance
    return len(number), np.array([number[label] for label in clusters])


def _resample(x: np.ndarray, counts: np.ndarray, members: np.ndarray, statistic: Any) -> tuple[np.ndarray, np.ndarray]:
    """The statistic [cell] of the examples x [example, cell] and of every resample [resample, cell]."""
    if statistic == "mean":
        groups = counts.shape[1]
        known = np.isfinite(x)
        total, number = np.zeros((groups, x.shape[1])), np.zeros((groups, x.shape[1]))
        np.add.at(total, members, np.where(known, x, 0.0))
        np.add.at(number, members, known)
        with np.errstate(invalid="ignore"):
            return total.sum(axis=0) / number.sum(axis=0), (counts @ total) / (counts @ number)
    function = _nanmedian if statistic == "median" else statistic
    weight = counts[:, members]  # [resample, example]
    return function(x, axis=0), np.stack([function(np.repeat(x, row, axis=0), axis=0) for row in weight])


def _nanmedian(x: np.ndarray, axis: int) -> np.ndarray:
    """Median without NaN; NaN, silently, where nothing is known."""
    empty = ~np.isfinite(x).any(axis=axis)
    median = np.nanmedian(np.where(np.expand_dims(empty, axis), 0.0, x), axis=axis)
    return np.where(empty, np.nan, median)


def _limits(resampled: np.ndarray, known: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles of each column at the level that its number of examples needs; NaN below two examples."""
    from scipy.stats import norm, t

    enough = known >= 2
    size = np.where(enough, known, 2)
    tail = norm.cdf(t.ppf((1 - level) / 2, size - 1) * np.sqrt(size / (size - 1)))  # [cell]
    ordered = np.sort(resampled, axis=0)  # NaN last
    usable = np.isfinite(ordered).sum(axis=0)
    limits = []
    for quantile in (tail, 1 - tail):
        place = quantile * np.maximum(usable - 1, 0)
        below = np.floor(place).astype(int)
        above = np.minimum(below + 1, np.maximum(usable - 1, 0))
        lower, upper = (np.take_along_axis(ordered, row[None], axis=0)[0] for row in (below, above))
        limits.append(np.where(enough, lower + (upper - lower) * (place - below), np.nan))
    return limits[0], limits[1]


def _signs(examples: int, n: int, exact: bool, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Blocks [resample, example] of signs: all there are, or `n` random ones."""
    if exact:
        yield np.array(list(itertools.product((1.0, -1.0), repeat=examples)))
        return
    step = max(1, 4 * BLOCK // examples)
    for start in range(0, n, step):
        yield rng.integers(0, 2, size=(min(step, n - start), examples)) * 2.0 - 1.0


def _p_values(flat: np.ndarray, signs: Iterator[np.ndarray], alternative: Alternative, exact: bool) -> np.ndarray:
    known = np.isfinite(flat)
    x = np.where(known, flat, 0.0)
    observed, size = x.sum(axis=0), np.abs(x).sum(axis=0)
    hits, resamples = np.zeros(x.shape[1]), 0
    for block in signs:
        for cells in _blocks(x.shape[1], len(block)):
            hits[cells] += _extreme(block @ x[:, cells], observed[cells], size[cells], alternative)
        resamples += len(block)
    extra = 0 if exact else 1
    return np.where(known.any(axis=0), (hits + extra) / (resamples + extra), np.nan)


def _extreme(null: np.ndarray, observed: np.ndarray, size: np.ndarray, alternative: Alternative) -> np.ndarray:
    """How many resamples [resample, cell] are at least as extreme as what was observed [cell], rounding forgiven."""
    slack = 1e-12 * size
    if alternative == "two-sided":
        hits = np.abs(null) >= np.abs(observed) - slack
    else:
        sign = 1.0 if alternative == "greater" else -1.0
        hits = sign * null >= sign * observed - slack
    return np.asarray(hits.sum(axis=0))


def _difference(member: np.ndarray, x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Difference of means [resample, cell] of the examples in the first group and the others."""
    inside, size = member @ x, member @ known
    with np.errstate(invalid="ignore", divide="ignore"):
        return inside / size - (x.sum(axis=0) - inside) / (known.sum(axis=0) - size)


def _share(
    null: np.ndarray, observed: np.ndarray, size: np.ndarray, alternative: Alternative, exact: bool
) -> np.ndarray:
    """Share of resamples [resample, cell] at least as extreme as what was observed [cell]."""
    hits = _extreme(null, observed, size, alternative)
    usable = np.isfinite(null).sum(axis=0)
    extra = 0 if exact else 1
    with np.errstate(invalid="ignore"):
        p = (hits + extra) / (usable + extra)
    return np.where(np.isfinite(observed), p, np.nan)


def _adjust(p: Array, method: Callable[[np.ndarray], np.ndarray], *, top: float = 0.0) -> Array:
    """`method` on what is known; `top` is where legal values end: 1 for p, 0 for log10 p."""
    values = np.asarray(p, dtype=np.float64)
    known = np.isfinite(values) if top else ~np.isnan(values)
    if bool(((values[known] > top) | (values[known] < 0 if top else False)).any()):
        raise BadInput("p-values must lie between 0 and 1." if top else "log10 p-values must not be above 0.")
    adjusted = np.full(values.shape, np.nan)
    if known.any():
        adjusted[known] = method(values[known])
    return p.copy(data=adjusted) if isinstance(p, xr.DataArray) else adjusted


def _holm(p: np.ndarray) -> np.ndarray:
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def _holm_log10(p: np.ndarray) -> np.ndarray:
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] + np.log10(np.arange(len(p), 0, -1))), 0.0)
    return adjusted


def _bh_log10(p: np.ndarray) -> np.ndarray:
    order = np.argsort(p)[::-1]  # the largest first
    adjusted = np.empty_like(p)
    share = np.log10(len(p) / np.arange(len(p), 0, -1))
    adjusted[order] = np.minimum(np.minimum.accumulate(p[order] + share), 0.0)
    return adjusted


def _blocks(cells: int, resamples: int) -> Iterator[slice]:
    step = max(1, BLOCK // max(resamples, 1))
    return (slice(start, start + step) for start in range(0, cells, step))
