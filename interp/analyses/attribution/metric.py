"""What is attributed: one number a prompt, differentiable in the logits.

logit_diff  logit(answer) - logit(foil)     linear in the final residual stream up to the final norm; the one to prefer
logprob     log P(answer)                   also moves when unrelated tokens move
prob        P(answer)                       saturates: near 0 and 1 its gradient vanishes, and with it every attribution
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.core.shapes import Float, Int

from ..pairs import PairGroup

METRICS = ("logit_diff", "logprob", "prob")


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric of one group of pairs, with their answers and foils."""

    name: str
    answer: Int[Tensor, " pair"]
    foil: Int[Tensor, " pair"]

    @classmethod
    def of(cls, name: str, group: PairGroup) -> "Metric":
        """The metric of a group of pairs; clean and corrupted runs are scored by the same answer and foil."""
        return cls(name, group.answer, group.foil)

    def __call__(self, logits: Float[Tensor, "pair vocab"], rows: Tensor | None = None) -> Float[Tensor, " pair"]:
        """Scores of last logits; `rows` says which pair each row is of, where they are not all of them in order."""
        wide = logits if logits.dtype == torch.float64 else logits.float()
        answer, foil = (ids if rows is None else ids[rows.cpu()] for ids in (self.answer, self.foil))
        right = wide.gather(-1, answer.to(wide.device)[:, None])[:, 0]
        if self.name == "logit_diff":
            return right - wide.gather(-1, foil.to(wide.device)[:, None])[:, 0]
        logprob = right - wide.logsumexp(dim=-1)
        return logprob if self.name == "logprob" else logprob.exp()

    @property
    def readout(self) -> Callable[[Tensor, Tensor], Tensor]:
        """For `LM.resume`: logits [n, 1, vocab] and row numbers [n] to scores [n, 1, 1]."""
        return lambda logits, rows: self(logits[:, 0], rows)[:, None, None]
