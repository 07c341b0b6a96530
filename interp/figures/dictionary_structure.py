"""Structure of a dictionary: how near its decoder rows are to one another, beside random rows, and how encoder and decoder agree."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from .marks import line
from .panels import above, panels, place_legend
from .shrink import check_budget
from .theme import Theme, dress

if TYPE_CHECKING:
    from interp.analyses.dictionaries.structure import DictionaryStructureResult

CURVES = (
    ("nearest", "this dictionary"),
    ("matched", "random rows, same second moments"),
    ("uniform", "uniform random rows"),
)
POINTS = 200
"""Points of a curve."""


def plot(result: "DictionaryStructureResult", *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """Cumulative distributions over latents, all views together: nearest cosine against its nulls, and encoder with decoder."""
    agreement = result.data["agreement"].values
    both = bool(np.isfinite(agreement).any())
    figure = panels(("nearest other row", "encoder and decoder") if both else ("nearest other row",), theme=theme)
    for index, (name, label) in enumerate(CURVES):
        x, share = cumulative(result.data[name].values)
        figure.add_trace(line(x, share, name=label, index=index, mode="lines"), row=1, col=1)
    if both:
        x, share = cumulative(agreement)
        figure.add_trace(line(x, share, name=CURVES[0][1], index=0, mode="lines", showlegend=False), row=1, col=2)
    for column in range(1, 2 + both):
        figure.update_xaxes(title_text="cosine", row=1, col=column)
        figure.update_yaxes(
            title_text="share of latents below" if column == 1 else None, range=[0, 1.02], row=1, col=column
        )
    place_legend(figure, theme=theme)
    title = f"Decoder rows of {result.data.sizes['latent']:,} latents"
    margin = above(theme, legend_rows=1)
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=0.42, height=380, margin=margin)
    return check_budget(figure)


def cumulative(values: np.ndarray) -> tuple[list[float], np.ndarray]:
    """(value, share of values at most that), of the finite ones, at no more than `POINTS` quantiles."""
    known = np.sort(values[np.isfinite(values)])
    keep = np.unique(np.linspace(0, len(known) - 1, min(POINTS, len(known))).round().astype(int))
    return known[keep].astype(np.float32).tolist(), (keep + 1) / len(known)
