"""Loss by position with its interval, and the entropy of the predictions: where they part, the model is not calibrated."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from .marks import band, line
from .shrink import check_budget
from .theme import Theme, dress

if TYPE_CHECKING:
    from interp.analyses.loss import LossResult


def plot(result: "LossResult", *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """Mean loss at each position of the documents; hover says how many documents reach it."""
    table = result.by_position()
    places = table["pos"].values.tolist()
    figure = go.Figure(band(places, table["mean"].values, table["ci_lo"].values, table["ci_hi"].values, name="loss"))
    figure.add_trace(line(places, table["entropy"].values, name="entropy", index=1, mode="lines"))
    counts = table["n"].values.tolist()
    figure.data[1].update(
        customdata=counts, hovertemplate="position %{x}<br>loss %{y:.3f}<br>%{customdata} documents<extra></extra>"
    )
    figure.update_xaxes(title_text="position in the document")
    figure.update_yaxes(title_text="nats a token", rangemode="tozero")
    figure.update_layout(legend={"x": 0.99, "xanchor": "right", "y": 0.99})
    title = f"Loss by position ({result.data.sizes['document']} documents)"
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=0.45, height=None if theme == "paper" else 360)
    return check_budget(figure)
