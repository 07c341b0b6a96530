"""The depth strip: every layer-wise measure of a checkpoint over one depth axis, so that a change is located at a glance.

Each row is one measure on its own scale; what is aligned is depth, by the thin lines that run through all rows. The dot on each line is
its peak, and the text at the right says its value and layer. Parts of the network keep their colour and dash from row to row (state,
MLP, attention). A shade is a 95 % interval, a dotted grey line what the measure gives by chance. Rows come from whatever results are at
hand; a missing one leaves its rows out.

When it misleads: rows have different units and cannot be compared in height, only in place; a restored effect of windowed MLPs and
attention is drawn at the window's centre, and a lens reading at the layer after which it was read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of

from .marks import band
from .panels import whole_ticks
from .shrink import check_budget
from .theme import FAINT, GRID, INK, PARTS, THEMES, Theme, colour, dress, plain, text_size


@dataclass(frozen=True)
class Curve:
    """One line of a row."""

    name: str
    """Empty where the row's label says it."""
    layers: np.ndarray
    values: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    style: int = 0
    note: str = ""
    """Text at the right; by default the peak and its layer."""


@dataclass(frozen=True)
class Strip:
    """One row."""

    label: str
    unit: str
    curves: tuple[Curve, ...]
    chance: float | None = None
    top: float | None = None
    """Upper end of the scale, where the measure has one."""
    floor: float = 0.0
    """What the scale reaches at least, so that noise around nothing stays flat."""


def strips(results: Mapping[str, Result]) -> list[Strip]:
    """The rows that these results give, in the order of the questions: what is known, where it is restored, who attends, what weighs."""
    makers = {"lens": _lens, "tracing": _tracing, "heads": _heads, "shares": _shares, "weights": _weights}
    return [row for key, make in makers.items() if key in results for row in make(results[key])]


def _lens(result: Any) -> list[Strip]:
    table = result.by_depth()
    layers = table["depth"].values[1:] - 1
    rows = []
    for measure, label, unit in (("agree", "Lens agreement", "share of tokens"), ("kl", "Lens KL to final", "nats")):
        at = table.sel(measure=measure).isel(depth=slice(1, None))
        values = at["mean"].values
        note = f"half at {result.half_depth() - 1}" if measure == "agree" and result.half_depth() > 0 else ""
        curve = Curve("", layers, values, at["ci_lo"].values, at["ci_hi"].values, note=note)
        rows.append(Strip(label, unit, (curve,), top=1.0 if measure == "agree" else None))
    return rows


def _tracing(result: Any) -> list[Strip]:
    known = result.n_known > 0
    table = result.by_role(known=known)
    rows = []
    for role, label in (("last subject", "Fact, subject end"), ("last", "Fact, last token")):
        if role not in table["role"].values:
            continue
        curves = []
        for kind, name in (("hidden", "state"), ("mlp", "MLP"), ("attn", "attention")):
            if kind in table["kind"].values:
                at = table.sel(role=role, kind=kind)
                ends = at["ci_lo"].values, at["ci_hi"].values
                curves.append(Curve(name, at["layer"].values, at["mean"].values, *ends, style=PARTS[name]))
        who = f"{result.n_known} known" if known else "none known"
        rows.append(Strip(label, f"P restored, {who}", tuple(curves), floor=0.05))
    return rows


def _heads(result: Any) -> list[Strip]:
    table = result.scores()
    curves, chance = [], []
    for style, (metric, name) in enumerate((("induction", "induction"), ("previous", "previous")), start=3):
        at = table.sel(metric=metric)
        best = at["mean"].argmax("head")
        ends = at["ci_lo"].isel(head=best).values, at["ci_hi"].isel(head=best).values
        curves.append(Curve(name, at["layer"].values, at["mean"].isel(head=best).values, *ends, style=style))
        chance.append(float(at["chance"]))
    return [Strip("Best head", "attention", tuple(curves), chance=max(chance), top=1.0)]


