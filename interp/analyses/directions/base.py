"""A direction for a concept: a vector in the units of a site, a threshold, and how far apart the two classes lie along it.

    import interp
    lm, texts = interp.load("atlas"), interp.reference.labelled("atlas", "colour", 20)
    values = gather(lm, texts, "blocks.2.hook_resid_post", pool="mean")["blocks.2.hook_resid_post"]
    direction = fit_direction(values, texts.labels, method="ridge")
    direction.score(values)              # [text], positive for yes
    direction.unit, direction.scale      # adding scale * unit moves the mean no to where the mean yes is, along it

Methods: "mean", the difference of the class means; "lda", the same whitened by the covariance within the classes (Fisher); "ridge" and
"logistic", probes by scikit-learn on standardised values, with the standardisation folded back into vector and bias; "pca", the first
principal component: of the differences within pairs where every group is a pair (about zero, not about their mean, which is what is
looked for), else of all values; its sign comes from the labels.

The penalty `strength` is one a row: Ridge(alpha = strength * n) and LogisticRegression(C = 1 / (strength * n)). Classes weigh the same
whatever their sizes: for logistic by weights of the rows, for the other methods by a threshold half way between the classes' mean scores.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import BadInput, one_of
from interp.core.site import Site

from .gather import Gathered, gather

__all__ = [
    "METHODS", "Direction", "Gathered", "Method", "NoDifference", "check_rows", "fit_direction", "fit_directions", "gather", "spreads",
]  # fmt: skip

Method = Literal["mean", "lda", "ridge", "logistic", "pca"]
METHODS = ("mean", "lda", "ridge", "logistic", "pca")
NOISE = 1e-5
"""Differences below this share of a feature's size are rounding of float32 passes in batches of different shapes."""


class NoDifference(BadInput):
    """The classes have the same values, so there is no direction from one to the other."""


@dataclass(frozen=True, eq=False)
class Direction:
    """Where yes lies from no. Made by `fit_direction`."""

    vector: Tensor
    """In the site's own units, float64 [d]; heads flattened."""
    bias: float
    """`values @ vector + bias` is positive for yes."""
    scale: float
    """Distance between the two class means along the vector, in the site's units, on the texts of the fit."""
    method: str
    site: Site | None = None
    shape: tuple[int, ...] = ()
    """A token's own shape at the site."""
    heads: tuple[int, ...] | None = None
    """The heads that the vector covers; None for all."""
    strength: float | None = None
    """Penalty a row, of ridge and logistic."""

    @property
    def unit(self) -> Tensor:
        """The vector at length 1, float64 [d]."""
        return self.vector / self.vector.norm()

    def score(self, values: "Tensor | np.ndarray") -> Tensor:
        """Signed score of rows [row, d], float64 [row]: positive for yes."""
        return torch.as_tensor(values).double() @ self.vector + self.bias

    def at_site(self) -> Tensor:
        """The unit vector in the shape of a token at the site, float32: for `edit.add`. Zero at heads it does not cover."""
        if self.heads is None:
            return self.unit.float().reshape(self.shape or self.unit.shape)
        full = torch.zeros(self.shape)
        full[list(self.heads)] = self.unit.float().reshape(len(self.heads), -1)
        return full


def fit_direction(
    values: "Tensor | np.ndarray",
    labels: Sequence[bool],
    method: Method = "mean",
    *,
    groups: Sequence[Any] | None = None,
    strength: float = 0.1,
    site: "Site | None" = None,
) -> Direction:
    """The direction from no to yes in values [row, d] with a label a row.

    `groups` names a group a row; "pca" uses them where each is one yes and one no. Raises `BadInput` for labels of one class, values
    that are not finite, more features than rows where the method cannot have them, and a fit that does not converge.
    """
    one_of("method", method, METHODS)
    x, yes = check_rows(values, labels)
    if groups is not None and len(groups) != len(yes):
        raise BadInput(f"`groups` has {len(groups)} names for {len(yes)} rows. Give one each.")
    if method in ("ridge", "logistic") and not strength > 0:
        raise BadInput(
            f"`strength` must be positive; not {strength}. Unpenalised probes fit any labels once features outnumber rows."
        )
    gap = x[yes].mean(axis=0) - x[~yes].mean(axis=0)
    if (np.abs(gap) <= NOISE * sizes(x)).all():
        raise NoDifference(
            f"the {method} direction{f' at {site}' if site else ''} is zero: the two classes have the same values here (as where all texts "
            "end in one token and `pool` is 'last'). Take another site or pooling."
        )
    bias = None
    if method == "mean":
        vector = gap
    elif method == "lda":
        vector = _whitened(x, yes, gap)
    elif method == "pca":
        vector = component(x, yes, groups)
        vector = vector if vector @ gap >= 0 else -vector
    else:
        vector, bias = _probe(x, yes, method, strength)
    size = float(np.linalg.norm(vector))
    if bias is None or method == "ridge":
        bias = -0.5 * float((x[yes].mean(axis=0) + x[~yes].mean(axis=0)) @ vector)
    penalty = strength if method in ("ridge", "logistic") else None
    scale = float(gap @ vector) / size
    return Direction(torch.from_numpy(vector.copy()), bias, scale, method, site, strength=penalty)


