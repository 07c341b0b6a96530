"""Maps that take a concept out of activations: projections, iterative nullspace projection, and LEACE.

All are affine and act on a row vector as  x' = x - (x - m) A B^T  with m the mean of the fit rows, so the mean stays where it is:

    orthogonal   A = B = Q, an orthonormal basis of what is removed: one direction, or the k directions of INLP, which fits a probe,
                 projects it out, fits another on what is left, and so on
    LEACE        A = W U, B = W^+ U, where W = S^(-1/2) whitens the rows (their covariance S) and U spans W S_xz, the whitened
                 cross-covariance of rows and labels. For two classes with means apart by g:  A = S^+ g, B = g / (g . S^+ g)

After LEACE the class means of the fit rows are equal, so the gradient of any convex linear probe's loss is zero at the constant probe: no
linear probe does better there than one that never looks. Of all affine maps with this property it moves the rows least, in every
norm. It is oblique: what is correlated with the concept is left where a linear probe cannot use it. Projecting the difference
of means out makes the means equal too, and moves the rows more; projecting a probe's vector out does not make them equal.

Sources: Ravfogel et al. 2020 (INLP, arXiv 2004.07667); Belrose et al. 2023 (LEACE, arXiv 2306.03819). The covariance S of few texts is a
poor one, and near as many texts as features its inverse blows noise up; it is shrunk to its diagonal by Ledoit and Wolf's estimate, which
costs optimality only: the means of the fit rows are equal for any S.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.core import edit
from interp.core.batch import At, Batch
from interp.core.edit import Edit
from interp.core.errors import BadInput, one_of
from interp.core.site import Site
from interp.core.stats import random_subspace

from .base import METHODS, NOISE, NoDifference, check_rows, fit_direction, sizes, spreads

ERASERS = (*METHODS, "inlp", "leace")


@dataclass(frozen=True, eq=False)
class Eraser:
    """x' = x - (x - centre) @ left @ right.T, float64. Made by `fit_eraser` and `random_eraser`."""

    left: np.ndarray
    """[d, k]"""
    right: np.ndarray
    """[d, k]"""
    centre: np.ndarray
    """[d]"""

    @property
    def rank(self) -> int:
        """Dimensions that are removed."""
        return self.left.shape[1]

    @property
    def orthogonal(self) -> bool:
        """Whether it is an orthogonal projection."""
        return self.left is self.right

    def __call__(self, values: "Tensor | np.ndarray") -> np.ndarray:
        """Rows [row, d] without the concept, float64."""
        x = np.asarray(torch.as_tensor(values).double().numpy())
        return x - ((x - self.centre) @ self.left) @ self.right.T

    def edit(self, site: Site, at: At, *, heads: tuple[int, ...] | None = None) -> Edit:
        """The map as an edit of a site, at some positions; sites with heads are flattened as `gather` does."""
        if "head" not in site.dims and "kv_head" not in site.dims and self.orthogonal:
            return edit.project_out(
                site, torch.from_numpy(self.left).float(), at=at, toward=torch.from_numpy(self.centre).float()
            )
        left, right, centre = (torch.from_numpy(part).float() for part in (self.left, self.right, self.centre))
        flat = "head" not in site.dims and "kv_head" not in site.dims

        def erase(x: Tensor) -> Tensor:
            chosen = x if heads is None else x[..., list(heads), :]
            rows = chosen if flat else chosen.flatten(-2)
            wide = rows.float()
            new = (wide - ((wide - centre.to(x.device)) @ left.to(x.device)) @ right.to(x.device).T).to(x.dtype)
            if flat or heads is None:
                return new.reshape(x.shape)
            x[..., list(heads), :] = new.reshape(chosen.shape)  # an edit is given a copy
            return x

        return edit.call(site, erase, at=at)


