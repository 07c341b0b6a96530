"""Activation patching: which components carry what differs between two prompts.

One row of panels a kind of site, denoise and noise side by side, all with the same colours. `by="map"` (the default) shows averages over
pairs: heads by layers, or places (named spans, or roles of positions) by layers; `by="line"` the same as lines with their intervals;
`by="token"` one pair, token by token, with what each changed token was changed to. White is no effect, red means that the component
carries the answer, blue that it works against it. Cells that are significant over the grid are outlined; nothing is clipped. The colour
bar's title gives the total effect, which is what the whole difference between the prompts makes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.core.errors import BadInput, one_of

from .facets import facets, label_axes, number, room_of
from .marks import band, grid
from .outline import outline
from .panels import place_legend, token_axis
from .shrink import MOST_CELLS, check_budget
from .theme import FAINT, THEMES, Theme, dress, text_size
from .tracing import FLOOR, UNITS

if TYPE_CHECKING:
    from interp.analyses.patching import PatchingResult

TITLES = {
    "resid_pre": "stream into the layer", "resid_mid": "stream between attention and MLP", "resid_post": "stream out of the layer",
    "attn_out": "attention", "mlp_out": "MLP", "z": "head outputs", "q": "queries", "k": "keys", "v": "values",
    "mlp_post": "neurons",
}  # fmt: skip
SHARE_FLOOR = 0.25
"""Share of the total effect that colours reach at least up to."""


@dataclass(frozen=True)
class Look:
    """What all pictures of a call have in common."""

    result: "PatchingResult"
    kinds: tuple[str, ...]
    metric: str
    normalise: bool
    theme: Theme
    venue: str

    @property
    def known(self) -> bool:
        """Whether averages are over known pairs; over all where none is known."""
        return self.result.n_known > 0

    @property
    def unit(self) -> str:
        """What colours and lines measure."""
        return "share of the<br>total effect" if self.normalise else f"effect on<br>{UNITS[self.metric]}"

    def facets(
        self, directions: Sequence[str], room: int, legend_rows: int = 0
    ) -> tuple[go.Figure, int, dict[str, int]]:
        """The empty panels."""
        window = int(self.result.data.attrs["window"])
        note = f"{window} layers" if window > 1 else ""
        titles = [TITLES[kind] for kind in self.kinds]
        return facets(titles, directions, room, theme=self.theme, note=note, legend_rows=legend_rows)

    def finish(
        self, figure: go.Figure, title: str, height: int, margin: dict[str, int], *, note: str = ""
    ) -> go.Figure:
        """The figure with its theme, title and provenance, and a note at its foot."""
        dress(
            figure, self.result, theme=self.theme, title=title, venue=self.venue, aspect=height / 528, height=height, margin=margin
        )  # fmt: skip
        if note:
            size = text_size(self.theme, small=True)
            figure.add_annotation(
                text=note, showarrow=False, xref="paper", yref="paper", x=0.0, y=0.0, xanchor="left", yanchor="bottom",
                yshift=2 - figure.layout.margin.b, font={"size": size, "color": FAINT}, borderpad=0, name="note",
            )  # fmt: skip
        return check_budget(figure)


def plot(
    result: "PatchingResult",
    *,
    by: Literal["map", "line", "token"] = "map",
    kind: str | None = None,
    metric: str = "logit_diff",
    pair: int | str = 0,
    normalise: bool = False,
    test: Literal["holm", "bh", "none"] = "holm",
    alpha: float = 0.05,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw patched effects.

    `kind` chooses one kind; without it those with the same axes as the first are drawn. `pair` (number or id) is for by='token';
    `normalise` shows shares of the total effect; `test` is how outlined cells are corrected for the grid ('none' outlines none).
    """
    one_of("by", by, ("map", "line", "token"))
    one_of("metric", metric, [str(name) for name in result.data.coords["metric"].values])
    one_of("test", test, ("holm", "bh", "none"))
    one_of("theme", theme, THEMES)
    if kind is not None:
        one_of("kind", kind, result.kinds)
    first = result.data[result.kinds[0]].dims
    kinds = (kind,) if kind is not None else tuple(one for one in result.kinds if result.data[one].dims == first)
    look = Look(result, kinds, metric, normalise, theme, venue)
    if by == "token":
        return _token(look, _pair_index(result, pair))
    tables = [_table(look, one) for one in kinds]
    if by == "line" or set(tables[0]["mean"].dims) == {"direction", "layer"}:
        return _lines(look, tables)
    return _maps(look, tables, test, alpha)


