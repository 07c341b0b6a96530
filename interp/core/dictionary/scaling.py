"""How the rows of a view are brought to a common size before a dictionary sees them: one vector and one number, kept with the weights.

    normalised = (x - mean) * factor

    mode        mean             factor
    none        0                1
    norm        0                so that the mean of |x|^2 is the width
    centred     of the rows      so that the total variance is the width

One number a view, so that directions and relative variances within a view stay. Comparisons of decoder norms between two models (Delta)
only mean something where both models' rows have the same energy: they are made in this space.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, one_of

MODES = ("norm", "centred", "none")


@dataclass(frozen=True, eq=False)
class Scaling:
    """Mean [d] (float32) and factor of one view."""

    mean: Tensor
    factor: float

    @classmethod
    def none(cls, width: int) -> "Scaling":
        """That changes nothing."""
        return cls(torch.zeros(width), 1.0)

    @classmethod
    def of(cls, moments: Any, mode: str = "norm") -> "Scaling":
        """From running statistics of the rows (`mean`, `var`, `rms_norm`, as the store keeps them).

        Raises `BadInput` for rows that are not finite, or have no size.
        """
        one_of("normalise", mode, MODES)
        mean = moments.mean.reshape(-1).float()
        if mode == "none":
            return cls.none(len(mean))
        size = float(moments.rms_norm) ** 2 if mode == "norm" else float(moments.var.sum())
        if not 0 < size < float("inf"):
            raise BadInput(
                f"rows of mean square {size} cannot be brought to a common size. Are they all zero, or not finite?"
            )
        factor = (len(mean) / size) ** 0.5
        return cls(torch.zeros_like(mean) if mode == "norm" else mean, factor)

    @property
    def trivial(self) -> bool:
        """Whether it changes nothing."""
        return self.factor == 1.0 and not bool(self.mean.any())

    def apply(self, rows: Tensor) -> Tensor:
        """Rows [..., d] in normalised space, float32 at least."""
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        if self.trivial:
            return wide
        return (wide - self.mean.to(wide)) * self.factor

    def undo(self, rows: Tensor) -> Tensor:
        """Back to raw space."""
        return rows if self.trivial else rows / self.factor + self.mean.to(rows)
