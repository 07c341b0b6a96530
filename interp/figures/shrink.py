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


def block_reduce(values: np.ndarray, *, signed: bool = False, side: int = LONGEST_SIDE) -> np.ndarray:
    """Values [y, x] with at most `side` rows and columns: block means, or the entry of largest magnitude if `signed`."""
    rows, columns = values.shape
    high, wide = -(-rows // side), -(-columns // side)
    if high == wide == 1:
        return values
    padded = np.full((-(-rows // high) * high, -(-columns // wide) * wide), np.nan, dtype=values.dtype)
    padded[:rows, :columns] = values
    blocks = rearrange(padded, "(y high) (x wide) -> y x (high wide)", high=high, wide=wide)
    if not signed:
        return np.nanmean(blocks, axis=2)
    strongest = np.nan_to_num(np.abs(blocks), nan=-1.0).argmax(axis=2)
    return np.take_along_axis(blocks, strongest[..., None], axis=2)[..., 0]


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
