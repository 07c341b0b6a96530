"""Write shares: how much of the residual stream attention and MLP write, layer by layer, and how the stream itself grows."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from interp.core.stats import bootstrap_ci

from .marks import band
from .panels import above, panels, place_legend, whole_ticks
from .shrink import check_budget
from .theme import PARTS, Theme, dress

if TYPE_CHECKING:
    from interp.analyses.shares import ShareResult

NAMES = {"attn": "attention", "mlp": "MLP"}


def plot(result: "ShareResult", *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """Shares of both sublayers, and the norm of the stream after each layer, with their intervals."""
    table = result.by_layer()
    layers = table["layer"].values.tolist()
    figure = panels(("written, share of the stream's norm", "norm of the stream"), theme=theme)
    for part, name in NAMES.items():
        at = table.sel(part=part)
        ends = at["ci_lo"].values, at["ci_hi"].values
        figure.add_traces(band(layers, at["mean"].values, *ends, name=name, index=PARTS[name]), rows=1, cols=1)
    norm = bootstrap_ci(result.data["norm"].values)
    figure.add_traces(band(layers, *norm, name="stream", index=PARTS["state"], showlegend=False), rows=1, cols=2)
    for column in (1, 2):
        whole_ticks(figure, "x", len(layers), column=column)
        figure.update_xaxes(title_text="layer", row=1, col=column)
        figure.update_yaxes(rangemode="tozero", row=1, col=column)
    place_legend(figure, theme=theme)
    title = f"What each layer writes ({result.data.sizes['document']} documents)"
    margin = above(theme, legend_rows=1)
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=0.38, height=360, margin=margin)
    return check_budget(figure)