def _shares(result: Any) -> list[Strip]:
    table = result.by_layer()
    curves = []
    for part, name in (("mlp", "MLP"), ("attn", "attention")):
        at = table.sel(part=part)
        ends = at["ci_lo"].values, at["ci_hi"].values
        curves.append(Curve(name, at["layer"].values, at["mean"].values, *ends, style=PARTS[name]))
    return [Strip("Write share", "of the stream's norm", tuple(curves))]


def _weights(result: Any) -> list[Strip]:
    data = result.data
    layers, share = data["layer"].values, data["effective_rank"] / data["null"]
    rows = []
    for values, label, unit, top in (
        (share, "Output rank", "share of random", None),
        (data["frobenius"], "Output norm", "Frobenius", None),
    ):
        both = (("W_out", "MLP"), ("W_O", "attention"))
        pairs = [(key, name) for key, name in both if key in data["matrix"].values]  # experts have no one W_out
        curves = tuple(Curve(name, layers, values.sel(matrix=key).values, style=PARTS[name]) for key, name in pairs)
        rows.append(Strip(label, unit, curves, top=top))
    return rows


ROW = {"screen": 74, "paper": 44}
SIDES = {"screen": {"l": 200, "r": 150}, "paper": {"l": 126, "r": 92}}
BETWEEN = {"screen": 14, "paper": 8}
SHIFT = {"screen": (-44, 12), "paper": (-30, 6)}
"""Pixels of a row, of the words beside the rows, between rows; and from the panel's edges to those words."""