def _table(look: Look, kind: str) -> xr.Dataset:
    result = look.result
    make = result.by_role if "pos" in result.data[kind].dims else result.mean
    return make(look.metric, kind, known=look.known, normalise=look.normalise)


def _maps(look: Look, tables: Sequence[xr.Dataset], test: str, alpha: float) -> go.Figure:
    tests = [_significant(look, kind, test, alpha) for kind in look.kinds]
    edges = [None if one is None else _flat(one["significant"]).values for one in tests]
    ends = [(_flat(table["ci_lo"]).values, _flat(table["ci_hi"]).values) for table in tables]
    total = look.result.total_effect(look.metric, known=look.known)["effect"]
    bar = look.unit if look.normalise else f"{look.unit}<br>(total {total:.3g})"
    found, note = [one for one in tests if one is not None], ""
    if found and all(one.attrs["smallest_p"] * (one.attrs["cells"] if test == "holm" else 1) > alpha for one in found):
        note = "too few pairs to test cells"
    elif found:
        note = f"outlined: p ≤ {alpha:g}, {'Holm' if test == 'holm' else 'false discovery rate'} over each map"
    pictures = [_flat(table["mean"]) for table in tables]  # each [direction, y, x]
    figure, height, margin = _grids(look, pictures, bar, ends=ends, edges=edges)
    if (down := str(pictures[0].dims[1])) != "layer":
        token_axis(figure, [str(name) for name in pictures[0][down].values], theme=look.theme)
    return look.finish(figure, f"Which components carry the answer ({_count(look.result)})", height, margin, note=note)


def _token(look: Look, index: int) -> go.Figure:
    result, data = look.result, look.result.data.isel(pair=index)
    if "pos" not in data[look.kinds[0]].dims:
        raise BadInput(
            f"by='token' shows what was patched position by position; {look.kinds[0]} was not. Use by='map'."
        )
    length = int(data["n_pos"])
    total = float((data["high"] - data["low"]).sel(metric=look.metric))
    pictures = []
    for kind in look.kinds:
        shares = (
            result.normalised(look.metric, kind, drop=True)
            if look.normalise
            else result.effects(kind).sel(metric=look.metric)
        )
        pictures.append(_flat(shares.sel(pair=data["pair"].item()).isel(pos=slice(0, length))))
    bar = look.unit if look.normalise else f"{look.unit}<br>(total {total:.3g})"
    figure, height, margin = _grids(look, pictures, bar)
    sides = [[str(name) for name in data[side].values[:length]] for side in ("token", "token_corrupted")]
    names = [clean if clean == other else f"{clean} → {other}" for clean, other in zip(*sides, strict=True)]
    token_axis(figure, names, theme=look.theme)
    title = f"Which components carry {data['answer'].item()} rather than {data['foil'].item()}, one pair"
    return look.finish(figure, title, height, margin)


def _grids(
    look: Look,
    pictures: Sequence[xr.DataArray],
    bar: str,
    *,
    ends: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    edges: Sequence[np.ndarray | None] = (),
) -> tuple[go.Figure, int, dict[str, int]]:
    """Heatmaps of pictures [direction, y, x], with intervals on hover and outlined cells; height and margin."""
    directions = [str(one) for one in pictures[0]["direction"].values]
    heads = pictures[0].dims[1] == "layer"
    figure, height, margin = look.facets(directions, room_of(pictures[0].shape[1], look.theme, heads=heads))
    floor = SHARE_FLOOR if look.normalise else FLOOR[look.metric]
    top = max(floor, *(float(np.nanmax(np.abs(one.values), initial=0.0)) for one in pictures))
    panels = len(pictures) * len(directions)
    for row, picture in enumerate(pictures):
        down, across = map(str, picture.dims[1:])
        hover = (
            "layer %{y}, head %{x}"
            if down == "layer"
            else "%{y}<br>" + ("layer " if across == "layer" else "") + "%{x}"
        )
        for column, values in enumerate(picture.values):
            interval = (ends[row][0][column], ends[row][1][column]) if ends else None
            trace = grid(
                values, x=list(range(values.shape[1])), y=list(range(values.shape[0])), effect=True, limit=top, name=bar,
                hover=hover + "<br>effect %{z:.4f}", showscale=row == 0 and column == len(directions) - 1, ends=interval, of=panels,
            )  # fmt: skip
            figure.add_trace(trace, row=row + 1, col=column + 1)
            edge = edges[row] if edges else None
            if edge is not None and bool(edge[column].any()) and values.size * panels <= MOST_CELLS:
                figure.add_trace(outline(edge[column], cliponaxis=False), row=row + 1, col=column + 1)
        label_axes(figure, picture, row + 1, len(pictures))
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    return figure, height, margin


