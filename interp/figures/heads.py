"""Heads, layer by layer: what each attends to on repeated random tokens. One panel a score, the same colours in all of them."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.core.errors import one_of

from .marks import grid
from .shrink import check_budget
from .theme import Theme, dress

if TYPE_CHECKING:
    from interp.analyses.heads import HeadResult

NAMES = {
    "induction": "induction", "previous": "previous token", "duplicate": "duplicate token", "sink": "first position",
    "induction_awake": "induction, sink left out", "entropy": "entropy / maximum",
}  # fmt: skip


def plot(
    result: "HeadResult",
    *,
    metrics: tuple[str, ...] = ("induction", "previous", "duplicate", "sink"),
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Grids of mean scores, heads on x and layers on y; the title of each says its chance level."""
    table = result.scores()
    for metric in metrics:
        one_of("metrics", metric, [str(name) for name in table["metric"].values])
    titles = []
    for metric in metrics:
        chance = float(table["chance"].sel(metric=metric))
        titles.append(NAMES[metric] + ("" if np.isnan(chance) else f"<br>chance {chance:.2f}"))
    figure = make_subplots(rows=1, cols=len(metrics), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=titles)
    figure.update_annotations(font_size=12)
    heads, layers = table["head"].values.tolist(), table["layer"].values.tolist()
    for column, metric in enumerate(metrics, start=1):
        values = table["mean"].sel(metric=metric).values
        if metric == "entropy":
            values = values / float(result.data["entropy_max"].mean())
        trace = grid(
            values, x=heads, y=layers, limit=1.0, name="score", showscale=column == len(metrics),
            hover="head %{y}.%{x}<br>" + NAMES[metric] + " %{z:.3f}",
        )  # fmt: skip
        figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text="head", dtick=max(1, len(heads) // 8), row=1, col=column)
    figure.update_yaxes(dtick=max(1, len(layers) // 8))
    figure.update_yaxes(title_text="layer", row=1, col=1)
    title = f"What heads attend to (second copy of random tokens, {result.data.sizes['sequence']} sequences)"
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=0.36, height=None if theme == "paper" else 380)
    if theme == "screen":
        figure.update_layout(margin_t=92)
    else:
        figure.update_layout(margin_t=34)
    return check_budget(figure)
