"""The threshold by which a BatchTopK dictionary is used: while it trains a running mean, afterwards an exact quantile.

In training the k x rows largest scaled codes of a batch are kept; a single row has no batch, so at inference one number stands for the
competition: a latent is on where its scaled code exceeds it.

The running mean of the smallest score that was kept is a mean of minima and lags behind while k or the weights move; it is biased. The
exact threshold is a quantile of all scores of rows that were not trained on: the number above which k a row lie. It is found without
sorting or keeping them: positive floats have the order of their bits, so counting the leading 16 bits, then the next 16 bits of those
that tie, gives the exact value in two passes, in any order of the rows, and counts of several processes may be added.

    threshold = calibrate(lambda: (scores for each batch), keep=k * rows)     # exactly `keep` scores exceed it, unless scores tie
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..core.errors import BadInput

DIGIT = 16
"""Bits that are counted in one pass."""


class RunningThreshold:
    """The running mean of the smallest kept score of each batch, in float64; the first is taken as it is."""

    def __init__(self, memory: float, value: Tensor) -> None:
        self.memory = memory
        """Weight of what was before, at each step."""
        self.value = value.to(torch.float64)
        """The mean so far; -inf before the first batch. A number, or one a written view."""

    def update(self, cut: "Tensor | float") -> None:
        """Take in the smallest kept score of a batch."""
        new = torch.as_tensor(cut, dtype=torch.float64, device=self.value.device).expand_as(self.value)
        mixed = self.memory * self.value + (1.0 - self.memory) * new
        self.value = torch.where(torch.isinf(self.value), new, mixed)


def calibrate(
    batches: Callable[[], Iterable[Tensor]], keep: int, add: Callable[[Tensor], object] | None = None
) -> float:
    """The smallest threshold that at most `keep` of all scores exceed; exactly `keep`, unless scores tie. Never below 0.

    `batches` is called once a pass and gives the scores, tensors of any shape in one floating type, the same ones each time. `add` adds a
    count [2 ** 16] over processes, in place. Raises `BadInput` for scores that are not finite.
    """
    prefix, above, width = 0, 0, 0
    depth = 1
    while depth > 0:
        count, width = _counts(batches(), prefix, width, depth)
        if add is not None:
            add(count)
        higher = count.flip(0).cumsum(0).flip(0) + above  # scores in this digit or a higher one
        if width == 0 or int(higher[0]) <= keep:
            return 0.0  # fewer positive scores than may be kept: every one of them
        digit = int((higher > keep).nonzero().max())
        above = int(higher[digit + 1]) if digit + 1 < len(higher) else above
        prefix = (prefix << DIGIT) | digit
        depth = depth + 1 if depth * DIGIT < width else 0
    bits = torch.tensor([prefix], dtype=torch.int32 if width == 32 else torch.int64)
    return float(bits.view(torch.float32 if width == 32 else torch.float64))


def _counts(batches: Iterable[Tensor], prefix: int, width: int, depth: int) -> tuple[Tensor, int]:
    """How often each value of the `depth`-th digit follows `prefix` among the positive scores, int64 [2 ** 16]; and the bits of a score."""
    count = torch.zeros(1 << DIGIT, dtype=torch.int64)
    for scores in batches:
        wide = scores if scores.dtype == torch.float64 else scores.float()
        positive = wide[wide > 0]
        if not bool(torch.isfinite(wide.sum())) and not bool(torch.isfinite(wide).all()):
            raise BadInput(
                "the scores are not all finite, so they have no quantile. Look at the weights and the rows for NaN."
            )
        width = 64 if wide.dtype == torch.float64 else 32
        bits = positive.view(torch.int64 if width == 64 else torch.int32)
        if depth > 1:
            bits = bits[bits >> (width - DIGIT * (depth - 1)) == prefix]
        digit = (bits >> (width - DIGIT * depth)) & ((1 << DIGIT) - 1)
        count += torch.bincount(digit, minlength=1 << DIGIT).cpu()
    return count, width
