"""The few shapes of picture that every family is made of.

A grid (layer × token, layer × head), a line, a line with its interval. Each returns traces; where they stand is `panels`' business.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .shrink import MOST_CELLS, block_reduce
from .theme import QUANTITY, SYMBOLS, line_style, plain, symmetric, translucent

MARKED = 32
"""A line of at most so many points shows each of them."""
MOST_HOVER = 20_000
"""Cells of a figure beyond which intervals are not shown on hover: they would be most of its size."""


def grid(
    values: np.ndarray,
    *,
    x: Sequence[Any],
    y: Sequence[Any],
    effect: bool = False,
    limit: float | None = None,
    name: str = "value",
    hover: str = "%{y} · %{x}<br>%{z:.4f}",
    ends: tuple[np.ndarray, np.ndarray] | None = None,
    of: int = 1,
    **options: Any,
) -> go.Heatmap:
    """A heatmap [y, x] in float32, without gaps or smoothing, so that it stays crisp in a PDF.

    `effect=True` puts white at zero and spans ±`limit`; otherwise the ramp runs from 0 (or the minimum) to `limit`. `name` is the
    title of the colour bar, `ends` the interval of each cell (shown on hover), `of` how many grids share the figure's size budget.
    """
    whole = np.asarray(values, dtype=np.float32)
    drawn, (high, wide) = block_reduce(whole, signed=effect, most=MOST_CELLS // of)
    finite = drawn[np.isfinite(drawn)]
    top = float(limit) if limit is not None else float(np.abs(finite).max()) if finite.size else 1.0
    scale = (
        symmetric(top)
        if effect
        else {"colorscale": QUANTITY, "zmin": min(0.0, float(finite.min(initial=0.0))), "zmax": top or 1.0}
    )
    if (high, wide) != (1, 1):
        name += f"<br>({'strongest' if effect else 'mean'} of {high} × {wide})"
    elif ends is not None and of * whole.size <= MOST_HOVER:
        options["customdata"] = np.stack(ends, axis=-1).astype(np.float32)
        hover += "<br>95 % %{customdata[0]:.4f} … %{customdata[1]:.4f}"
    bar = {"title": {"text": name, "side": "right"}}
    x, y = list(x)[::wide], list(y)[::high]
    return go.Heatmap(z=drawn, x=x, y=y, hovertemplate=hover + "<extra></extra>", colorbar=bar, **scale, **options)


def band(
    x: Sequence[Any], mean: np.ndarray, low: np.ndarray, high: np.ndarray, *, name: str, index: int = 0, **options: Any
) -> list[go.Scatter]:
    """The band of an interval and the line in it, in the `index`-th style. Without finite limits, only the line."""
    style = line_style(index)
    mean, low, high = (np.asarray(values, dtype=np.float32) for values in (mean, low, high))
    known = np.isfinite(low) & np.isfinite(high)
    drawn = [line(x, mean, name=name, index=index, **options)]
    if not known.any():
        return drawn
    places = [place for place, there in zip(x, known, strict=True) if there]
    axes = {key: options[key] for key in ("xaxis", "yaxis") if key in options}
    edge = go.Scatter(
        x=places + places[::-1], y=np.concatenate([high[known], low[known][::-1]]), fill="toself", mode="lines", line={"width": 0},
        fillcolor=translucent(style["color"]), hoverinfo="skip", showlegend=False, legendgroup=name, **axes,
    )  # fmt: skip
    return [edge, *drawn]


def line(x: Sequence[Any], values: np.ndarray, *, name: str, index: int = 0, **options: Any) -> go.Scatter:
    """One line in the `index`-th style: colour, dash and, where the points are few, marker."""
    settings: dict[str, Any] = {
        "mode": "lines+markers" if len(x) <= MARKED else "lines",
        "marker": {"symbol": SYMBOLS[index % len(SYMBOLS)]},
        "hovertemplate": "%{x}: %{y:.4g}<extra>" + plain(name) + "</extra>",
        "legendgroup": name,
    }
    return go.Scatter(
        x=list(x), y=np.asarray(values, dtype=np.float32), name=plain(name), line=line_style(index), **(settings | options)
    )  # fmt: skip


def whiskers(mean: np.ndarray, low: np.ndarray, high: np.ndarray, *, width: int = 3) -> dict[str, Any]:
    """Plotly's error bars from the ends of an interval."""
    return {
        "type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low, "thickness": 1, "width": width,
    }  # fmt: skip
