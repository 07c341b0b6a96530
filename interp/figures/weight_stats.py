"""Weight statistics by layer: a line a matrix, for the measures that matter first."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .marks import line
from .shrink import check_budget
from .theme import Theme, dress

if TYPE_CHECKING:
    from interp.analyses.weight_stats import WeightResult


def plot(result: "WeightResult", *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """Frobenius norm, stable rank, and effective rank as a share of a random matrix' own."""
    data = result.data
    share = data["effective_rank"] / data["null"]
    panels = (
        (data["frobenius"], "Frobenius norm"),
        (data["stable_rank"], "stable rank"),
        (share, "effective rank / random"),
    )
    figure = make_subplots(rows=1, cols=3, horizontal_spacing=0.09)
    layers = data["layer"].values.tolist()
    for column, (values, label) in enumerate(panels, start=1):
        for index, matrix in enumerate(str(name) for name in data["matrix"].values):
            trace = line(layers, values.sel(matrix=matrix).values, name=matrix, index=index, showlegend=column == 1)
            figure.add_trace(trace, row=1, col=column)
        figure.update_yaxes(title_text=label, rangemode="tozero", row=1, col=column)
        figure.update_xaxes(title_text="layer", dtick=max(1, len(layers) // 6), row=1, col=column)
    dress(
        figure,
        result,
        theme=theme,
        title="Weights by layer",
        venue=venue,
        aspect=0.4,
        height=None if theme == "paper" else 360,
    )
    return check_budget(figure)
