"""Constrained fine-tuning of down-projections: the plain editor that the others are measured against.

Adam on `W_out` of one layer or of a window of layers, each weight kept within `clamp` of its old value (the L-infinity constraint of Zhu et
al. 2020, arXiv 2012.00363), until the target is learned. Parameters of a loaded model are frozen, so the gradient is put together from what
the forward pass has anyway; with k = `mlp_post` and g = dL/d`mlp_out`,

    dL/dW_out = sum over rows and positions of k g^T            exact, since mlp_out = k W_out + b_out

The loss is -ln P(target) / tokens to raise a target, and P(target) itself to lower it, averaged over the noise draws where there are any.

Source. Hase et al. 2023, "Does Localization Inform Editing?" (arXiv 2301.04213), FT-1 and FT-5; settings as in their program (`HASE_FT`).
When it misleads. Step size and clamp are in the units of the weights: what is a gentle edit of a large model is none at all in a small
one. `relative=True` measures both in standard deviations of the matrix that is edited.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.site import Site

from .contexts import Rows, rows_of
from .editors import Editor, Request, WeightChange, matrix_of
from .values import target_loss

if TYPE_CHECKING:
    from .moments import SecondMoments


@dataclass(frozen=True)
class FineTuning(Editor):
    """Adam on `W_out` of a window of layers, each weight within `clamp` of its old value."""

    name: ClassVar[str] = "FT"

    window: int = 1
    """Layers trained together, around the centre: 1 (FT-1) or 5 (FT-5) in the paper."""
    lr: float = 5e-4
    """Adam's step size, in the units of the weights (see `relative`)."""
    steps: int = 25
    """Adam steps at most."""
    clamp: float | None = 1e-4
    """Largest change of a single weight; None sets no limit."""
    relative: bool = False
    """Take `lr` and `clamp` as multiples of the standard deviation of the matrix that is edited."""
    stop_loss: float = 1e-2
    """A step whose loss is below this counts as learned ..."""
    patience: int = 5
    """... and after so many of them training stops."""

    def __post_init__(self) -> None:
        for name in ("window", "steps", "patience"):
            if getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")
        for name in ("lr", "clamp"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadInput(f"`{name}` must be positive; not {value}.")
        if not self.stop_loss >= 0:
            raise BadInput(f"`stop_loss` must be 0 or more; not {self.stop_loss}.")

    @property
    def width(self) -> int:
        """Layers that are edited together around a centre."""
        return self.window

    def _edit(
        self,
        lm: LM,
        requests: list[Request],
        layers: tuple[int, ...],
        moments: "SecondMoments | None",
        seed: int,
    ) -> WeightChange:
        rows = rows_of(lm, requests)
        units = {layer: float(matrix_of(lm, f"W_out.{layer}").std()) if self.relative else 1.0 for layer in layers}
        change = {layer: torch.zeros(lm.spec.d_mlp, lm.spec.d_model) for layer in layers}
        adam = torch.optim.Adam([{"params": [change[layer]], "lr": self.lr * units[layer]} for layer in layers])
        losses: list[float] = []
        learned = 0
        for step in range(self.steps + 1):
            with WeightChange({f"W_out.{layer}": delta for layer, delta in change.items()}).apply(lm):
                loss, slopes = gradients(lm, requests, rows, layers)
            losses.append(loss)
            learned += int(loss < self.stop_loss)
            if step == self.steps or learned >= self.patience:
                break
            for layer in layers:
                change[layer].grad = slopes[layer].to(change[layer])
            adam.step()
            for layer in layers if self.clamp is not None else ():
                bound = self.clamp * units[layer]  # type: ignore[operator]
                change[layer].clamp_(-bound, bound)
        deltas = {f"W_out.{layer}": delta.detach() for layer, delta in change.items()}
        for delta in deltas.values():
            delta.grad = None
        at_bound = 0.0
        if self.clamp is not None:
            hit = [
                float((change[layer].abs() >= 0.999 * self.clamp * units[layer]).double().mean()) for layer in layers
            ]
            at_bound = sum(hit) / len(hit)
        log = {
            "editor": f"{self.name}-{self.window}",
            "layers": list(layers),
            "loss": losses,
            "updates": len(losses) - 1,
            "at_bound": at_bound,
        }
        return WeightChange(deltas, log)


def gradients(
    lm: LM, requests: Sequence[Request], rows: Rows, layers: Sequence[int]
) -> tuple[float, dict[int, Tensor]]:
    """The mean loss of the requests, and its gradient by `W_out` of each layer, [d_mlp, d_model]."""
    posts, outs = ([Site(kind, layer) for layer in layers] for kind in ("mlp_post", "mlp_out"))
    run = lm.run(rows.batch, capture=[*posts, *outs], edits=rows.edits, grad=True)
    loss = target_loss(requests, rows, run.logits, len(rows))[0].mean()
    slopes = torch.autograd.grad(loss, [run[site] for site in outs], allow_unused=True)
    found = {}
    for layer, post, slope in zip(layers, posts, slopes, strict=True):
        key = run[post].detach().flatten(0, 1).float()  # [row * pos, d_mlp]
        flat = key.new_zeros(len(key), lm.spec.d_model) if slope is None else slope.flatten(0, 1).float()
        found[layer] = (key.T @ flat).cpu()
    return float(loss.detach()), found


HASE_FT: dict[str, dict[str, dict[str, Any]]] = {
    "error_injection": {"FT-1": {"clamp": 1e-4}, "FT-5": {"clamp": 5e-5}},
    "tracing_reversal": {"FT-1": {"clamp": 1e-3}, "FT-5": {"clamp": 1e-3}},
    "fact_erasure": {"FT-1": {"clamp": 1e-5}, "FT-5": {"clamp": 1e-5}},
    "fact_amplification": {"FT-1": {"clamp": 5e-5}, "FT-5": {"clamp": 1e-5}},
    "fact_forcing": {"FT-1": {"clamp": 1e-4, "steps": 50}, "FT-5": {"clamp": 1e-4, "steps": 50}},
}
"""Settings of the paper's program for GPT-J and GPT-2 XL; step size 5e-4 and 25 steps where nothing else is said."""
