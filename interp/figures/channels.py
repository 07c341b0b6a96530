"""Channels: which head writes what which later head reads, from the weights.

`by="best"` is the composition matrix, writers downwards and readers across, a panel a kind: the score of the strongest component of
each pair, in units of what a random direction scores (1 / sqrt(n)). `by="total"` shows the whole heads' scores instead, `by="z"` how far
the strongest component stands out among its head's others. `by="reader"` is one reader and all earlier heads, with the number of the
strongest component in its cell. `by="histogram"` holds all scores against random directions. `by="spectrum"` draws the components of
heads, `by="pair"` those of one pair of heads, with where else the strongest one is read (see `channel_pair`). Where a model has too many
heads for a cell each, a cell is the strongest pair of its block. `page(result)` is the map that one can click through.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from . import channel_null
from .channel_axes import HOLE, Rows, flatten, head_axes, kinds_of, place_of, rows_of, shown_of, strongest, title_of
from .marks import grid
from .panels import above, panels, place_legend, whole_ticks
from .shrink import check_budget
from .theme import INK, THEMES, Theme, colour, dress, line_style, text_size

if TYPE_CHECKING:
    from interp.analyses.channels.scoring.result import ChannelResult

VIEWS = ("best", "total", "z", "reader", "histogram", "spectrum", "pair")
NAMES = {"best": "best", "total": "total", "z": "best_z"}
BARS = {"best": "strongest component,<br>1 = random direction", "total": "whole heads,<br>1 = random direction",
        "z": "strongest component,<br>SDs above the others"}  # fmt: skip
FLOOR = {"best": 3.0, "total": 2.0, "z": 4.0}
"""Values that colours reach at least up to, so that what random directions give stays pale."""
LISTED = 6
"""Channels that are named in the empty corner."""


def plot(
    result: "ChannelResult",
    *,
    by: Literal["best", "total", "z", "reader", "histogram", "spectrum", "pair"] = "best",
    kind: Any = None,
    writer: Any = None,
    reader: Any = None,
    component: int | None = None,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw channels.

    `kind` chooses among the result's kinds (all by default; of many distances the first). `reader` ("9.9") is for by='reader', 'pair' and
    'spectrum', `writer` for 'pair' and 'spectrum' (where it may be several heads), `component` for 'pair'; by default those of the
    strongest channel. Raises `BadInput`.
    """
    one_of("by", by, VIEWS)
    one_of("theme", theme, THEMES)
    if by in ("spectrum", "pair"):
        kinds = kinds_of(result, kind)
        from . import channel_pair

        draw = channel_pair.spectrum if by == "spectrum" else channel_pair.pair
        options = {} if by == "spectrum" else {"component": component}
        return draw(
            result,
            kind=kinds if kind is not None else None,
            writer=writer,
            reader=reader,
            theme=theme,
            venue=venue,
            **options,
        )
    kinds = shown_of(result, kind)
    if by == "reader":
        return _reader(result, kinds, reader, theme, venue)
    if by == "histogram":
        return _histogram(result, kinds, theme, venue)
    return _matrix(result, kinds, by, theme, venue)


def page(result: "ChannelResult", words: Any = None) -> str:
    """The map that one can click through, as a page of its own (see `channel_map`)."""
    from . import channel_map

    return channel_map.page(result, words)


def _unit(result: "ChannelResult", by: str) -> float:
    return 1.0 if by == "z" else float(np.sqrt(result.data.attrs["free"]))


