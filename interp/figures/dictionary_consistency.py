"""Consistency of two dictionaries: matched latents from the best pair to the worst, beside what random rows match."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from .marks import line
from .panels import above, panels, place_legend
from .shrink import check_budget
from .theme import FAINT, Theme, dress

if TYPE_CHECKING:
    from interp.analyses.dictionaries.structure import ConsistencyResult

POINTS = 300
"""Points of a curve."""


def plot(result: "ConsistencyResult", *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """|cos| of one-to-one pairs in falling order, and of the random draws; above the dotted line a latent is found again."""
    data = result.data
    alive = data["alive_first"].values
    figure = panels(
        ("latents matched one to one",), theme=theme, notes=(f"MCC {result.mcc():.2f}, random {result.null():.2f}",)
    )
    null = np.sort(data["null_matched"].values[:, alive], axis=1)[:, ::-1].mean(axis=0)
    curves = (
        (np.sort(data["matched"].values[alive])[::-1], "second dictionary"),
        (null, "random rows, same second moments"),
    )
    for index, (values, name) in enumerate(curves):
        keep = np.unique(np.linspace(0, len(values) - 1, min(POINTS, len(values))).round().astype(int))
        figure.add_trace(line((keep + 1).tolist(), values[keep], name=name, index=index, mode="lines"), row=1, col=1)
    figure.add_hline(y=0.9, line={"color": FAINT, "width": 1, "dash": "dot"}, row=1, col=1)
    figure.update_xaxes(title_text="latents of the first, best match first", rangemode="tozero")
    figure.update_yaxes(title_text="|cos|", range=[0, 1.03])
    place_legend(figure, theme=theme)
    title = f"Are the latents found again? {int(alive.sum()):,} against {int(data['alive_second'].sum()):,}"
    margin = above(theme, legend_rows=1)
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=0.45, height=380, margin=margin)
    return check_budget(figure)
