"""Interchange accuracy of learned subspaces and of their controls: lines over layers, or bars where there is one layer."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from .marks import band, line, whiskers
from .panels import above, place_legend, whole_ticks
from .shrink import check_budget
from .theme import CATEGORY, Theme, dress

if TYPE_CHECKING:
    from interp.analyses.das import DASResult

NAMES = {
    "trained": "trained", "row": "seen by readers", "span": "seen, whole", "null": "unseen", "shuffled": "shuffled",
    "random": "random", "full": "whole vector", "none": "nothing",
}  # fmt: skip


def plot(result: "DASResult", *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """Accuracy on held-out pairs with 95 % intervals; layers with a subspace illusion are marked by a cross."""
    table = result.iia()
    layers = result.data["layer"].values.tolist()
    figure = go.Figure()
    if len(layers) > 1:
        _lines(figure, result, table, layers, size=11 if theme == "screen" else 7)
    else:
        _bars(figure, table)
    place = result.data.attrs
    head = f", head {place['head']}" if place["head"] >= 0 else ""
    where = f"{place['kind']}{head} at {place['position']}" + ("" if len(layers) > 1 else f", layer {layers[0]}")
    figure.update_yaxes(title_text="interchange accuracy", range=[-0.03, 1.05])
    rows = 2 if len(layers) > 1 and theme == "paper" else 0
    margin = above(theme, legend_rows=rows)
    title = f"A {place['k']}-dimensional subspace of {where} ({result.data.sizes['pair']} held-out pairs)"
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=0.55, height=430, margin=margin)
    if len(layers) > 1:
        place_legend(figure, theme=theme)
    return check_budget(figure)


def _lines(figure: go.Figure, result: "DASResult", table: xr.Dataset, layers: list[int], *, size: int) -> None:
    for index, (variant, name) in enumerate(NAMES.items()):
        mean, low, high = (table[one].sel(variant=variant).values for one in ("mean", "ci_lo", "ci_hi"))
        if not np.isfinite(mean).any():
            continue
        if variant == "trained":
            figure.add_traces(band(layers, mean, low, high, name=name, index=index))
        else:
            figure.add_trace(line(layers, mean, name=name, index=index))
    told = result.illusion().values
    if told.any():
        trained = table["mean"].sel(variant="trained").values[told]
        marks = {"symbol": "x", "size": size, "color": CATEGORY[1]}
        figure.add_trace(
            go.Scatter(
                x=np.asarray(layers)[told], y=trained, mode="markers", marker=marks, name="illusion", hoverinfo="name"
            )
        )
    figure.update_xaxes(title_text="layer")
    if layers == list(range(len(layers))):
        whole_ticks(figure, "x", len(layers))


def _bars(figure: go.Figure, table: xr.Dataset) -> None:
    mean, low, high = (table[one].isel(layer=0).sel(variant=list(NAMES)).values for one in ("mean", "ci_lo", "ci_hi"))
    colours = [CATEGORY[0] if variant == "trained" else CATEGORY[6] for variant in NAMES]
    figure.add_trace(
        go.Bar(
            x=list(NAMES.values()), y=mean, marker={"color": colours}, error_y=whiskers(mean, low, high), showlegend=False,
            hovertemplate="%{x}: %{y:.3f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(showgrid=False)
