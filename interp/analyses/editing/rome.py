"""ROME: one fact, one layer, a change of rank one.

The MLP is read as an associative memory: `mlp_post` at the subject's last token is a key, `mlp_out` its value, `W_out` the table. The edit
finds a value v* that makes the model say the target (`values`), and writes it to the key with the least disturbance of ordinary keys:

    W' = W + (C^-1 k) (v* - W^T k)^T / (k^T C^-1 k)          C = E[k k^T] over running text

Source. Meng et al. 2022, "Locating and Editing Factual Associations in GPT" (arXiv 2202.05262), section 3.1. Deviations: the key that u
is made of, the key that gets the value and the key in the denominator are one and the same (`key`); prefixes are seeded and stored; C may
be damped. Several requests are edited one after the other.

When it misleads. A value that no MLP would ever put out (large `clamp_factor`) makes one layer override everything: it works wherever it
is put, and says nothing about where the fact is. That an edit works in a layer does not mean that the fact lies there.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.site import Site

from .algebra import rank_one
from .editors import Request, WeightChange
from .values import ValueEditor, find_values

if TYPE_CHECKING:
    from .moments import SecondMoments


@dataclass(frozen=True)
class ROME(ValueEditor):
    """A rank-one change of one layer's `W_out` a request."""

    name: ClassVar[str] = "ROME"
    uses_moments: ClassVar[bool] = True

    def _edit(
        self,
        lm: LM,
        requests: list[Request],
        layers: tuple[int, ...],
        moments: "SecondMoments | None",
        seed: int,
    ) -> WeightChange:
        if len(layers) > 1:
            raise BadInput(f"ROME edits one layer; not {list(layers)}. Use MEMIT to spread an edit over several.")
        assert moments is not None
        total = WeightChange.none()
        logs: list[dict[str, Any]] = []
        for request in requests:
            with total.apply(lm):
                one = self._one(lm, request, layers[0], moments, seed)
            total = total + one
            logs.append(dict(one.log))
        return WeightChange(total.deltas, logs[0] if len(logs) == 1 else {"requests": logs})

    def _one(self, lm: LM, request: Request, layer: int, moments: "SecondMoments", seed: int) -> WeightChange:
        rows, prefixes = self.contexts(lm, [request], seed)
        post, out = Site("mlp_post", layer), Site("mlp_out", layer)
        with torch.no_grad():
            run = lm.run(rows.batch, capture=[post, out], edits=rows.edits, stop_after=out)
        key = self.averaged(rows, rows.at_subject(run[post]))[0]  # [d_mlp]
        old = self.averaged(rows, rows.at_subject(run[out]))[0]  # [d_model]
        values = find_values(lm, [request], rows, out, self)
        change = rank_one(key, values.change[0], moments.solve(layer, key))
        made = WeightChange({f"W_out.{layer}": change})
        with made.apply(lm), torch.no_grad():
            run = lm.run(rows.batch, capture=[out], edits=rows.edits, stop_after=out)
        new = self.averaged(rows, rows.at_subject(run[out]))[0]
        wanted = old + values.change[0]
        log = {
            "editor": self.name,
            "layers": [layer],
            "key": self.key,
            "prefixes": list(prefixes),
            "residual": float((new - wanted).norm() / wanted.norm()),
            "value_norm": float(values.size[0]),
            "change_norm": float(values.change[0].norm()),
            "loss": [step[0] for step in values.log["loss"]],
            "target_loss": values.log["target_loss"][0],
            "updates": values.log["updates"][0],
        }
        return WeightChange(made.deltas, log)
