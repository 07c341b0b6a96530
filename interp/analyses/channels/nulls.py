"""What composition scores would be by chance: four nulls, because each one alone can be fooled.

The question. A component writes v, a reader hears `|v side|` of it (see `factors`). How large is that for a v that means nothing?

analytic    v uniform on the sphere of the n free dimensions. With w the eigenvalues of sideᵀ side and g standard normal,
            score² = Σ_m w_m g_m² / Σ_{j ≤ n} g_j²,  mean 1/n for the whole stream:    P(score ≥ c) = P(Σ_j λ_j g_j² ≥ 0),  λ_j = w_j - c²
            an exact tail (`log10_tail`). For one direction (w = 1) it is a Beta(1/2, (n-1)/2).
shared      v normal with the second moment of all write directions of the model: "a random thing that heads write". Again a quadratic
            form, λ = eigenvalues of Σ^½ (side sideᵀ - c²) Σ^½, again exact (`log10_shared`).
rotation    the head's own directions turned together by a random orthogonal matrix; the best of its components (`rotation_null`).
shuffle     the entries of W_O exchanged among heads and rows within each dimension of the stream, then decomposed anew
            (`shuffle_null`): every dimension keeps its scale, so what comes from a few massive dimensions is in the null.
within      no null model at all: how far a component stands out among the others of its head, in their standard deviations, itself
            left out (`outstanding`).

How. The tail of a quadratic form is ∫ exp(K(s)) / s ds / 2πi, K(s) = -½ Σ log(1 - 2 s λ). The path goes through the saddle point on the
real line and bends along the steepest descent, where a few dozen points of the trapezoid rule give log10 p to 1e-4 in the bulk, and to
rounding in the tail, at 1e-300 as well as at 1e-5. The saddle point alone, without the integral, is the approximation of Lugannani and
Rice. Where a reader has many scores the tail is computed on a grid and interpolated. Results are log10 p: a p-value of exactly 0 is
-inf, and is one: the score is above the ceiling sqrt(max w), or at it, which no random direction reaches.

Source. Elhage et al. 2021 (baseline of composition scores); Merullo et al. 2024 (within-head z); Helstrom 1996, IEEE Trans. AES 32 and
Lugannani & Rice 1980, Adv. Appl. Prob. 12 (the tail); Phipson & Smyth 2010 (p-values of draws are never 0).

When it misleads
- Trained heads write into shared directions (mean, position, outlier dimensions), so the analytic null is refuted by a large share
  of all pairs. It says "not uniform", not "a channel". `shared` asks for more than what all heads have in common.
- The covariance of `shared` is estimated from the model itself. With L layers it holds about L times as many directions as dimensions:
  in a model of two layers it is noisy, and the null somewhat too wide, which costs power and never invents a channel.
- The shuffle destroys correlations between dimensions too: it protects from large dimensions, not from shared directions off the axes.
- `outstanding` cannot see a head all of whose components are read alike, and among 8 components 2.5 standard deviations are common.

    import interp
    from interp.analyses.channels.nulls import log10_tail, null_of
    log10_tail([0.1, 0.3, 0.5], [0.5, 0.3, 0.2], free=127)          # log10 p of three scores of one reader
    found = null_of(interp.load("atlas"), "0.2", "1.1", kind="K", null="rotation", draws=50)
    found.observed, found.z, found.p
"""

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from interp.core.errors import BadInput, one_of
from interp.core.seed import generator

from .component import Head
from .decompose import Components, components
from .factors import DEFAULT, Factors, Setting, ov, reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interp.core.lm import LM

STEP = 0.13
"""Of the trapezoid rule along the path, in standard deviations at its middle."""
GRID = 8
"""Points of the interpolation grid for one unit of score * sqrt(free)."""
BLOCK = 1 << 21
"""Complex numbers held at once."""
LN10 = math.log(10.0)


class Null(NamedTuple):
    """The best score of a head's components, and what it is by chance."""

    observed: float
    draws: np.ndarray
    """[draw]: the same number under the null."""

    @property
    def z(self) -> float:
        """Standard deviations of the draws by which what was observed lies above their mean."""
        return float((self.observed - self.draws.mean()) / self.draws.std(ddof=1))

    @property
    def p(self) -> float:
        """Share of draws at least as high, counting what was observed: at least 1 / (draws + 1)."""
        return float((1 + (self.draws >= self.observed).sum()) / (1 + len(self.draws)))


