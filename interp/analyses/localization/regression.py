"""The regressions of edit scores on layer and tracing effect, with the gain that chance alone would give.

    (a) score ~ layer as a factor        (b) score ~ effect        (c) score ~ factor(layer) x effect

    Diff = R2(c) - R2(a)      null gain = (1 - R2(a)) K / (n - K)       F = (Diff / K) / ((1 - R2(c)) / (n - 2 K))

for K layers and n rows; layers in which all effects are alike have no slope and are not counted among the slopes. (Hase et al. 2023, arXiv
2301.04213, section 5; null gain: mean R2 gained by K irrelevant slopes.)

The interval of Diff less its null draws whole facts. A draw repeats facts, so slopes gain by chance what they would with fewer rows: with
weights w the null gain of a draw is that of (sum w)^2 / sum w^2 facts, about half of them.

    import numpy as np
    rng = np.random.default_rng(0)
    layer_score = np.linspace(0, 1, 6) + 0.1 * rng.normal(size=(40, 6))
    found = regress(layer_score, rng.normal(size=(40, 6)), permutations=200, resamples=200)
    found.layer, found.diff, found.null, found.p
"""

from dataclasses import dataclass

import numpy as np

from interp.core.errors import BadInput
from interp.core.seed import numpy_generator


@dataclass(frozen=True)
class Regression:
    """What layer and tracing explain of a score."""

    null: float
    """R2 that irrelevant effects would add, by the formula."""
    null_ratio: float
    """Mean Diff over effects shuffled within layers, divided by `null`; near 1 where the formula holds."""
    layer: float
    """R2 of the layer alone."""
    tracing: float
    """R2 of the effect alone."""
    both: float
    """R2 of layer, effect and their interaction."""
    diff: float
    """R2(both) - R2(layer)."""
    gain: float
    """Diff less its null gain: what tracing adds beyond chance; may be negative."""
    gain_low: float
    """Interval of `gain` over resampled facts, lower end (95 %)."""
    gain_high: float
    f: float
    """F of (both) against (layer), rows taken as independent."""
    p: float
    """Of that F."""
    p_facts: float
    """Share of permutations of whole facts' effects that gain as much: what to believe where rows of a fact depend on each other."""
    n_facts: int
    n_rows: int


def regress(
    scores: np.ndarray, effects: np.ndarray, *, permutations: int = 1000, resamples: int = 1000, seed: int = 0
) -> Regression:
    """Fit the three regressions to scores [fact, layer] and effects [fact, layer]; facts with a NaN anywhere are left out.

    Raises `BadInput` for fewer than 4 complete facts, fewer than 2 layers, or scores that are all alike.
    """
    scores, effects = (np.asarray(values, dtype=np.float64) for values in (scores, effects))
    if scores.shape != effects.shape or scores.ndim != 2:
        raise BadInput(
            f"scores and effects must be two arrays [fact, layer] of one shape; not {scores.shape} and {effects.shape}."
        )
    whole = np.isfinite(scores).all(axis=1) & np.isfinite(effects).all(axis=1)
    y, x = scores[whole], effects[whole]
    facts, layers = y.shape
    if facts < 4 or layers < 2:
        raise BadInput(
            f"a regression needs at least 4 facts with every score and effect, and 2 layers; there are {facts} facts and {layers} layers."
        )
    if np.ptp(y) == 0:
        raise BadInput(f"all scores are {y.flat[0]:g}: there is nothing to explain.")
    n = y.size
    layer, both = _layer(y), _both(y, x)
    slopes = int(_sloped(x).sum())
    null = null_gain(layer, n, layers, slopes)
    rng = numpy_generator(seed, "tracing against editing")
    within = [_shuffled(y, rng.permuted(x, axis=0)[None]) for _ in range(min(permutations, 200))]
    orders = (np.stack([rng.permutation(facts) for _ in range(n)]) for n in _blocks(permutations, y.size))
    permuted = np.concatenate([_shuffled(y, x[order]) for order in orders])
    drawn = [_gain(y, x, draw) for draw in rng.choice(facts, size=(resamples, facts))]
    low, high = np.quantile(drawn, [0.025, 0.975])
    f, p = _f_test(layer, both, n, layers, slopes)
    diff = both - layer
    share = (1 + (permuted >= diff - 1e-12).sum()) / (1 + permutations)
    return Regression(
        null, float(np.mean(within) / null) if null > 0 else float("nan"), layer, _slope(y, x), both, diff,
        diff - null, float(low), float(high), f, p, float(share), facts, n,
    )  # fmt: skip


