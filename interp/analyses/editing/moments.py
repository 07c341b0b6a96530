"""Second moments of keys: C = E[k k^T] of `mlp_post`, the inputs of a down-projection, over running text.

C says which directions ordinary text uses. An edit that writes along C^-1 k disturbs the values of ordinary keys least:
of all W' with W'^T k = v, W + C^-1 k (v - W^T k)^T / (k^T C^-1 k) has the smallest E|(W' - W)^T k|^2 (Meng et al. 2022, section 3.1).

Sums are taken in float64, from the activation store where one is given. With fewer tokens than neurons C has no inverse, and with dead
neurons it has none ever: `damping` adds a share of the mean diagonal. A layer takes d_mlp^2 x 8 bytes (2.1 GB for GPT-J).

    moments = second_moments(lm, corpus, [1, 2], store=store)
    moments.solve(1, torch.ones(lm.spec.d_mlp))      # C^-1 k
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.shapes import Float
from interp.core.site import Site
from interp.data import Corpus, corpus

from ..streams import check_corpus, streams

CHUNK = 8192
"""Rows converted to float64 at once."""


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """E[k k^T] of some layers' keys."""

    matrices: Mapping[int, Tensor]
    """Layer -> [d_mlp, d_mlp], float64."""
    tokens: int
    """Tokens that the average is over; 0 for the identity."""
    source: str
    """Where the text came from."""
    damping: float = 1e-4
    """Share of the mean diagonal that is added to the diagonal before solving; 0 is ROME's own."""

    def __post_init__(self) -> None:
        if not self.damping >= 0:
            raise BadInput(f"`damping` is a share of the mean diagonal, 0 or more; not {self.damping}.")

    @classmethod
    def identity(cls, lm: LM, layers: Sequence[int]) -> "SecondMoments":
        """C = 1: all directions count the same, as in a plain associative memory."""
        one = torch.eye(lm.spec.d_mlp, dtype=torch.float64)
        return cls(dict.fromkeys(layers, one), 0, "identity", damping=0.0)

    def check(self, lm: LM, layers: Sequence[int]) -> None:
        """Refuse layers that are missing and matrices of another model's size."""
        if missing := [layer for layer in layers if layer not in self.matrices]:
            raise BadInput(
                f"there are second moments of layers {sorted(self.matrices)}, none of {missing}. "
                f"Compute them: second_moments(lm, corpus, {sorted({*self.matrices, *missing})})."
            )
        for layer in layers:
            if (size := len(self.matrices[layer])) != lm.spec.d_mlp:
                raise BadInput(
                    f"the second moments of layer {layer} are {size} x {size}; {lm.spec.name} has {lm.spec.d_mlp} neurons a layer. "
                    "They belong to another model."
                )

    def damped(self, layer: int) -> Tensor:
        """C of a layer with the damping on its diagonal, float64 [d_mlp, d_mlp]."""
        matrix = self.matrices[layer].clone()
        matrix.diagonal().add_(self.damping * matrix.diagonal().mean())
        return matrix

    def scale(self, layer: int) -> float:
        """E|k|^2, the trace of C: the squared length of a usual key."""
        return float(self.matrices[layer].diagonal().sum())

    def solve(self, layer: int, keys: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """C^-1 k for keys [..., d_mlp], float64. Raises `BadInput` where C has no inverse."""
        flat = keys.double().cpu().reshape(-1, keys.shape[-1])
        return torch.cholesky_solve(flat.T, self._factor(layer)).T.reshape(keys.shape)

    @cached_property
    def _factors(self) -> dict[int, Tensor]:
        return {}

    def _factor(self, layer: int) -> Tensor:
        if layer not in self._factors:
            factor, failed = torch.linalg.cholesky_ex(self.damped(layer))
            ratio = float((factor.diagonal().min() / factor.diagonal().max()) ** 2)
            if int(failed) or not ratio > 1e-14:
                raise BadInput(
                    f"the second moments of layer {layer} ({self.tokens:,} tokens for {len(factor)} neurons, damping {self.damping:g}) "
                    "have no inverse. Bring more text, or a larger `damping` (1e-4 say)."
                )
            self._factors[layer] = factor
        return self._factors[layer]


def second_moments(
    lm: LM,
    data: "Corpus | str | Sequence[str]",
    layers: Sequence[int],
    *,
    store: Any = None,
    limit_tokens: int | None = 100_000,
    damping: float = 1e-4,
) -> SecondMoments:
    """E[k k^T] of `layers`' keys over a corpus (or texts, or a text file), from the activation `store` where there is one.

    A corpus is taken whole; of texts, at most `limit_tokens` are read. ROME used 100,000 samples of Wikipedia. Raises `BadInput`.
    """
    if not layers or any(not 0 <= layer < lm.spec.n_layers for layer in layers):
        raise BadInput(f"`layers` must name layers of {lm.spec.name}, 0 to {lm.spec.n_layers - 1}; not {list(layers)}.")
    if not isinstance(data, Corpus):
        data = corpus(data, lm.tokenizer, n_ctx=lm.spec.n_ctx, limit_tokens=limit_tokens)
    check_corpus(lm, data)
    sites = {layer: Site("mlp_post", layer) for layer in sorted(set(layers))}
    sums = {layer: torch.zeros(lm.spec.d_mlp, lm.spec.d_mlp, dtype=torch.float64) for layer in sites}
    held: dict[int, list[Tensor]] = {layer: [] for layer in sites}
    tokens = waiting = 0
    for _, found in streams(lm, data, list(sites.values()), store):
        for layer, site in sites.items():
            held[layer].append(found[site].reshape(-1, lm.spec.d_mlp))
        tokens, waiting = tokens + len(held[min(held)][-1]), waiting + len(held[min(held)][-1])
        if waiting >= CHUNK:
            _drain(held, sums)
            waiting = 0
    _drain(held, sums)
    return SecondMoments({layer: total / tokens for layer, total in sums.items()}, tokens, data.source, damping)


def _drain(held: dict[int, list[Tensor]], sums: dict[int, Tensor]) -> None:
    for layer, parts in held.items():
        if parts:
            rows = torch.cat(parts).cpu().double()  # [row, d_mlp]
            sums[layer].addmm_(rows.T, rows)
            parts.clear()