def log10_tail(score: object, weights: object, free: int, *, width: int = 1) -> np.ndarray:
    """log10 P(score of a random direction >= `score`), for scores of any shape of one reader with these `weights`.

    `weights` are the eigenvalues of its sideᵀ side (`weights_of`), no more than `free`; [1.0] for one direction, whose score is |cos|.
    `width` directions at once, for the root mean square of as many scores (a block that cannot be told apart): as if they were
    independent, where orthogonal ones vary a little less. NaN stays NaN; -inf is p = 0. Raises `BadInput` for what is no score.
    """
    c, w = np.asarray(score, dtype=np.float64), np.asarray(weights, dtype=np.float64).ravel()
    if not (np.isfinite(w).all() and len(w) and w.max() > 0 and w.min() > -1e-9 * w.max()):
        raise BadInput(
            f"the weights of a reader are not negative, and one at least is positive; not {w.tolist()[:5]}. Is its matrix zero?"
        )
    if len(w) > free or free < 2 or width < 1:
        raise BadInput(f"{len(w)} weights in {free} free dimensions, {width} at once: there is no such reader.")
    known = np.isfinite(c)
    if (c[known] < 0).any() or np.isinf(c).any():
        raise BadInput("scores are not negative and finite. Take the magnitude of a cosine.")
    values = np.append(w.clip(min=0), 0.0) if len(w) < free else w.clip(min=0)
    counts = np.append(np.ones(len(w)), free - len(w)) if len(w) < free else np.ones(len(w))
    out = np.full(c.shape, np.nan)
    out[known] = _many(c[known], values, counts * width)
    return out


def log10_shared(score: object, side: Tensor, moment: Tensor, *, width: int = 1) -> np.ndarray:
    """log10 P(score of a normal direction with second moment `moment` [d_model, d_model] >= `score`), into `side` [d_model, h].

    One eigenvalue problem of the rank of `moment` for each score: for candidates, not for whole tables. -inf is p = 0.
    """
    energy, axes = torch.linalg.eigh(moment)
    keep = energy > energy[-1] * 1e-12
    energy, axes = energy[keep], axes[:, keep]
    heard = (axes * energy.sqrt()).mT @ side  # [k, h]
    forms = heard @ heard.mT
    c = np.asarray(score, dtype=np.float64)
    flat = []
    for one in c.ravel().tolist():
        values = torch.linalg.eigvalsh(forms - torch.diag(energy * one**2)).cpu().numpy()
        flat.append(float(log10_positive(values[None], np.full(len(values), float(width)))[0]))
    return np.array(flat).reshape(c.shape)


