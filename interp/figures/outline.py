"""Outlines around the cells of a grid that a test found: one line along the borders of the marked regions, nothing inside them.

figure.add_trace(outline(table["significant"].values), row=1, col=1)       # over `marks.grid` of the same shape
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .theme import INK


def outline(
    mask: np.ndarray,
    *,
    x: Sequence[float] | None = None,
    y: Sequence[float] | None = None,
    width: float = 1.2,
    **options: Any,
) -> go.Scatter:
    """Borders of the True cells of a mask [y, x], whose centres lie at `x` and `y` (0, 1, ... where not given), one apart."""
    marked = np.pad(np.asarray(mask, dtype=bool), 1)
    left = 0.0 if x is None or not len(x) else float(x[0])
    top = 0.0 if y is None or not len(y) else float(y[0])
    xs: list[float | None] = []
    ys: list[float | None] = []
    for row, column in zip(*np.nonzero(marked[:, 1:] != marked[:, :-1]), strict=True):  # upright edges
        at, low = left + column - 0.5, top + row - 1.5
        xs += [at, at, None]
        ys += [low, low + 1, None]
    for row, column in zip(*np.nonzero(marked[1:] != marked[:-1]), strict=True):  # level edges
        at, low = top + row - 0.5, left + column - 1.5
        xs += [low, low + 1, None]
        ys += [at, at, None]
    return go.Scatter(
        x=xs, y=ys, mode="lines", line={"color": INK, "width": width, "dash": "solid"}, hoverinfo="skip", showlegend=False,
        name="significant", **options,
    )  # fmt: skip
