"""Component masks: how often each head is selected, and what patching the selection does beside its floors."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from .marks import grid, whiskers
from .panels import above, panels, whole_ticks
from .shrink import check_budget
from .theme import CATEGORY, Theme, dress

if TYPE_CHECKING:
    from interp.analyses.masking import MaskResult

NAMES = {"learned": "selected", "none": "none", "random": "random", "all": "all"}


def plot(result: "MaskResult", *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """Left, selection over seeds (heads by layers; MLPs in a last column); right, held-out accuracy with its intervals."""
    layers, heads, values = _map(result)
    figure = panels(["selected", "accuracy"], theme=theme, gap=0.25)
    trace = grid(
        values, x=heads, y=layers, limit=1.0, name="share of seeds", hover="%{y}.%{x}: %{z:.2f}",
    )  # fmt: skip
    trace.colorbar.update(x=0.385, thickness=10)
    figure.add_trace(trace, row=1, col=1)
    figure.update_xaxes(title_text="head", showgrid=False, type="category", row=1, col=1)
    figure.update_yaxes(title_text="layer", showgrid=False, row=1, col=1)
    whole_ticks(figure, "y", len(layers), most=12, column=1)
    mean, low, high = (
        result.accuracy()[name].sel(variant=list(NAMES)).mean("seed").values for name in ("mean", "ci_lo", "ci_hi")
    )
    figure.add_trace(
        go.Bar(
            x=list(NAMES.values()), y=mean, error_y=whiskers(mean, low, high), showlegend=False,
            hovertemplate="%{x}: %{y:.3f}<extra></extra>",
            marker={"color": [CATEGORY[0], *[CATEGORY[6]] * 3]},
        ),
        row=1, col=2,
    )  # fmt: skip
    figure.update_yaxes(title_text="target answered", range=[0, 1.05], row=1, col=2)
    figure.update_xaxes(showgrid=False, row=1, col=2)
    seeds = result.data.sizes["seed"]
    place = result.data.attrs["position"]
    title = f"Which components carry the variable at {place} ({seeds} training run{'s' * (seeds != 1)})"
    height = 250 + min(18 * len(layers), 320)
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=height / 720, height=height, margin=above(theme)
    )
    return check_budget(figure)


def _map(result: "MaskResult") -> tuple[list[int], list[str], np.ndarray]:
    """Layers, columns and the share of seeds that selected each component; NaN where there was no candidate."""
    share = result.frequency()
    layer, head = share["layer"].values, share["head"].values
    rows = list(range(int(layer.max()) + 1))
    columns = [str(one) for one in range(int(head.max()) + 1)] + (["MLP"] if (head < 0).any() else [])
    values = np.full((len(rows), len(columns)), np.nan)
    for where, which, value in zip(layer, head, share.values, strict=True):
        values[int(where), int(which) if which >= 0 else len(columns) - 1] = value
    return rows, columns, values