def _lines(look: Look, tables: Sequence[xr.Dataset]) -> go.Figure:
    first = tables[0]["mean"]
    if {"head", "kv_head"} & set(first.dims):
        raise BadInput(
            "by='line' would join heads, which have no order. Use by='map', or patch over 'layer' or 'layer pos'."
        )
    place = next((dim for dim in ("role", "place") if dim in first.dims), None)
    names = [str(name) for name in first[place].values] if place else [""]
    directions = [str(one) for one in first["direction"].values]
    room = 220 if look.theme == "screen" else 130
    figure, height, margin = look.facets(directions, room, -(-len(names) // 4) if place else 0)
    layers = first["layer"].values.tolist()
    for row, table in enumerate(tables, start=1):
        for column, direction in enumerate(directions, start=1):
            for index, name in enumerate(names):
                at = table.sel({"direction": direction} | ({place: name} if place else {}))
                mean, low, high = (at[one].values for one in ("mean", "ci_lo", "ci_hi"))
                for trace in band(list(range(len(layers))), mean, low, high, name=name or "effect", index=index):
                    trace.showlegend = bool(trace.showlegend is not False and row == column == 1 and place)
                    figure.add_trace(trace, row=row, col=column)
            number(figure, "x", layers, row, column)
        figure.update_yaxes(title_text=look.unit.replace("<br>", " "), row=row, col=1)
    figure.update_xaxes(title_text="layer", row=len(tables))
    figure.update_yaxes(zeroline=True, zerolinecolor="#b8bec5", zerolinewidth=1)
    place_legend(figure, theme=look.theme)
    figure.update_layout(legend_font_size=text_size(look.theme, small=True))
    return look.finish(figure, f"Which components carry the answer ({_count(look.result)})", height, margin)


def _significant(look: Look, kind: str, test: str, alpha: float) -> xr.Dataset | None:
    if test == "none":
        return None
    by: Any = "role" if "pos" in look.result.data[kind].dims else "cell"
    correction: Any = test
    return look.result.significant(correction, metric=look.metric, kind=kind, known=look.known, alpha=alpha, by=by)


def _flat(values: xr.DataArray) -> xr.DataArray:
    """Values [direction, y, x]: heads by layers, places by layers, or places by (layer, head)."""
    head = next((dim for dim in ("head", "kv_head") if dim in values.dims), None)
    place = next((dim for dim in ("role", "place", "pos") if dim in values.dims), None)
    if place is None:
        return values.transpose("direction", "layer", head)
    if head is None:
        return values.transpose("direction", place, "layer")
    moved = values.transpose("direction", place, "layer", head)
    columns = [f"{layer}.{one}" for layer in moved["layer"].values for one in moved[head].values]
    flat = moved.values.reshape(*moved.shape[:2], -1)
    coords = {"direction": moved["direction"].values, place: moved[place].values, "component": columns}
    return xr.DataArray(flat, dims=("direction", place, "component"), coords=coords)


def _pair_index(result: "PatchingResult", pair: int | str) -> int:
    ids = [str(name) for name in result.data.coords["pair"].values]
    if isinstance(pair, str):
        one_of("pair", pair, ids)
        return ids.index(pair)
    if not -len(ids) <= pair < len(ids):
        raise BadInput(f"pair {pair}: the result has pairs 0 to {len(ids) - 1}. Choose one of them.")
    return pair


def _count(result: "PatchingResult") -> str:
    total = result.data.sizes["pair"]
    return f"{result.n_known} known pairs of {total}" if result.n_known else f"{total} pairs, none known"
