"""Heads, layer by layer: what each attends to on repeated random tokens. One panel a score, the same colours in all of them."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import one_of

from .marks import grid
from .panels import above, panels, whole_ticks
from .shrink import check_budget
from .theme import Theme, dress

if TYPE_CHECKING:
    from interp.analyses.heads import HeadResult

NAMES = {
    "induction": "induction", "previous": "previous token", "duplicate": "duplicate", "sink": "first token",
    "induction_awake": "induction, no sink", "entropy": "entropy / max",
}  # fmt: skip


def plot(
    result: "HeadResult",
    *,
    metrics: tuple[str, ...] = ("induction", "previous", "duplicate", "sink"),
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Grids of mean scores, heads on x and layers on y, first layer below; with what chance gives."""
    table = result.scores()
    for metric in metrics:
        one_of("metrics", metric, [str(name) for name in table["metric"].values])
    chance = [float(table["chance"].sel(metric=metric)) for metric in metrics]
    told = {f"{value:.2g}" for value in chance}
    bar = f"attention<br>(chance {told.pop()})" if len(told) == 1 and np.isfinite(chance).all() else "attention"
    notes = ["" if np.isnan(value) or "chance" in bar else f"chance {value:.2g}" for value in chance]
    figure = panels([NAMES[metric] for metric in metrics], notes=notes, theme=theme, shared_y=True)
    heads, layers = table["head"].values.tolist(), table["layer"].values.tolist()
    for column, metric in enumerate(metrics, start=1):
        part = table.sel(metric=metric)
        share = float(result.data["entropy_max"].mean()) if metric == "entropy" else 1.0
        trace = grid(
            part["mean"].values / share, x=heads, y=layers, limit=1.0, name=bar, showscale=column == len(metrics),
            ends=(part["ci_lo"].values / share, part["ci_hi"].values / share), of=len(metrics),
            hover="head %{y}.%{x}<br>" + NAMES[metric] + " %{z:.3f}",
        )  # fmt: skip
        figure.add_trace(trace, row=1, col=column)
        whole_ticks(figure, "x", len(heads), most=8 if len(heads) <= 10 else 4, column=column)
        figure.update_xaxes(title_text="head", showgrid=False, row=1, col=column)
    whole_ticks(figure, "y", len(layers), most=12)
    figure.update_yaxes(showgrid=False)
    figure.update_yaxes(title_text="layer", row=1, col=1)
    title = f"What heads attend to in the second copy of random tokens ({result.data.sizes['sequence']} sequences)"
    tall = min(14 * len(layers), 320)
    margin = above(theme)
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=0.2 + tall / 800, height=250 + tall, margin=margin
    )
    return check_budget(figure)