def null_gain(r2_layer: float, rows: float, layers: int, slopes: int | None = None) -> float:
    """R2 that irrelevant slopes (one a layer, or fewer) add on average to `layers` means over `rows` independent rows."""
    return (1 - r2_layer) * (layers if slopes is None else slopes) / (rows - layers)


def _gain(y: np.ndarray, x: np.ndarray, facts: np.ndarray) -> float:
    """Diff less its null gain for a resample of facts."""
    layers, weights = y.shape[1], np.bincount(facts, minlength=len(y))
    y, x = y[facts], x[facts]
    worth = len(facts) ** 2 / float((weights**2).sum())  # distinct facts that would tell as much
    if np.ptp(y) == 0 or worth <= 1.5:
        return 0.0
    layer = _layer(y)
    return _both(y, x) - layer - null_gain(layer, worth * layers, layers, int(_sloped(x).sum()))


def _shuffled(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Diff of many effects [draw, fact, layer], [draw]."""
    dy, dx = y - y.mean(axis=0), x - x.mean(axis=1, keepdims=True)
    spread, joint = (dx**2).sum(axis=1), np.einsum("dfl,fl->dl", dx, dy)
    explained = np.divide(joint**2, spread, out=np.zeros_like(spread), where=np.ptp(x, axis=1) > 1e-12)
    return np.asarray(explained.sum(axis=1) / _total(y))


def _blocks(draws: int, size: int) -> list[int]:
    """`draws` in blocks of at most 4 million numbers."""
    most = max(1, (1 << 22) // size)
    return [min(most, draws - start) for start in range(0, draws, most)]


def _sloped(x: np.ndarray) -> np.ndarray:
    """Layers whose effects differ between facts, bool [layer]."""
    return np.ptp(x, axis=0) > 1e-12


def _total(y: np.ndarray) -> float:
    return float(((y - y.mean()) ** 2).sum())


def _layer(y: np.ndarray) -> float:
    """R2 of a mean for each layer."""
    return 1 - float(((y - y.mean(axis=0)) ** 2).sum()) / _total(y)


def _both(y: np.ndarray, x: np.ndarray) -> float:
    """R2 of an intercept and a slope for each layer: the interaction model splits into one line a layer."""
    dy, dx = y - y.mean(axis=0), x - x.mean(axis=0)
    spread = (dx**2).sum(axis=0)
    explained = np.divide((dx * dy).sum(axis=0) ** 2, spread, out=np.zeros_like(spread), where=_sloped(x))
    return 1 - float((dy**2).sum() - explained.sum()) / _total(y)


def _slope(y: np.ndarray, x: np.ndarray) -> float:
    """R2 of one line through all rows."""
    if np.ptp(x) <= 1e-12:
        return 0.0
    dy, dx = y - y.mean(), x - x.mean()
    return float((dx * dy).sum() ** 2 / (dx**2).sum() / _total(y))


def _f_test(layer: float, both: float, n: int, layers: int, slopes: int) -> tuple[float, float]:
    from scipy.stats import f as distribution

    rest = n - layers - slopes
    if rest < 1 or both >= 1 or not slopes:
        return float("nan"), float("nan")
    value = ((both - layer) / slopes) / ((1 - both) / rest)
    return float(value), float(distribution.sf(value, slopes, rest))