def _matrix(result: "ChannelResult", kinds: list[str], by: str, theme: Theme, venue: str) -> go.Figure:
    rows = rows_of(result, len(kinds))
    order = ("kind", "layer", "head", "reader_layer", "reader_head")
    values = result.data[NAMES[by]].sel(kind=kinds).transpose(*order).values.astype(np.float64) * _unit(result, by)
    index = result.data["best_component"].sel(kind=kinds).transpose(*order).values
    figure = panels([title_of(kind) for kind in kinds], theme=theme, shared_y=True)
    top = max(FLOOR[by], float(np.nanmax(values, initial=0.0)))
    bar = BARS[by] + (f"<br>(strongest of {rows.block} × {rows.block})" if rows.block > 1 else "")
    for column, (part, which) in enumerate(zip(values, index, strict=True), start=1):
        square, source = flatten(part, rows)
        hover = (
            "writer %{y} → reader %{x}<br>"
            + {"best": "%{z:.2f} × random", "total": "%{z:.2f} × random", "z": "%{z:.2f} SD"}[by]
        )
        extra: dict[str, Any] = {}
        if by != "total":
            extra = {"customdata": _compact(which.reshape(-1)[source])}
            hover += ", component %{customdata}"
        trace = grid(
            square, x=rows.names, y=rows.names, limit=top, name=bar, hover=hover,
            showscale=column == len(kinds), of=len(kinds), **extra,
        )  # fmt: skip
        figure.add_trace(trace, row=1, col=column)
        head_axes(figure, rows, column=column, panels=len(kinds), theme=theme)
        count = LISTED if len(kinds) == 1 else 3
        _corner(figure, result, kinds[column - 1], by, rows, theme=theme, column=column, count=count)
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category", title_text=None)
    figure.update_yaxes(title_text="writer (layer)", row=1, col=1)
    what = {"best": "Which heads can talk to which", "total": "Composition of whole heads",
            "z": "Components that stand out in their head"}[by]  # fmt: skip
    wide = len(kinds)
    dress(
        figure, result, theme=theme, title=f"{what}: {_counted(result, kinds)}", venue=venue,
        aspect={1: 0.86, 2: 0.5, 3: 0.38}.get(wide, 0.34),
        height={1: 640, 2: 500}.get(wide, 430), margin=above(theme),
    )  # fmt: skip
    figure.update_layout(plot_bgcolor=HOLE)
    return check_budget(figure)


