"""Logit lens over depth: agreement with the final layer, KL to it, loss; each with its interval, on one x axis."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .marks import band
from .shrink import check_budget
from .theme import Theme, dress

if TYPE_CHECKING:
    from interp.analyses.lens import LensResult

PANELS = (("agree", "agreement with final"), ("kl", "KL to final, nats"), ("nll", "loss, nats"))


def plot(result: "LensResult", *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """Three curves over depth (0 is the embedding)."""
    table = result.by_depth()
    depth = table["depth"].values.tolist()
    figure = make_subplots(rows=1, cols=3, horizontal_spacing=0.09)
    for column, (measure, label) in enumerate(PANELS, start=1):
        part = table.sel(measure=measure)
        traces = band(
            depth, part["mean"].values, part["ci_lo"].values, part["ci_hi"].values, name=label, index=column - 1
        )
        figure.add_traces(traces, rows=1, cols=column)
        figure.update_yaxes(title_text=label, rangemode="tozero", row=1, col=column)
        figure.update_xaxes(title_text="depth", dtick=max(1, len(depth) // 6), row=1, col=column)
    figure.update_layout(showlegend=False)
    title = f"At which depth the prediction is made ({result.data.sizes['document']} documents)"
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=0.34, height=None if theme == "paper" else 340)
    return check_budget(figure)
