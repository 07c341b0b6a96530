"""What changes while a dictionary is trained, as functions of the rows seen so far and nothing else: a resumed run needs no memory of it.

    learning rate   rises in a line over the first `warmup` of all rows, falls in a line to zero over the last `decay`
    k               falls in a line from `k_start` to k over the first `k_anneal` of all rows
    sparsity        the penalty's weight rises in a line over the first `sparsity_warmup` of all rows

All spans are shares of the whole, so a run of another length has the same shape.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The course of one training of `tokens` rows."""

    tokens: int
    warmup: float = 0.05
    decay: float = 0.2
    k_start: float = 0.0
    k_anneal: float = 0.1
    sparsity_warmup: float = 0.05

    def rate(self, seen: int, rows: int) -> float:
        """What the learning rate is multiplied by in a step that takes the rows after the first `seen`; above 0, at most 1."""
        return min(self._rise(self.warmup, seen + rows), self._fall(seen))

    def k(self, seen: int, k: float) -> float:
        """Latents a row in that step, for a dictionary that will have `k`."""
        span = self.k_anneal * self.tokens
        if not self.k_start or seen >= span:
            return k
        return k + (self.k_start - k) * (1.0 - seen / span)

    def sparsity(self, seen: int, rows: int) -> float:
        """What the coefficient of the sparsity penalty is multiplied by in that step; above 0, at most 1."""
        return self._rise(self.sparsity_warmup, seen + rows)

    def _rise(self, share: float, reached: int) -> float:
        span = share * self.tokens
        return 1.0 if reached >= span else reached / span

    def _fall(self, seen: int) -> float:
        left, span = self.tokens - seen, self.decay * self.tokens
        return 1.0 if left >= span else max(left, 1) / span


def law(latents: int) -> float:
    """The learning rate that suits a number of latents: 2e-4 at 16,384, falling with the root (Gao et al. 2024, appendix A.3)."""
    return 2e-4 * (16384 / latents) ** 0.5
