"""Loss by position with its interval, and the entropy of the predictions: where they part, the model is not calibrated."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from .marks import band, line
from .shrink import check_budget
from .theme import Theme, dress

if TYPE_CHECKING:
    from interp.analyses.loss import LossResult

MOST = 64
"""Positions beyond which neighbours are drawn together."""


def plot(result: "LossResult", *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """Mean loss at each position of the documents (on a log axis: context grows by factors); hover says how many documents reach it."""
    table = result.by_position(bins=MOST)
    places = table["pos"].values.tolist()
    figure = go.Figure(band(places, table["mean"].values, table["ci_lo"].values, table["ci_hi"].values, name="loss"))
    figure.data[-1].update(
        customdata=table["n"].values.tolist(),
        hovertemplate="position %{x:.0f}<br>loss %{y:.3f}<br>%{customdata} documents<extra></extra>",
    )
    figure.add_trace(line(places, table["entropy"].values, name="entropy of the prediction", index=1))
    figure.update_xaxes(
        title_text="position in the document", type="log", exponentformat="none", dtick="D2" if places[-1] < 30 else 1
    )
    figure.update_yaxes(title_text="nats a token", rangemode="tozero")
    figure.update_layout(legend={"orientation": "h", "x": 1.0, "xanchor": "right", "y": 1.0, "yanchor": "bottom"})
    title = f"Loss by position ({result.data.sizes['document']} documents)"
    dress(
        figure,
        result,
        theme=theme,
        title=title,
        venue=venue,
        aspect=0.42,
        height=380,
        margin={"t": 74} if theme == "screen" else {"t": 20},
    )
    return check_budget(figure)
