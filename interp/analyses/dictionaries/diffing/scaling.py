"""Latent scaling: is what a latent stands for missing from the other model, or only from the other model's decoder?

For latent j with code f, decoder d and any target y [row, d] of a model

    beta = argmin_b sum_i |y_i - b f_ij d|^2 = (sum_i f_ij <d, y_i>) / (|d|^2 sum_i f_ij^2)

    target            y                                nu = beta(other model) / beta(own model)
    reconstruction    xhat of that model               large: other latents write it into the other model (latent decoupling)
    error             x - (xhat - f_j d_j) there       large: it is there and nobody writes it (complete shrinkage)

`d` is the tuned decoder for latents of the tuned model ("tuned" side) and the base decoder for those of the base. A latent is specific to
its model where both nu are small.

Direction-free. The projection on d shrinks with the angle between the two models' directions: for two bases rotated against each other
both nu are small whatever is there. So the regression is also done without a direction,

    v = (sum_i f_ij y_i - mean(y) sum_i f_ij) / (sum_i f_ij^2 - (sum_i f_ij)^2 / n)      the slope of y on f, a vector

and the ratio is that of its lengths, which needs no common basis, nor a common width. On the error target it estimates how strong the
concept is in the other model. A slope of nothing has a length too, by chance: sqrt(total variance of y / (n var f)), which is
sqrt(d / times on) for y that varies per component as much as the latent contributes; `floor` holds it.

How. Everything follows from sums over rows, taken in one pass in float64 whatever the number of latents: F^T E and F^T Xhat a model
[latent, d], sum f^2, sum f. No tensor has both a row and a latent and a component, and codes stay sparse.

Source. Minder et al. 2025 (arXiv 2504.02922), section 3 and its program; the sums and the direction-free version are this project's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp.core.dictionary import Codes
from interp.core.dictionary.kernels import bag, by_latent
from interp.core.errors import BadInput

MODELS = ("base", "tuned")
SIDES = ("tuned", "base")
"""Whose decoder is projected on, and whose beta is divided by."""
TARGETS = ("reconstruction", "error")


@dataclass(frozen=True, eq=False)
class Scaled:
    """What latent scaling found, float64 numpy."""

    beta: np.ndarray
    """[side, target, model, latent]; NaN where the side has no decoder or the widths differ."""
    length: np.ndarray
    """Length of the slope without a direction, [target, model, latent]; NaN for latents that were never on."""
    floor: np.ndarray
    """Length that it would have by chance, were target and code independent, [target, model, latent]."""
    active: np.ndarray
    """Rows in which a latent was on, int64 [latent]."""
    strength: np.ndarray
    """Mean code where it was on [latent]; NaN where never."""
    power: np.ndarray
    """Mean square of the code over all rows [latent]."""
    rows: int

    def nu(self, side: str = "tuned") -> np.ndarray:
        """Ratios of the published version, [target, latent]: the other model's beta over the side's own."""
        own, other = self._order(side)
        beta = self.beta[SIDES.index(side)]
        return _over(beta[:, other], beta[:, own])

    def free(self, side: str = "tuned") -> np.ndarray:
        """Ratios without a direction, [target, latent], not negative."""
        own, other = self._order(side)
        return _over(self.length[:, other], self.length[:, own])

    def chance(self, side: str = "tuned") -> np.ndarray:
        """What `free` would be were there nothing in the other model, [target, latent]."""
        own, other = self._order(side)
        return _over(self.floor[:, other], self.length[:, own])

    def _order(self, side: str) -> tuple[int, int]:
        own = MODELS.index(side)
        return own, 1 - own


class ScalingSums:
    """The sums that latent scaling needs, over rows in any number of batches."""

    def __init__(self, latents: int, widths: Mapping[str, int]) -> None:
        """For so many latents, and rows of {"base", "tuned"} of these widths."""
        if tuple(sorted(widths)) != MODELS:
            raise BadInput(f"latent scaling is of two models called {' and '.join(MODELS)}; not {sorted(widths)}.")
        self.latents, self.rows = latents, 0
        self.active = torch.zeros(latents, dtype=torch.int64)
        self.total, self.squares = (torch.zeros(latents, dtype=torch.float64) for _ in range(2))
        where = [(target, model) for target in TARGETS for model in MODELS]
        self.product = {key: torch.zeros(latents, widths[key[1]], dtype=torch.float64) for key in where}
        self.mean = {key: torch.zeros(widths[key[1]], dtype=torch.float64) for key in where}  # sums until asked
        self.energy = dict.fromkeys(where, 0.0)

    def add(self, codes: Codes, rows: Mapping[str, Tensor], reconstructed: Mapping[str, Tensor]) -> None:
        """Take in rows [row, d] of both models, their reconstructions and their codes."""
        order = by_latent(codes.ids, self.latents).places
        latent, row, value = codes.ids[order], codes.row_of()[order], codes.values[order].double()
        met, counts = latent.unique_consecutive(return_counts=True)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self.rows += len(codes)
        self.active[met] += counts
        self.total.index_add_(0, latent, value)
        self.squares.index_add_(0, latent, value**2)
        for model in MODELS:
            made = reconstructed[model].double()
            for target, y in (("reconstruction", made), ("error", rows[model].double() - made)):
                key = (target, model)
                self.mean[key] += y.sum(dim=0)
                self.energy[key] += float((y**2).sum())
                self.product[key][met] += bag(row, value, offsets, y)

    def finish(self, decoders: Mapping[str, Tensor], *, units: Mapping[str, float] | None = None) -> Scaled:
        """Betas and slopes for decoders {"base", "tuned": [latent, d]} in the space of the rows. Raises `BadInput` for no rows.

        `units` multiply rows and decoders of a model, where the two are not of one size as they are.
        """
        if not self.rows:
            raise BadInput("latent scaling was given no rows. Add some.")
        unit = {model: 1.0 if units is None else float(units[model]) for model in MODELS}
        d = {model: decoders[model].detach().double() * unit[model] for model in MODELS}
        shape = (len(TARGETS), len(MODELS), self.latents)
        beta = np.full((len(SIDES), *shape), np.nan)
        length, floor = np.full(shape, np.nan), np.full(shape, np.nan)
        spread = self.squares - self.total**2 / self.rows
        varies = spread > 1e-12 * self.squares.clamp_min(1e-300)
        for t, target in enumerate(TARGETS):
            for m, model in enumerate(MODELS):
                product, mean = (part[target, model] * unit[model] for part in (self.product, self.mean))
                mean = mean / self.rows
                own = d[model] if target == "error" else torch.zeros_like(d[model])
                for s, side in enumerate(SIDES):
                    if d[side].shape == d[model].shape:
                        along = (d[side] * product).sum(dim=1) + (d[side] * own).sum(dim=1) * self.squares
                        beta[s, t, m] = _over(along.numpy(), ((d[side] ** 2).sum(dim=1) * self.squares).numpy())
                slope = (product - self.total[:, None] * mean) / spread[:, None] + own
                variance = max(0.0, self.energy[target, model] * unit[model] ** 2 / self.rows - float(mean @ mean))
                length[t, m] = torch.where(varies, slope.norm(dim=1), torch.nan).numpy()
                floor[t, m] = torch.where(varies, (variance / spread).sqrt(), torch.nan).numpy()
        strength = _over(self.total.numpy(), self.active.double().numpy())
        power = self.squares.numpy() / self.rows
        return Scaled(beta, length, floor, self.active.numpy().copy(), strength, power, self.rows)


def _over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Quotients, NaN where nothing is divided by."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below != 0)