def plot(results: Mapping[str, Result], *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """Draw the strip of results keyed "lens", "tracing", "heads", "shares", "weights" (any of them)."""
    one_of("theme", theme, THEMES)
    rows = strips(results)
    if not rows:
        raise BadInput(
            f"no layer-wise measure among {sorted(results)}. Give results called lens, tracing, heads, shares or weights."
        )
    count = 1 + max(int(curve.layers.max()) for row in rows for curve in row.curves)
    margin = {**SIDES[theme], "t": 68 if theme == "screen" else 16, "b": 66 if theme == "screen" else 42}
    inner = len(rows) * ROW[theme] + (len(rows) - 1) * BETWEEN[theme]
    figure = go.Figure()
    for place, row in enumerate(rows):
        top = 1 - place * (ROW[theme] + BETWEEN[theme]) / inner
        _row(figure, row, place + 1, (max(0.0, top - ROW[theme] / inner), top), theme)
    axis = f"y{len(rows)}" if len(rows) > 1 else "y"
    figure.update_layout(xaxis={"anchor": axis, "title": {"text": "layer"}, "showgrid": False})
    whole_ticks(figure, "x", count, most=12)
    _guides(figure, count)
    height = inner + margin["t"] + margin["b"]
    first = next(iter(results.values()))
    name = first.manifest.model.get("name", "")
    title = "Depth strip" + (f" of {name}" if name else "")
    dress(figure, first, theme=theme, title=title, venue=venue, aspect=height / 528, height=height, margin=margin)
    figure.update_layout(showlegend=False, title={"xref": "container", "x": 0.012})
    figure.add_annotation(
        text="peak at layer", showarrow=False, xref="paper", yref="paper", x=1, y=1, xanchor="left", yanchor="bottom", borderpad=0,
        xshift=SHIFT[theme][1], yshift=4, font={"size": text_size(theme, small=True), "color": FAINT},
    )  # fmt: skip
    return check_budget(figure)


def _row(figure: go.Figure, row: Strip, number: int, domain: tuple[float, float], theme: Theme) -> None:
    axis = f"y{number}" if number > 1 else "y"
    low, high, ticks = _scale(row)
    figure.update_layout({axis.replace("y", "yaxis"): {
        "domain": domain, "anchor": "x", "range": [low, high], "tickvals": ticks, "showgrid": False, "automargin": False,
        "ticktext": [f"{tick:.3g}" for tick in ticks], "tickfont": {"size": text_size(theme, small=True) - 1}, "zeroline": low < 0,
        "zerolinecolor": "#b8bec5", "zerolinewidth": 1,
    }})  # fmt: skip
    if row.chance is not None:
        ends = [float(row.curves[0].layers.min()) - 0.5, float(row.curves[0].layers.max()) + 0.5]
        figure.add_scatter(
            x=ends, y=[row.chance] * 2, yaxis=axis, mode="lines", line={"color": FAINT, "width": 1, "dash": "1px,2px"},
            hovertemplate="chance %{y:.3f}<extra></extra>",
        )  # fmt: skip
    for curve in row.curves:
        _curve(figure, row, curve, axis, theme)
    _words(figure, row, axis, theme)


def _curve(figure: go.Figure, row: Strip, curve: Curve, axis: str, theme: Theme) -> None:
    nothing = np.full(len(curve.values), np.nan)
    low, high = (nothing if end is None else end for end in (curve.low, curve.high))
    name = " ".join(filter(None, [row.label, curve.name]))
    for trace in band(curve.layers.tolist(), curve.values, low, high, name=name, index=curve.style, yaxis=axis):
        if trace.fill is None:
            trace.update(mode="lines")
        figure.add_trace(trace)
    if np.isfinite(curve.values).any():
        peak = int(np.nanargmax(curve.values))
        figure.add_scatter(
            x=[int(curve.layers[peak])], y=[np.float32(curve.values[peak])], yaxis=axis, mode="markers", hoverinfo="skip", cliponaxis=False,
            marker={"color": colour(curve.style), "size": 5 if theme == "paper" else 8, "line": {"color": "white", "width": 1}},
        )  # fmt: skip


def _words(figure: go.Figure, row: Strip, axis: str, theme: Theme) -> None:
    """The label at the left, peaks at the right."""
    size, small = text_size(theme), text_size(theme, small=True)
    most = max(float(np.nanmax(np.abs(curve.values), initial=0.0)) for curve in row.curves)
    common: dict[str, Any] = {
        "showarrow": False,
        "xref": "paper",
        "yref": f"{axis} domain",
        "y": 0.5,
        "yanchor": "middle",
        "borderpad": 0,
    }
    left = f"<b>{plain(row.label)}</b><br><span style='font-size:{small}px;color:{FAINT}'>{plain(row.unit)}</span>"
    figure.add_annotation(
        text=left,
        x=0,
        xanchor="right",
        xshift=SHIFT[theme][0],
        align="right",
        font={"size": size, "color": INK},
        **common,
    )
    figure.add_annotation(
        text="<br>".join(_note(curve, most) for curve in row.curves), x=1, xanchor="left", xshift=SHIFT[theme][1],
        align="left", font={"size": small, "color": INK}, **common,
    )  # fmt: skip


def _note(curve: Curve, scale: float) -> str:
    if not np.isfinite(curve.values).any():
        return ""
    peak = int(np.nanargmax(curve.values))
    value = float(curve.values[peak])
    digits = 2 if scale < 10 else 1 if scale < 100 else 0
    text = curve.note or f"{value:.{digits}f} at {int(curve.layers[peak])}"
    name = f"{plain(curve.name)} " if curve.name else ""
    return f"<span style='color:{colour(curve.style)}'>{name}{text}</span>"


def _scale(row: Strip) -> tuple[float, float, list[float]]:
    """Both ends of a row's axis and its two ticks."""
    every = np.concatenate([np.r_[c.values, *(end for end in (c.low, c.high) if end is not None)] for c in row.curves])
    every = every[np.isfinite(every)]
    most = max(float(every.max(initial=0.0)), row.chance or 0.0, row.floor)
    least = min(0.0, float(every.min(initial=0.0)))
    top = row.top or most or 1.0
    tick = row.top or _round_below(top)
    room = 0.09 * (top - least)
    return least - room * (least < 0), top + room, [0.0, tick]


def _round_below(value: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is not above `value`."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(step * power for step in (1, 2, 5) if step * power <= value * (1 + 1e-9)))


def _guides(figure: go.Figure, count: int) -> None:
    """Thin lines through all rows, at the ticks of the depth axis."""
    step = figure.layout.xaxis.dtick
    places: Sequence[float] = np.arange(0, count, step).tolist()
    for place in places:
        figure.add_shape(
            type="line", xref="x", yref="paper", x0=place, x1=place, y0=0, y1=1, layer="below", line={"color": GRID, "width": 1}
        )  # fmt: skip
