"""The budget: at most 1 MB a figure, whatever the data.

Heatmaps beyond 512 a side are block-reduced, floats travel as float32 (float16 is not packed by plotly and costs eight times more),
and a figure that is still too large is refused rather than shipped: the full data is always behind `to_frame()`.
"""

import numpy as np
import plotly.graph_objects as go
from einops import rearrange

from interp.core.errors import BadInput

BUDGET = 1_000_000
LONGEST_SIDE = 512
MOST_CELLS = 150_000
"""Cells of all grids of a figure together; packed in float32 they take 0.8 MB."""


def block_reduce(
    values: np.ndarray, *, signed: bool = False, most: int = MOST_CELLS
) -> tuple[np.ndarray, tuple[int, int]]:
    """(values [y, x] with at most `LONGEST_SIDE` rows and columns and `most` cells, the block that became one cell).

    A cell is its block's mean, or its entry of largest magnitude if `signed`.
    """
    rows, columns = values.shape
    high, wide = -(-rows // LONGEST_SIDE) or 1, -(-columns // LONGEST_SIDE) or 1
    while (-(-rows // high)) * (-(-columns // wide)) > most:
        high, wide = (high + 1, wide) if rows / high >= columns / wide else (high, wide + 1)
    if high == wide == 1:
        return values, (1, 1)
    padded = np.full((-(-rows // high) * high, -(-columns // wide) * wide), np.nan, dtype=values.dtype)
    padded[:rows, :columns] = values
    blocks = rearrange(padded, "(y high) (x wide) -> y x (high wide)", high=high, wide=wide)
    known = np.isfinite(blocks)
    if signed:
        strongest = np.where(known, np.abs(blocks), -1.0).argmax(axis=2)
        return np.take_along_axis(blocks, strongest[..., None], axis=2)[..., 0], (high, wide)
    count = known.sum(axis=2)
    total = np.where(known, blocks, 0).sum(axis=2, dtype=np.float64)
    mean = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return mean.astype(values.dtype), (high, wide)


def size(figure: go.Figure) -> int:
    """Bytes of the figure as JSON."""
    return len(figure.to_json())


def check_budget(figure: go.Figure) -> go.Figure:
    """The figure itself; raises `BadInput` where it exceeds the budget."""
    if (actual := size(figure)) > BUDGET:
        raise BadInput(
            f"the figure weighs {actual / 1e6:.1f} MB, over the budget of {BUDGET / 1e6:.0f} MB. "
            "Draw fewer prompts or layers; the full data is in `result.to_frame()`."
        )
    return figure
