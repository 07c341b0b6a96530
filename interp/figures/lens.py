"""Logit lens over depth: agreement with the final layer, KL to it, loss; each with its interval, on one x axis."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from .marks import band
from .panels import above, panels, whole_ticks
from .shrink import check_budget
from .theme import Theme, dress

if TYPE_CHECKING:
    from interp.analyses.lens import LensResult

PANELS = (("agree", "agreement with final"), ("kl", "KL to final, nats"), ("nll", "loss, nats a token"))


def plot(result: "LensResult", *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """Three curves over depth: 0 is the embedding, the last is the model itself."""
    table = result.by_depth()
    depth = table["depth"].values.tolist()
    figure = panels([label for _, label in PANELS], theme=theme)
    for column, (measure, label) in enumerate(PANELS, start=1):
        part = table.sel(measure=measure)
        traces = band(depth, part["mean"].values, part["ci_lo"].values, part["ci_hi"].values, name=label)
        figure.add_traces(traces, rows=1, cols=column)
        whole_ticks(figure, "x", len(depth), column=column)
        figure.update_xaxes(title_text="depth", row=1, col=column)
        figure.update_yaxes(rangemode="tozero", row=1, col=column)
    figure.update_yaxes(range=[0, 1.04], row=1, col=1)
    figure.update_layout(showlegend=False)
    title = f"At which depth the prediction is made ({result.data.sizes['document']} documents)"
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=0.36, height=360, margin=above(theme))
    return check_budget(figure)