def log10_positive(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """log10 P(Σ_j values_j χ²(counts_j) >= 0) for rows of values [case, j] with the same degrees of freedom [j]; -inf where it is 0."""
    out = np.empty(len(values))
    step = max(1, int(BLOCK / (4.5 / STEP) / max(1, values.shape[1])))
    for start in range(0, len(values), step):
        part = values[start : start + step]
        flip = (part * counts).sum(axis=1) > 0  # the smaller tail is the one that is computed
        tail = _log_upper(np.where(flip[:, None], -part, part), counts)
        with np.errstate(divide="ignore"):
            other = np.log1p(-np.exp(np.minimum(tail, 0.0)))
        out[start : start + step] = np.where(flip, other, tail) / LN10
    return out


def weights_of(side: Tensor) -> Tensor:
    """Eigenvalues of sideᵀ side [..., d_head], rising: what `log10_tail` needs of a reader, from side [..., d_model, d_head]."""
    return torch.linalg.eigvalsh(side.mT @ side).clamp(min=0)


def second_moment(parts: "Sequence[Components]") -> Tensor:
    """Mean of v vᵀ over all write directions of all heads of the layers given, [d_model, d_model]."""
    rows = torch.cat([rearrange(one.write, "head component d -> (head component) d") for one in parts])
    rows = rows[rows.isfinite().all(dim=1)]
    if not len(rows):
        raise BadInput("no head writes anything: there are no directions that they could share.")
    return rows.mT @ rows / len(rows)


def outstanding(score: Tensor, block: Tensor | None = None) -> Tensor:
    """Standard deviations (n - 1) by which each score [..., component] lies above the mean of its head's others, itself left out.

    NaN marks components that do not exist. `block` [..., component, component], bool, says which are left out together, where
    singular values are degenerate. NaN where fewer than two others remain, or where they are all the same.
    """
    known = score.isfinite()
    same = torch.eye(score.shape[-1], dtype=torch.bool, device=score.device) if block is None else block
    others = (known[..., None, :] & ~same).to(score)  # [..., component, other]
    x = score.nan_to_num(0.0)
    number = others.sum(-1)
    mean = (others * x[..., None, :]).sum(-1) / number.clamp(min=1)
    square = (others * (x[..., None, :] - mean[..., None]).square()).sum(-1)
    sd = (square / (number - 1).clamp(min=1)).sqrt()
    usable = known & (number >= 2) & (sd > 1e-12 * mean.abs())
    return torch.where(usable, (x - mean) / sd.clamp(min=1e-300), torch.nan)


def rotation_null(
    write: Tensor, side: Tensor, *, draws: int = 200, centred: bool = False, seed: int = 0, name: str = "rotation"
) -> Null:
    """The best of a head's components under random rotations of its orthonormal `write` rows [k, d_model]; `side` [d_model, h].

    `centred` where the mean is taken out of the stream: rotations then stay within what is left.
    """
    rows = write[write.isfinite().all(dim=-1)]
    if not len(rows) or draws < 2:
        raise BadInput(f"{len(rows)} components and {draws} draws: this needs a component, and two draws at least.")
    best = []
    for draw in range(draws):
        noise = torch.randn(
            rows.shape[1], len(rows), generator=generator(seed, "rotation", name, draw), dtype=torch.float64
        )
        noise = noise - noise.mean(dim=0) if centred else noise
        frame = torch.linalg.qr(noise.to(side)).Q.mT  # rotating orthonormal rows gives any frame alike
        best.append(float((frame @ side).norm(dim=-1).max()))
    return Null(float((rows @ side).norm(dim=-1).max()), np.array(best))


def shuffle_null(
    factors: Factors, side: Tensor, *, draws: int = 20, centred: bool = False, seed: int = 0, name: str = "shuffle"
) -> Tensor:
    """Scores of all components of a layer whose W_O is shuffled, [draw, head, component], into `side` [d_model, h].

    `factors` are the layer's OV. Beyond a head's rank the scores are NaN.
    """
    heads, width, d_model = factors.right.shape
    flat = rearrange(factors.right, "head h d -> (head h) d")
    found = []
    for draw in range(draws):
        order = torch.rand(heads * width, d_model, generator=generator(seed, "shuffle", name, draw)).argsort(dim=0)
        right = rearrange(flat.gather(0, order.to(flat.device)), "(head h) d -> head h d", head=heads)
        right = right - right.mean(-1, keepdim=True) if centred else right
        found.append((components(Factors(factors.left, right)).write @ side).norm(dim=-1))
    return torch.stack(found)


def null_of(
    lm: "LM",
    writer: "str | Head",
    to: "str | Head",
    *,
    kind: str = "Q",
    null: str = "rotation",
    draws: int = 200,
    setting: Setting = DEFAULT,
    offset: int | None = None,
    seed: int = 0,
) -> Null:
    """The best component of one head into one input of a later head, against random rotations or shuffled weights.

    Raises `BadInput` for a reader that is not above its writer, and for heads whose matrices are zero.
    """
    one_of("null", null, ("rotation", "shuffle"))
    if draws < 2:
        raise BadInput(f"{draws} draws have no spread: this needs two draws at least.")
    source, target = Head.parse(writer).check(lm), Head.parse(to).check(lm)
    if target.layer <= source.layer:
        raise BadInput(f"head {target} does not come after head {source}: it cannot read what that writes.")
    side = reader(lm, target.layer, kind, setting, offset=offset).side[target.head]
    factors = ov(lm, source.layer, setting)
    rows = components(Factors(factors.left[[source.head]], factors.right[[source.head]])).write[0]
    if bool(side.isnan().any()) or not bool(rows.isfinite().any()):
        raise BadInput(f"head {source} writes nothing, or head {target} reads nothing as {kind} (there).")
    centred = setting.folded and lm.spec.norm == "layer"
    name = f"{source}>{kind}:{target}"
    if null == "rotation":
        return rotation_null(rows, side, draws=draws, centred=centred, seed=seed, name=name)
    scores = shuffle_null(factors, side, draws=draws, centred=centred, seed=seed, name=name)[:, source.head]
    best = scores.nan_to_num(0.0).amax(dim=-1).cpu().numpy()
    return Null(float((rows @ side).norm(dim=-1).nan_to_num(0.0).max()), best)


def _many(c: np.ndarray, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The tail at every score [n], by interpolation where the grid for it is the shorter list."""
    ceiling, scale = float(values.max()) ** 0.5, math.sqrt(float(counts.sum()))
    out = np.full(len(c), -np.inf)
    below = c < ceiling
    if values.min() == values.max():  # every direction scores the same
        out[c <= ceiling] = 0.0
        return out
    if not below.any():
        return out
    place = c[below] * scale - np.log1p(
        -c[below] / ceiling
    )  # grows like the score, and like the logarithm of what is left of it
    low, high = float(place.min()), float(place.max())
    points = int((high - low) * GRID) + 8
    if high - low < 1e-9:  # equal scores are no grid
        out[below] = log10_positive(values - c[below][:1, None] ** 2, counts)
        return out
    if points >= below.sum():
        out[below] = log10_positive(values - c[below, None] ** 2, counts)
        return out
    from scipy.interpolate import CubicSpline

    grid = np.linspace(low, high, points)
    at = _inverse(grid, scale, ceiling)
    at[0], at[-1] = c[below].min(), c[below].max()
    out[below] = np.minimum(CubicSpline(grid, log10_positive(values - at[:, None] ** 2, counts))(place), 0.0)
    return out


def _inverse(place: np.ndarray, scale: float, ceiling: float) -> np.ndarray:
    """The scores at places `score * scale - log(1 - score / ceiling)`, by bisection."""
    low, high = np.zeros_like(place), np.full_like(place, ceiling)
    for _ in range(64):
        middle = (low + high) / 2
        with np.errstate(divide="ignore"):
            less = middle * scale - np.log1p(-middle / ceiling) < place
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    return low


def _log_upper(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """ln P(Σ_j values_j χ²(counts_j) >= 0), its mean at most 0, for rows of values [case, j]."""
    out = np.full(len(values), -np.inf)
    some = values.max(axis=1) > 0
    if not some.any():
        return out
    v = values[some] / values[some].max(axis=1, keepdims=True)
    s = _saddle(v, counts)
    r = v / (1 - 2 * s[:, None] * v)
    height = -0.5 * (counts * np.log1p(-2 * s[:, None] * v)).sum(axis=1) - np.log(s)
    second = 2 * (counts * r**2).sum(axis=1) + s**-2
    third = 8 * (counts * r**3).sum(axis=1) - 2 * s**-3
    x = np.arange(0.0, max(4.5, 60 / counts.sum()), STEP)
    spread, bend = second[:, None] ** -0.5, third / (6 * second)
    total = np.full(len(v), np.nan)
    left = np.arange(len(v))
    for last in (*[False] * 8, True):  # a path that bends too far climbs again: bend it less
        y, b = np.sinh(x) * spread[left], bend[left, None] * (not last)
        path, slope = 1j * y + b * y**2, (1j + 2 * b * y) * np.cosh(x) * spread[left]
        exponent = -np.log(1 + path / s[left, None])
        for j, count in enumerate(counts):
            exponent -= 0.5 * count * np.log(1 - 2 * path * r[left, j, None])
        low = np.minimum.accumulate(exponent.real, axis=1)
        fine = last | ((exponent.real - low).max(axis=1) <= 1e-3)
        parts = (np.exp(exponent[fine]) * slope[fine]).imag
        total[left[fine]] = parts.sum(axis=1) - 0.5 * parts[:, 0]
        left = left[~fine]
        if not len(left):
            break
        bend[left] /= 2
    out[some] = height + np.log(total * STEP / math.pi)
    return out


def _saddle(v: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Where K'(s) = 1/s between 0 and 1/2, for rows whose largest value is 1: Newton's steps, halved where they leave the bracket."""
    low, high = np.zeros(len(v)), np.full(len(v), 0.5)
    s = np.full(len(v), 0.25)
    for _ in range(100):
        r = v / (1 - 2 * s[:, None] * v)
        excess = (counts * r).sum(axis=1) - 1 / s
        low, high = np.where(excess < 0, s, low), np.where(excess < 0, high, s)
        step = s - excess / (2 * (counts * r**2).sum(axis=1) + s**-2)
        new = np.where((step > low) & (step < high), step, (low + high) / 2)
        done = np.abs(new - s).max() <= 1e-12 * s.min()
        s = new
        if done:
            break
    return s
