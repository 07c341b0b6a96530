"""The few shapes of picture that every family is made of.

A grid (layer × token, layer × head), a line with its interval, a strip of token labels. Each returns traces; layout stays with the
family that uses them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .shrink import block_reduce
from .theme import QUANTITY, line_style, symmetric, translucent


def grid(
    values: np.ndarray,
    *,
    x: Sequence[Any] | None = None,
    y: Sequence[Any] | None = None,
    effect: bool = False,
    limit: float | None = None,
    name: str = "value",
    hover: str = "%{y} · %{x}<br>%{z:.4f}",
    **options: Any,
) -> go.Heatmap:
    """A heatmap [y, x] in float32, without gaps or smoothing, so that it stays crisp in a PDF.

    `effect=True` puts white at zero and spans ±`limit`; otherwise the ramp runs from 0 (or the minimum) to `limit`.
    """
    values = block_reduce(np.asarray(values, dtype=np.float32), signed=effect)
    finite = values[np.isfinite(values)]
    top = float(limit) if limit is not None else float(np.abs(finite).max()) if finite.size else 1.0
    scale = (
        symmetric(top)
        if effect
        else {"colorscale": QUANTITY, "zmin": min(0.0, float(finite.min(initial=0.0))), "zmax": top or 1.0}
    )
    bar = {"title": {"text": name, "side": "right"}}
    return go.Heatmap(z=values, x=x, y=y, hovertemplate=hover + "<extra></extra>", colorbar=bar, **scale, **options)


def band(
    x: Sequence[Any], mean: np.ndarray, low: np.ndarray, high: np.ndarray, *, name: str, index: int = 0, **options: Any
) -> list[go.Scatter]:
    """A line and the band of its interval, in the `index`-th style."""
    style = line_style(index)
    mean, low, high = (np.asarray(values, dtype=np.float32) for values in (mean, low, high))
    places = list(x)
    edge = go.Scatter(
        x=places + places[::-1], y=np.concatenate([high, low[::-1]]), fill="toself", mode="lines", line={"width": 0},
        fillcolor=translucent(style["color"]), hoverinfo="skip", showlegend=False, legendgroup=name, **options,
    )  # fmt: skip
    return [edge, line(x, mean, name=name, index=index, **options)]


def line(x: Sequence[Any], values: np.ndarray, *, name: str, index: int = 0, **options: Any) -> go.Scatter:
    """One line with markers in the `index`-th style."""
    settings: dict[str, Any] = {"mode": "lines+markers" if len(x) <= 64 else "lines", "legendgroup": name} | options
    return go.Scatter(
        x=list(x), y=np.asarray(values, dtype=np.float32), name=name, line=line_style(index),
        hovertemplate="%{x}: %{y:.4f}<extra>" + name + "</extra>", **settings,
    )  # fmt: skip


def token_labels(tokens: Sequence[str]) -> list[str]:
    """Axis labels for tokens: in order, unique (plotly merges equal categories), blank rows left out."""
    seen: dict[str, int] = {}
    labels = []
    for token in tokens:
        count = seen.get(token, 0)
        seen[token] = count + 1
        labels.append(token + "\u200b" * count)  # zero-width: unique to plotly, the same to a reader
    return labels