def _corner(
    figure: go.Figure, result: "ChannelResult", kind: str, by: str, rows: Rows, *, theme: Theme, column: int, count: int
) -> None:
    """The strongest pairs of one panel: ringed, and named where no pairs are, below the diagonal."""
    order = ("layer", "head", "reader_layer", "reader_head")
    values = result.data[NAMES[by]].sel(kind=kind).transpose(*order).values
    index = result.data["best_component"].sel(kind=kind).transpose(*order).values
    lines, x, y = [], [], []
    for place in np.argsort(-np.nan_to_num(values, nan=-np.inf), axis=None, kind="stable")[:count]:
        a, b, c, d = (int(part) for part in np.unravel_index(place, values.shape))
        if not np.isfinite(values[a, b, c, d]):
            break
        part = f".{index[a, b, c, d]}" if by != "total" else ""
        unit = " SD" if by == "z" else " ×"
        writer, reader = (f"{rows.layers[layer]}.{rows.heads[head]}" for layer, head in ((a, b), (c, d)))
        lines.append(f"{writer}{part} → {reader}  {values[a, b, c, d] * _unit(result, by):.1f}{unit}")
        x.append(rows.names[c * rows.cells + d // rows.block])
        y.append(rows.names[a * rows.cells + b // rows.block])
    number = "" if column == 1 else str(column)
    figure.add_annotation(
        text="<br>".join(lines), showarrow=False, xref=f"x{number} domain", yref=f"y{number} domain", x=0.02, y=0.02, xanchor="left",
        yanchor="bottom", align="left", font={"size": text_size(theme, small=True) - (0 if count > 3 else 1), "color": INK},
        name="strongest",
    )  # fmt: skip
    ring = {"symbol": "circle-open", "size": 11 if theme == "screen" else 8, "color": colour(1), "line": {"width": 1.2}}
    figure.add_trace(
        go.Scatter(x=x, y=y, mode="markers", marker=ring, hoverinfo="skip", showlegend=False, name="strongest"),
        row=1,
        col=column,
    )


def _reader(result: "ChannelResult", kinds: list[str], reader: Any, theme: Theme, venue: str) -> go.Figure:
    reader = reader if reader is not None else strongest(result, kinds[0])[2]
    layer, head = place_of(result, reader, what="reader", reader=True)
    name = reader if isinstance(reader, str) else f"{reader[0]}.{reader[1]}"
    part = (
        result.data.sel(kind=kinds).isel(reader_layer=layer, reader_head=head).transpose("kind", "layer", "head", ...)
    )
    if layer == 0 or not np.isfinite(part["best"].values).any():
        raise BadInput(
            f"`reader` {name!r} has no earlier layer that could write to it. Choose a reader of a later layer."
        )
    best = part["best"].values[:, :layer] * _unit(result, "best")
    index = part["best_component"].values[:, :layer]
    layers, heads = part["layer"].values[:layer].tolist(), part["head"].values.tolist()
    figure = panels([title_of(kind) for kind in kinds], theme=theme, shared_y=True)
    top = max(FLOOR["best"], float(np.nanmax(best)))
    numbered = len(heads) <= 16 and len(layers) <= 40
    for column, (values, which) in enumerate(zip(best, index, strict=True), start=1):
        seen = np.where(values >= max(2.0, 0.5 * top), which.astype(str), "") if numbered else None
        trace = grid(
            values, x=list(range(len(heads))), y=list(range(len(layers))), limit=top, name=BARS["best"], of=len(kinds),
            hover="writer %{y}.%{x}, component %{customdata}<br>%{z:.2f} × random", showscale=column == len(kinds),
            customdata=_compact(which),
        )  # fmt: skip
        if seen is not None:
            trace.update(text=seen, texttemplate="%{text}", textfont={"size": text_size(theme, small=True) - 2})
        figure.add_trace(trace, row=1, col=column)
        whole_ticks(figure, "x", len(heads), most=8 if len(heads) <= 10 else 4, column=column)
        figure.update_xaxes(title_text="head", showgrid=False, row=1, col=column)
    whole_ticks(figure, "y", len(layers), most=12)
    figure.update_yaxes(showgrid=False)
    figure.update_yaxes(title_text="layer", row=1, col=1)
    tall = min(16 * len(layers), 320)
    title = f"What head {name} could read of each earlier head" + (" (numbers: component)" if numbered else "")
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=0.24 + tall / 800, height=250 + tall, margin=above(theme),
    )  # fmt: skip
    return check_budget(figure)


def _histogram(result: "ChannelResult", kinds: list[str], theme: Theme, venue: str) -> go.Figure:
    data = result.data
    low, high = data["bin_low"].values, data["bin_high"].values
    edges = np.append(low, high[-1])
    n, root = int(data.attrs["free"]), float(np.sqrt(data.attrs["free"]))
    writers = data["rank"].transpose("layer", "head").values.sum(1)  # components a layer
    figure = panels([title_of(kind) for kind in kinds], theme=theme, shared_y=True)
    tallest = 1.0
    for column, kind in enumerate(kinds, start=1):
        counts = data["histogram"].sel(kind=kind).values.astype(np.float64)
        spectrum = data["spectrum"].sel(kind=kind).transpose("reader_layer", "reader_head", "component").values
        earlier = np.cumsum(writers) - writers
        expected = np.zeros(len(low))
        for layer, many in enumerate(earlier):
            if many:
                share = np.diff(channel_null.below(edges / root, spectrum[layer], n), axis=-1)
                expected += many * np.nansum(share, axis=0)
        tallest = max(tallest, counts.max(), expected.max())
        shown = edges[np.concatenate([[True], (counts > 0) | (expected >= 0.5)])][-1]
        figure.add_trace(
            go.Scatter(
                x=edges.astype(np.float32), y=np.maximum(np.append(counts, 0), 0.1).astype(np.float32), mode="lines",
                line={"color": line_style(0)["color"], "width": 1.2, "shape": "hv"}, fill="tozeroy", fillcolor="rgba(0,114,178,0.18)",
                name="components", showlegend=column == 1, hovertemplate="%{x:.2f}: %{y:,.0f}<extra>components</extra>",
            ),
            row=1, col=column,
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=((low + high) / 2).astype(np.float32), y=np.where(expected > 0.1, expected, np.nan).astype(np.float32), mode="lines",
                line={**line_style(1), "width": 1.5}, name="random directions", showlegend=column == 1,
                hovertemplate="%{x:.2f}: %{y:,.1f}<extra>random directions</extra>",
            ),
            row=1, col=column,
        )  # fmt: skip
        figure.update_xaxes(title_text="score / random", range=[0, float(shown) * 1.03], row=1, col=column)
    figure.update_yaxes(type="log", range=[-0.4, float(np.log10(tallest)) + 0.25], dtick=1)
    figure.update_yaxes(title_text="component–reader pairs", row=1, col=1)
    place_legend(figure, theme=theme)
    title = f"Composition scores against random directions: {_counted(result, kinds)}"
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=0.42, height=380, margin=above(theme, legend_rows=1),
    )  # fmt: skip
    return check_budget(figure)


def _compact(index: np.ndarray) -> np.ndarray:
    """Numbers of components in as few bytes as hold them; 0 where there is none, which no hover shows."""
    known = np.maximum(index, 0)
    return known.astype(np.uint8 if known.max(initial=0) < 256 else np.int16)


def _counted(result: "ChannelResult", kinds: list[str]) -> str:
    layers, heads = result.data.sizes["layer"], result.data.sizes["head"]
    how = "gains folded in" if result.data.attrs.get("folded") else "raw weights"
    part = f", {len(kinds)} of {result.data.sizes['kind']} kinds" if len(kinds) < result.data.sizes["kind"] else ""
    return f"{layers} × {heads} heads, {how}{part}"