def fit_eraser(
    values: "Tensor | np.ndarray",
    labels: Sequence[bool],
    method: str = "leace",
    *,
    groups: Sequence[Any] | None = None,
    rounds: int = 4,
    strength: float = 0.1,
) -> Eraser:
    """The eraser of a concept from values [row, d] with a label a row. `rounds` and `strength` are for INLP and probes.

    Raises `BadInput` as `fit_direction` does, and where `rounds` directions are more than there are features.
    """
    one_of("method", method, ERASERS)
    x, yes = check_rows(values, labels)
    centre = x.mean(axis=0)
    if method == "leace":
        return leace(x, yes[:, None].astype(float))
    if method == "inlp":
        basis = _nullspace(x, yes, rounds, strength)
    else:
        direction = fit_direction(x, labels, method, groups=groups, strength=strength)  # type: ignore[arg-type]
        basis = direction.unit.numpy()[:, None]
    return Eraser(basis, basis, centre)


def leace(x: np.ndarray, z: np.ndarray, *, shrinkage: float | None = None) -> Eraser:
    """LEACE for rows x [row, d] and labels z [row, label] (one-hot or numbers): the least map that leaves no covariance of the two.

    `shrinkage` is the share of the diagonal in the covariance that says what is least: 0 for the rows' own; None for Ledoit and Wolf's
    estimate, on standardised rows. Whatever it is, what is left on these rows has no covariance with the labels.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    centre = x.mean(axis=0)
    rows, code = x - centre, z - z.mean(axis=0)
    spread, moves = x.std(axis=0), spreads(x)
    if (np.abs(rows.T @ code).max(axis=1) <= NOISE * len(x) * sizes(x) * max(float(np.abs(code).max()), 1e-300)).all():
        raise NoDifference("there is nothing to erase: the class means are equal already.")
    share = float(ledoit_wolf_shrinkage(rows / moves)) if shrinkage is None else shrinkage
    if not 0 <= share <= 1:
        raise BadInput(f"`shrinkage` must lie between 0 and 1; not {shrinkage}.")
    values, vectors = np.linalg.eigh((1 - share) * rows.T @ rows / len(x) + share * np.diag(spread**2))
    keep = values > values[-1] * len(values) * np.finfo(float).eps * 10
    root, axes = np.sqrt(values[keep]), vectors[:, keep]  # [r], [d, r]
    cross = ((rows @ axes) / root).T @ code / len(x)  # [r, label], whitened
    u, s, _ = np.linalg.svd(cross, full_matrices=False)
    u = u[:, s > 1e-10 * max(float(s[0]), 1e-300)]
    return Eraser(axes @ (u / root[:, None]), axes @ (u * root[:, None]), centre)


def random_eraser(values: "Tensor | np.ndarray", rank: int, *, seed: int = 0, name: str = "eraser") -> Eraser:
    """The projection of a random subspace of the same rank: what erasing costs that erases nothing in particular."""
    x = np.asarray(torch.as_tensor(values).double().numpy())
    basis = random_subspace(rank, x.shape[1], seed, name).double().numpy()
    basis = np.linalg.qr(basis)[0]
    return Eraser(basis, basis, x.mean(axis=0))


def text_edits(erasers: "dict[Site, Eraser]", bos: bool, heads: tuple[int, ...] | None = None) -> Any:
    """A function from a batch to the edits that erase at every token but a BOS, as `gather` wants it."""

    def edits(batch: Batch) -> list[Edit]:
        at = At.mask(batch.mask & (batch.position_ids >= int(bos)))
        return [eraser.edit(site, at, heads=heads) for site, eraser in erasers.items()]

    return edits


def _nullspace(x: np.ndarray, yes: np.ndarray, rounds: int, strength: float) -> np.ndarray:
    """Orthonormal directions [d, rounds] of probes, each fitted on what the earlier ones left."""
    if not 0 < rounds < x.shape[1]:
        raise BadInput(f"`rounds` must lie between 1 and {x.shape[1] - 1}, the features less one; not {rounds}.")
    basis = np.zeros((x.shape[1], 0))
    for _ in range(rounds):
        rows = x - (x @ basis) @ basis.T
        vector = fit_direction(rows, yes.tolist(), "logistic", strength=strength).vector.numpy()
        vector = vector - basis @ (basis.T @ vector)
        vector = vector - basis @ (basis.T @ vector)  # again, against rounding
        basis = np.concatenate([basis, vector[:, None] / np.linalg.norm(vector)], axis=1)
    return basis
