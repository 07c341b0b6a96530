"""Direct logit attribution: heads as a map, layers' sums as bars beside it. Red writes towards the answer, blue against it."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from .marks import grid, whiskers
from .panels import above, panels, whole_ticks
from .shrink import check_budget
from .theme import Theme, dress, line_style

if TYPE_CHECKING:
    from interp.analyses.direct import DirectResult

UNITS = {"logit_diff": "logit difference", "logit": "logit"}


def plot(result: "DirectResult", *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """Mean contributions: heads (layer below layer) and, with intervals, every MLP, embedding and bias."""
    table = result.mean()
    kinds = result.data["kind"].values
    unit = UNITS[str(result.data.attrs["target"])]
    with_heads = "head" in set(kinds.tolist())
    titles = ["heads", "everything else"] if with_heads else ["components"]
    figure = panels(titles, theme=theme, gap=0.24 if with_heads else None)
    if with_heads:
        heads = result.heads()
        trace = grid(
            heads.values, x=heads["head"].values.tolist(), y=heads["layer"].values.tolist(), effect=True, name=unit,
            hover="head %{y}.%{x}<br>%{z:.3f}",
        )  # fmt: skip
        trace.colorbar.update(x=0.385, thickness=10)
        figure.add_trace(trace, row=1, col=1)
        whole_ticks(figure, "x", heads.sizes["head"], column=1)
        whole_ticks(figure, "y", heads.sizes["layer"], most=12, column=1)
        figure.update_xaxes(title_text="head", showgrid=False, row=1, col=1)
        figure.update_yaxes(title_text="layer", showgrid=False, row=1, col=1)
    rest = table.isel(component=kinds != "head")
    mean, low, high = (rest[name].values for name in ("mean", "ci_lo", "ci_hi"))
    names = [str(name) for name in rest["component"].values]
    known = np.isfinite(high) & np.isfinite(low)
    bars = go.Bar(
        x=mean, y=names, orientation="h", marker={"color": line_style(0)["color"]},
        error_x=whiskers(mean, low, high, width=2) if known.all() else None,
        showlegend=False, hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )  # fmt: skip
    column = len(titles)
    figure.add_trace(bars, row=1, col=column)
    figure.update_xaxes(title_text=unit, row=1, col=column)
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category", row=1, col=column)
    prompts = result.data.sizes["prompt"]
    height = 170 + max(120, 17 * len(names))
    title = f"What each component writes towards the answer ({prompts} prompt{'s' * (prompts != 1)})"
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=height / 640, height=height, margin=above(theme)
    )
    return check_budget(figure)
