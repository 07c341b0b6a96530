"""Cross-model patching: what each component carries of the models' difference. One map a kind with heads, one column for the rest."""

from typing import TYPE_CHECKING, Literal

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.core.errors import BadInput, one_of

from .marks import grid
from .panels import above, panels, whole_ticks
from .shrink import check_budget
from .theme import Theme, dress

if TYPE_CHECKING:
    from interp.analyses.crossmodel import CrossModelResult

UNITS = {
    "logprob": "log P(answer)",
    "prob": "P(answer)",
    "logit_diff": "logit difference",
    "rank": "rank",
    "accuracy": "accuracy",
}


def plot(
    result: "CrossModelResult",
    *,
    metric: str = "logprob",
    direction: str = "into first",
    unit: Literal["auto", "share", "metric"] = "auto",
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """What each component carries (heads by layers; whole layers in a last panel): a share of the models' difference, or, where that
    difference is too small for shares (or with unit="metric"), what it changes in the metric. White carries nothing.
    """
    one_of("direction", direction, [str(name) for name in result.data["direction"].values])
    one_of("unit", unit, ["auto", "share", "metric"])
    table, shares = _table(result, metric, unit)
    table = table.sel(direction=direction)
    kinds = list(dict.fromkeys(str(kind) for kind in table["kind"].values))
    headed = [
        kind for kind in kinds if kind != "joint" and int(table["head"].values[table["kind"].values == kind].max()) >= 0
    ]
    whole = [kind for kind in kinds if kind != "joint" and kind not in headed]
    titles = [*headed, *(["whole layers"] if whole else [])]
    if not titles:
        raise BadInput("this result holds only a joint cell, which is one number: see `recovered()`.")
    figure = panels(titles, theme=theme, shared_y=True)
    layers = int(table["of_layer"].values.max()) + 1
    bar = f"share of the<br>difference in<br>{UNITS[metric]}" if shares else f"change of<br>{UNITS[metric]}"
    largest = float(np.nanmax(np.abs(table["mean"].values)))
    limit = max(1.0, largest) if shares else largest or 1.0
    for column, title in enumerate(titles, start=1):
        columns, values, ends = _map(table, [title] if title in headed else whole, layers)
        trace = grid(
            values, x=columns, y=list(range(layers)), effect=True, limit=limit, name=bar, showscale=column == len(titles), ends=ends,
            of=len(titles), hover=f"{title} %{{y}}.%{{x}}<br>%{{z:.3f}}",
        )  # fmt: skip
        figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text="head" if title in headed else "", showgrid=False, row=1, col=column)
        if title in headed:
            whole_ticks(figure, "x", len(columns), most=8 if len(columns) <= 10 else 4, column=column)
    whole_ticks(figure, "y", layers, most=12)
    figure.update_yaxes(showgrid=False)
    figure.update_yaxes(title_text="layer", row=1, col=1)
    first, second = result.data.attrs["first"], result.data.attrs["second"]
    names = (first, second) if direction == "into first" else (second, first)
    title = f"What {names[0]} gains from {names[1]}'s components ({result.data.sizes['prompt']} prompts)"
    tall = min(22 * layers, 320)
    dress(
        figure,
        result,
        theme=theme,
        title=title,
        venue=venue,
        aspect=0.2 + tall / 800,
        height=250 + tall,
        margin=above(theme),
    )
    return check_budget(figure)


def _table(result: "CrossModelResult", metric: str, unit: str) -> tuple[xr.Dataset, bool]:
    """What is drawn [direction, component], and whether it is shares."""
    if unit == "metric":
        return result.moved(metric), False
    try:
        return result.recovered(metric), True
    except BadInput:
        if unit == "share":
            raise
        return result.moved(metric), False


def _map(
    table: xr.Dataset, kinds: list[str], layers: int
) -> tuple[list[object], np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Columns (heads of one kind, or several kinds of whole layers), means and interval ends [layer, column]."""
    kind, layer, head = (table[name].values for name in ("kind", "of_layer", "head"))
    columns: list[object] = list(range(int(head[kind == kinds[0]].max()) + 1)) or list(kinds)
    out = np.full((3, layers, len(columns)), np.nan)
    for place, (what, where, which) in enumerate(zip(kind, layer, head, strict=True)):
        if what in kinds:
            column = int(which) if which >= 0 else kinds.index(str(what))
            out[:, int(where), column] = [float(table[name].values[place]) for name in ("mean", "ci_lo", "ci_hi")]
    return columns, out[0], (out[1], out[2])