def fit_directions(
    gathered: Gathered,
    labels: Sequence[bool],
    method: Method = "mean",
    *,
    groups: Sequence[Any] | None = None,
    strength: "float | Mapping[Site, float]" = 0.1,
) -> dict[Site, Direction]:
    """A direction for each site of `gathered`, from a label (and a group) a text."""
    rows = gathered.of_texts(labels)
    named = None if groups is None else gathered.of_texts(groups)
    out = {}
    for site, values in gathered.values.items():
        penalty = strength[site] if isinstance(strength, Mapping) else strength
        found = fit_direction(values, rows, method, groups=named, strength=penalty, site=site)
        out[site] = replace(found, shape=gathered.shapes[site], heads=gathered.heads)
    return out


def check_rows(values: "Tensor | np.ndarray", labels: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Values float64 [row, d] and labels bool [row]; refuses what no direction can be fitted on, with the counts."""
    x = np.asarray(torch.as_tensor(values).detach().cpu().double().numpy())
    yes = np.asarray(labels)
    if x.ndim != 2 or yes.shape != (len(x),):
        raise BadInput(f"give values [row, d] and a label a row; not {x.shape} and {yes.shape}.")
    if not np.isin(yes, (0, 1)).all():
        raise BadInput(
            f"labels must be yes or no (True or False, 1 or 0); not {sorted(set(map(str, yes.tolist())))[:5]}."
        )
    yes = yes.astype(bool)
    if not np.isfinite(x).all():
        raise BadInput("the values are not finite. Load the model with dtype='float32'.")
    if not 0 < yes.sum() < len(yes):
        raise BadInput(
            f"the labels are {int(yes.sum())} yes and {int((~yes).sum())} no. A direction is a difference: give both kinds."
        )
    return x, yes


def sizes(x: np.ndarray) -> np.ndarray:
    """Size of each feature [d] of x [row, d]: its root mean square, or that of the middle feature if it is larger."""
    rms = np.sqrt((x**2).mean(axis=0))
    return np.maximum(rms, np.median(rms))


def spreads(x: np.ndarray) -> np.ndarray:
    """Standard deviations [d] of x [row, d]; 1 for features that are constant but for the rounding of float32."""
    spread = x.std(axis=0)
    spread[spread <= 5e-7 * np.abs(x).max(axis=0)] = 1.0
    return np.asarray(spread)


def _whitened(x: np.ndarray, yes: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Fisher's direction: the class difference through the inverse covariance within the classes."""
    n, d = x.shape
    if n - 2 < d:
        raise BadInput(
            f"method='lda' inverts a covariance of {d} features and {n} rows do not determine it ({n - 2} degrees of freedom). "
            "Use 'ridge', or give more texts."
        )
    inner = np.where(yes[:, None], x - x[yes].mean(axis=0), x - x[~yes].mean(axis=0))
    spread = inner.std(axis=0)
    spread[spread == 0] = 1.0
    return solve_covariance((inner / spread).T @ (inner / spread) / (n - 2), gap / spread) / spread


def solve_covariance(covariance: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """The inverse covariance [d, d] times class differences [d] or [d, target]; refuses a covariance that has no inverse."""
    low, high = np.linalg.eigvalsh(covariance)[[0, -1]]
    if low <= 1e-10 * high:
        raise BadInput("method='lda': the values vary in fewer directions than they have features. Use 'ridge'.")
    return np.linalg.solve(covariance, gap)


def component(x: np.ndarray, yes: np.ndarray, groups: Sequence[Any] | None) -> np.ndarray:
    """First principal component: of differences within pairs, about zero, or of all values about their mean."""
    rows = paired_differences(x, yes, groups)
    rows = x - x.mean(axis=0) if rows is None else rows
    return np.linalg.svd(rows, full_matrices=False)[2][0]


def paired_differences(x: np.ndarray, yes: np.ndarray, groups: Sequence[Any] | None) -> np.ndarray | None:
    """Yes minus no of each pair [pair, d]; None unless every group is exactly one of each."""
    if groups is None:
        return None
    sides: dict[Any, list[list[int]]] = {}
    for row, (group, label) in enumerate(zip(groups, yes, strict=True)):
        sides.setdefault(group, [[], []])[int(label)].append(row)
    if any(len(no) != 1 or len(there) != 1 for no, there in sides.values()):
        return None
    return np.stack([x[there[0]] - x[no[0]] for no, there in sides.values()])


def _probe(x: np.ndarray, yes: np.ndarray, method: str, strength: float) -> tuple[np.ndarray, float]:
    """Vector and bias of a scikit-learn probe, in the units of `x`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    centre, spread = x.mean(axis=0), spreads(x)
    standard = (x - centre) / spread
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            if method == "ridge":
                fitted: Any = Ridge(alpha=strength * len(x)).fit(standard, yes * 2.0 - 1.0)
            else:
                fitted = LogisticRegression(
                    C=1 / (strength * len(x)), class_weight="balanced", tol=1e-8, max_iter=5000
                ).fit(standard, yes)
        except ConvergenceWarning:
            raise BadInput(
                f"the {method} probe did not converge with strength={strength} on {x.shape[0]} rows of {x.shape[1]} features. "
                "Raise `strength`."
            ) from None
    vector = np.ravel(fitted.coef_) / spread
    return vector, float(np.ravel(fitted.intercept_)[0]) - float(vector @ centre)
