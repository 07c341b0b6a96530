"""What patching really does to these nodes: chosen cells by doing it, and a bound on all the others.

    effect(n) = M(clean) - M(clean | do n := corrupted)            noising
    effect(n) = M(corrupted | do n := clean) - M(corrupted)        denoising

The bound. Cells that were not patched one by one are patched in random halves. If effects add up, a half's effect is a sum of coin flips
times the cells' effects x_i, with variance sum x_i^2 / 4: twice the standard deviation over halves is the root of the sum of squares of
all remaining effects, and no single one can be larger. Interactions between cells, in either direction, are what it cannot see.
(Random subsets as a diagnostic: Kramar et al. 2024, arXiv 2403.00745, section 4.4; the bound is ours.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from interp.core.edit import Edit
from interp.core.lm import LM, Recording
from interp.core.progress import track
from interp.core.seed import numpy_generator

from .metric import Metric
from .nodes import Patches

CELLS_AT_ONCE = 512


@dataclass(eq=False)
class Truth:
    """True effects of some cells of one group of pairs in one form."""

    lm: LM
    base: Recording
    metric: Metric
    patches: Patches
    """With values of a recording of the other run: both by the same engine, so that what does not differ is equal to the bit, and free."""
    form: str

    def effects(self, cells: Sequence[Sequence[int]], label: str = "patching") -> np.ndarray:
        """Effect of each cell on each pair, float64 [pair, cell]."""
        return self._resumed([[self.patches.one(cell)] for cell in cells], label)

    def subsets(self, cells: Sequence[Sequence[int]], n: int, *, seed: int, name: str) -> np.ndarray:
        """Effects of `n` random halves of these cells, each cell in or out by a coin: [pair, subset]."""
        rng = numpy_generator(seed, "subsets", name)
        halves = []
        for _ in range(n):
            chosen = [cell for cell, inside in zip(cells, rng.random(len(cells)) < 0.5, strict=True) if inside]
            halves.append(self.patches.many(chosen))
        return self._resumed(halves, "subsets")

    def _resumed(self, cells: Sequence[Sequence[Edit]], label: str) -> np.ndarray:
        readout = self.metric.readout
        sign = -1.0 if self.form == "noising" else 1.0  # an effect is what is lost, or what is won
        before = self.metric(self.base.run.last_logits).double()
        parts = []
        firsts = range(0, len(cells), CELLS_AT_ONCE)
        for first in track(firsts, label, total=len(firsts)):
            got = self.lm.resume(self.base, cells[first : first + CELLS_AT_ONCE], readout=readout)  # [cell, pair, 1, 1]
            parts.append(sign * (got[:, :, 0, 0].double() - before))
        found = torch.cat(parts).T if parts else torch.zeros(len(before), 0)
        return found.cpu().numpy()


def choose(score: np.ndarray, n: int, *, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(top, random): cells of a map [pair, ...] to be patched, as places [cell, axis].

    The `n` with the largest mean |score| over pairs, and `n` drawn from all the others.
    """
    size = np.abs(score).mean(axis=0)
    order = np.argsort(-size, axis=None, kind="stable")
    rng = numpy_generator(seed, "verified cells", name)
    rest = rng.permutation(order[n:])[:n]
    shape = size.shape
    return np.stack(np.unravel_index(order[:n], shape), axis=1), np.stack(
        np.unravel_index(np.sort(rest), shape), axis=1
    )


def every(shape: Sequence[int]) -> np.ndarray:
    """All cells of a map, [cell, axis]."""
    return np.stack(np.unravel_index(np.arange(int(np.prod(shape))), tuple(shape)), axis=1)
