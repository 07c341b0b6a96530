"""Two interventions in both orders: what each measure comes to, and how much the order matters.

a  Every measure, between 0 and 1 (best), under each intervention alone and under both, in both orders.
b  Order sensitivity, the difference between the two orders, beside what the better order leaves to be desired (order-free error).

Whiskers are 95 % intervals over questions and texts.
"""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from .marks import whiskers
from .panels import above, panels, place_legend
from .shrink import check_budget
from .theme import FAINT, SYMBOLS, Theme, colour, dress, plain

if TYPE_CHECKING:
    from interp.analyses.unlearning.order_result import InterventionOrderResult

STATES = {
    "first": (4, "first alone"), "second": (5, "second alone"), "first+second": (0, "first, then second"),
    "second+first": (1, "second, then first"),
}  # fmt: skip
KINDS = {"sensitivity": (2, "order sensitivity"), "error": (6, "order-free error")}
NAMES = {
    "first": "aim of first", "second": "aim of second", "both": "both aims", "unrelated": "unrelated kept",
    "language": "language kept",
}  # fmt: skip


def plot(
    result: "InterventionOrderResult",
    *,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw both orders beside each intervention alone, and the order's sensitivity and error."""
    values, order = result.values(), result.order()
    names = [str(name) for name in values["measure"].values]
    figure = panels(["what is achieved", "what the order does"], theme=theme, gap=0.1)
    places = np.arange(len(names), dtype=float)
    for row, (state, (index, label)) in enumerate(STATES.items()):
        at = values.sel(state=state)
        mean, low, high = (at[name].values for name in ("mean", "ci_lo", "ci_hi"))
        figure.add_trace(
            go.Scatter(
                x=places + 0.17 * (row - 1.5), y=mean, mode="markers", name=label, error_y=whiskers(mean, low, high, width=0),
                marker={"color": colour(index), "symbol": SYMBOLS[index]}, hovertemplate=f"{label}: %{{y:.3g}}<extra></extra>",
            ), row=1, col=1,
        )  # fmt: skip
    for row, (kind, (index, label)) in enumerate(KINDS.items()):
        mean, low, high = (order[kind + end].values for end in ("", "_lo", "_hi"))
        figure.add_trace(
            go.Bar(
                x=places + 0.36 * (row - 0.5), y=mean, width=0.34, name=label, error_y=whiskers(mean, low, high, width=2),
                marker={"color": colour(index) if kind == "sensitivity" else FAINT}, hovertemplate=f"{label}: %{{y:.3g}}<extra></extra>",
            ), row=1, col=2,
        )  # fmt: skip
    for column in (1, 2):
        figure.update_xaxes(
            tickvals=places.tolist(), ticktext=[plain(NAMES[name]) for name in names], tickangle=-30,
            range=[-0.6, len(names) - 0.4], row=1, col=column,
        )  # fmt: skip
    figure.update_yaxes(range=[-0.04, 1.04], nticks=6, row=1, col=1)
    top = float(np.nanmax([order[f"{kind}_hi"].max() for kind in KINDS], initial=0.05))
    figure.update_yaxes(range=[0, 1.08 * min(1.0, top)], nticks=6, row=1, col=2)
    place_legend(figure, theme=theme)
    title = f"First: {result.data.attrs['first']}. Second: {result.data.attrs['second']}."
    margin = above(theme, legend_rows=2) | {"b": 92 if theme == "screen" else 74}
    dress(figure, result, theme=theme, title=title, venue=venue, height=420, aspect=0.5, margin=margin)
    return check_budget(figure)
