"""MEMIT: many facts at once, spread over several layers; and Ridge, the variant that keeps the weights small over long sequences of edits.

A value is found for the residual stream that leaves the last of the layers, at the subject's last token. Then, layer by layer from below,
what is still missing of it is divided by the layers that are left and written into `W_out`, all requests together:

    D = (lc C + ln 1 + K^T K)^-1 K^T R          R = (z* - z now) / layers left,   K and z measured in the model as edited so far

Source. Meng et al. 2023, "Mass-Editing Memory in a Transformer" (arXiv 2210.07229), section 4, for ln = 0. The norm term and stopping as
soon as the target is on top in every context ("most probable early stopping"): Gupta et al. 2025, "Lifelong Knowledge Editing requires
Better Regularization" (ENCORE). Keys and z are averages over the same contexts (`key`), where the published program averages keys only.

When it misleads. `mom2_weight` weighs a sum over requests against an average over tokens: the published 15,000 belongs to keys of 16,384
neurons. A usual key has k^T C^-1 k of about d_mlp, so the same firmness elsewhere is 15,000 d_mlp / 16,384, which is what None takes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.site import Site

from .algebra import spread
from .contexts import Rows
from .editors import Request, WeightChange
from .values import ValueEditor, find_values

if TYPE_CHECKING:
    from .moments import SecondMoments

FIRMNESS = 15_000 / 16_384
"""Published `mom2_weight` over the neurons of the model that it was chosen for."""


@dataclass(frozen=True)
class MEMIT(ValueEditor):
    """All requests at once, in closed form, over a window of layers."""

    name: ClassVar[str] = "MEMIT"
    uses_moments: ClassVar[bool] = True

    window: int = 5
    """Layers that share the edit, around the centre."""
    mom2_weight: float | None = None
    """How firmly what ordinary keys get is held; None is 15,000 at GPT-J's width, in proportion at others."""
    clamp_factor: float = 0.75
    """Largest norm of the change, as a multiple of the stream's own norm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1:
            raise BadInput(f"`window` must be at least 1; not {self.window}.")
        if self.mom2_weight is not None and not self.mom2_weight >= 0:
            raise BadInput(f"`mom2_weight` must be 0 or more; not {self.mom2_weight}.")

    @property
    def width(self) -> int:
        """Layers that are edited together around a centre."""
        return self.window

    def _weights(self, lm: LM, moments: "SecondMoments", layer: int) -> tuple[float, float]:
        """`mom2_weight` and `norm_weight` of a layer, in the units of the closed form."""
        return FIRMNESS * lm.spec.d_mlp if self.mom2_weight is None else self.mom2_weight, 0.0

    def _edit(
        self,
        lm: LM,
        requests: list[Request],
        layers: tuple[int, ...],
        moments: "SecondMoments | None",
        seed: int,
    ) -> WeightChange:
        assert moments is not None
        rows, prefixes = self.contexts(lm, requests, seed)
        top = Site("resid_post", layers[-1])
        values = find_values(lm, requests, rows, top, self)
        wanted = self._read(lm, rows, top) + values.change  # [request, d_model]
        total = WeightChange.none()
        weights: list[list[float]] = []
        for place, layer in enumerate(layers):
            with total.apply(lm):
                keys, now = self._read(lm, rows, Site("mlp_post", layer)), self._read(lm, rows, top)
            held, small = self._weights(lm, moments, layer)
            missing = (wanted - now) / (len(layers) - place)
            delta = spread(keys, missing, moments.damped(layer), mom2_weight=held, norm_weight=small)
            total = total + WeightChange({f"W_out.{layer}": delta})
            weights.append([held, small])
        with total.apply(lm):
            missing = wanted - self._read(lm, rows, top)
        size = values.change.norm(dim=-1).clamp(min=1e-12)
        log: dict[str, Any] = {
            "editor": self.name,
            "layers": list(layers),
            "key": self.key,
            "prefixes": list(prefixes),
            "weights": weights,
            "missing": (missing.norm(dim=-1) / size).tolist(),
            "residual": float((missing.norm(dim=-1) / wanted.norm(dim=-1)).max()),
            "change_norm": values.change.norm(dim=-1).tolist(),
            **values.log,
        }
        return WeightChange(total.deltas, log)

    @torch.no_grad()
    def _read(self, lm: LM, rows: Rows, site: Site) -> Tensor:
        """The site at the subject's last token, averaged over the contexts of the key, [request, d]."""
        return self.averaged(
            rows, rows.at_subject(lm.run(rows.batch, capture=[site], edits=rows.edits, stop_after=site)[site])
        )


@dataclass(frozen=True)
class Ridge(MEMIT):
    """MEMIT with a penalty on the norm of the change and early stopping, for edits that follow each other."""

    name: ClassVar[str] = "Ridge"

    window: int = 1
    """Layers that share the edit, around the centre."""
    norm_weight: float = 0.1
    """Penalty on the norm of the change, as a multiple of E|k|^2: at 1, a usual key alone gets half of what it misses."""
    until_top: bool = True
    """Stop as soon as the target is the top token in every context (most probable early stopping)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.norm_weight >= 0:
            raise BadInput(f"`norm_weight` must be 0 or more; not {self.norm_weight}.")

    def _weights(self, lm: LM, moments: "SecondMoments", layer: int) -> tuple[float, float]:
        return super()._weights(lm, moments, layer)[0], self.norm_weight * moments.scale(layer)
