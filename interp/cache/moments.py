"""Running statistics of a site: count, sum and sum of squares per component, in float64.

They are taken of the values *as stored* (after rounding to bfloat16, say), shard by shard, and merged by addition in the order of the
shards, so an interrupted capture ends with the same bits as one that was not.

    stats = acts["blocks.2.hook_resid_post"].stats
    stats.mean, stats.std            # per component
    stats.rms_norm                   # root of the mean squared norm: what dictionaries rescale by
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 16  # values converted to float64 at once: stays in the processor's cache


@dataclass
class Moments:
    """Count, sum and sum of squares of rows [row, ...] over the rows."""

    count: int
    total: np.ndarray
    """Sum over rows, float64, shaped like one row."""
    squares: np.ndarray
    """Sum of squares over rows, float64, shaped like one row."""

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> "Moments":
        """Of no row at all."""
        return cls(0, np.zeros(shape), np.zeros(shape))

    @classmethod
    def merge(cls, parts: Iterable["Moments"]) -> "Moments":
        """Of all rows together."""
        first, *rest = parts
        merged = cls(first.count, first.total.copy(), first.squares.copy())
        for part in rest:
            merged.count += part.count
            merged.total += part.total
            merged.squares += part.squares
        return merged

    def add(self, rows: np.ndarray) -> None:
        """Take in rows [row, ...] of float32, float16, float64, or uint16 holding the bits of bfloat16."""
        flat = rows.reshape(len(rows), -1)
        total, squares = self.total.reshape(-1), self.squares.reshape(-1)
        step = max(1, BLOCK // flat.shape[1])
        with np.errstate(invalid="ignore", over="ignore"):  # NaN is found afterwards, see `finite`
            for start in range(0, len(flat), step):
                block = _float64(flat[start : start + step])  # [row, component]
                total += block.sum(axis=0)
                squares += np.einsum("rc,rc->c", block, block)
        self.count += len(rows)

    @property
    def finite(self) -> bool:
        """Whether no value was NaN or infinite."""
        return bool(np.isfinite(self.squares).all())

    @property
    def mean(self) -> Tensor:
        """Mean per component, float64."""
        return torch.from_numpy(self.total / self.count)

    @property
    def var(self) -> Tensor:
        """Variance per component over the rows (population), float64."""
        mean = self.total / self.count
        return torch.from_numpy(np.maximum(self.squares / self.count - mean**2, 0.0))

    @property
    def std(self) -> Tensor:
        """Standard deviation per component, float64."""
        return self.var.sqrt()

    @property
    def rms_norm(self) -> float:
        """Root mean square of a row's norm."""
        return float(np.sqrt(self.squares.sum() / self.count))


def _float64(block: np.ndarray) -> np.ndarray:
    if block.dtype == np.uint16:  # bfloat16 is the upper half of a float32
        block = (block.astype(np.uint32) << 16).view(np.float32)
    return block.astype(np.float64)
