"""Weight statistics by layer: a line a matrix, for the measures that matter first."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from .marks import line
from .panels import above, panels, place_legend, whole_ticks
from .shrink import check_budget
from .theme import DASHES, Theme, dress

if TYPE_CHECKING:
    from interp.analyses.weight_stats import WeightResult

TITLES = ("Frobenius norm", "stable rank", "effective rank / random")


def plot(result: "WeightResult", *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """Frobenius norm, stable rank, and effective rank as a share of a random matrix' own. Attention is solid, the MLP dashed."""
    data = result.data
    share = data["effective_rank"] / data["null"]
    figure = panels(TITLES, theme=theme)
    layers = data["layer"].values.tolist()
    for column, values in enumerate((data["frobenius"], data["stable_rank"], share), start=1):
        for index, matrix in enumerate(str(name) for name in data["matrix"].values):
            trace = line(
                layers, values.sel(matrix=matrix).values, name=matrix, index=index, showlegend=column == 1,
                hovertemplate=f"{matrix} of layer %{{x}}<br>{TITLES[column - 1]} %{{y:.4g}}<extra></extra>",
            )  # fmt: skip
            trace.line.dash = DASHES[0 if matrix in ("W_Q", "W_K", "W_V", "W_O") else 1]
            figure.add_trace(trace, row=1, col=column)
        figure.update_yaxes(rangemode="tozero", row=1, col=column)
        whole_ticks(figure, "x", len(layers), column=column)
        figure.update_xaxes(title_text="layer", row=1, col=column)
    place_legend(figure, theme=theme)
    margin = above(theme, legend_rows=1)
    dress(figure, result, theme=theme, title="Weights by layer", venue=venue, aspect=0.4, height=380, margin=margin)
    return check_budget(figure)
