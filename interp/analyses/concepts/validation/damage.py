"""What is done to value vectors: removed, scaled, or drowned in noise; as a change of weights, and as an edit of a run.

    factor f                 v -> f v                     f = 0 removes it, -1 turns it round, 1 changes nothing
    noise, absolute          v -> v + sd n                n standard normal in each of d_model coordinates; published: sd = 0.1
    noise, relative          v -> v + r |v|/sqrt(d) n     so that the noise is about r times as long as the vector

Absolute noise of 0.1 has a length of about 0.1 sqrt(d): 6.4 where d is 4096, several times that of a value vector, so it replaces
the vector. The angle that is left is cos(v, v + e) of about |v| / sqrt(|v|^2 + d sd^2).

A factor is also an edit of the run: scaling m_j by f scales what v_j adds, in every family (the product is the same; what stands behind
it, such as a post-norm, sees the same).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from interp.core.edit import Edit
from interp.core.lm import LM
from interp.core.seed import generator
from interp.core.shapes import Float
from interp.core.site import Site

from ..vectors import Vector, replaced, scaled

How = Literal["zero", "scale", "noise", "relative-noise"]
HOW = ("zero", "scale", "noise", "relative-noise")
DOSES: dict[str, tuple[float, ...]] = {
    "zero": (0.0,), "scale": (0.5, 0.0, -1.0), "noise": (0.1,), "relative-noise": (0.5, 1.0, 2.0),
}  # fmt: skip
"""The doses that each way of damaging has by default."""


def scaling(lm: LM, vectors: Sequence[Vector], factor: float) -> list[Edit]:
    """Edits of a run that do what `scaled` does in the weights, one a layer; none for a factor of 1."""
    if factor == 1.0:
        return []
    factors: dict[int, Tensor] = {}
    for vector in vectors:
        factors.setdefault(vector.layer, torch.ones(lm.spec.d_mlp))[vector.index] = factor
    return [Edit(Site("mlp_post", layer), "scale", factors[layer]) for layer in sorted(factors)]


def noise_of(lm: LM, n: int, *, seed: int, name: str, sample: int = 0) -> Float[Tensor, "vector d_model"]:
    """Standard normal noise for `n` vectors, float32; the first vectors of a larger set get the same."""
    draws = [
        torch.randn(lm.spec.d_model, generator=generator(seed, "concept noise", name, sample, k)) for k in range(n)
    ]
    return torch.stack(draws)


def changes(
    lm: LM, vectors: Sequence[Vector], how: How, dose: float, noise: Float[Tensor, "vector d_model"] | None = None
) -> dict[str, Tensor]:
    """The damage as changes for `lm.edit_weights`; `noise` is standard normal, one row a vector."""
    if how in ("zero", "scale"):
        return scaled(lm, vectors, dose)
    assert noise is not None
    rows = {}
    for vector, drawn in zip(vectors, noise, strict=False):
        row = lm.weights.W_out(vector.layer)[vector.index].detach().float()
        rows[vector] = row + deviation(row, how, dose) * drawn.to(row.device)
    return replaced(lm, rows)


def deviation(row: Float[Tensor, " d_model"], how: How, dose: float) -> float:
    """Standard deviation of the noise in each coordinate of a vector; 0 where there is none."""
    if how == "noise":
        return dose
    return dose * float(row.norm()) / len(row) ** 0.5 if how == "relative-noise" else 0.0
