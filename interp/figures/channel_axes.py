"""Heads in one row: `layer.head` along an axis, layers told apart by lines, blocks of heads where there are too many.

A block never reaches from one layer into the next, so that lines between layers stay where layers end.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.core.errors import BadInput, listing, one_of

from .shrink import LONGEST_SIDE, MOST_CELLS
from .theme import Theme, text_size

MOST_PANELS = 4
"""Kinds side by side."""
LINE, HOLE = "#c9ced4", "#eff1f3"
"""Colours of the lines between layers, and of pairs of heads that do not exist."""


@dataclass(frozen=True)
class Rows:
    """Heads in the order layer.head, `block` of them a cell."""

    layers: list[int]
    heads: list[int]
    block: int = 1

    @property
    def cells(self) -> int:
        """Cells a layer."""
        return -(-len(self.heads) // self.block)

    @property
    def names(self) -> list[str]:
        """A name a cell: `head 8.10`, or `heads 8.8–8.11` for a block. The word keeps plotly from taking them for places on the axis."""
        starts = range(0, len(self.heads), self.block)
        groups = [self.heads[start : start + self.block] for start in starts]
        return [
            f"head {layer}.{group[0]}" if len(group) == 1 else f"heads {layer}.{group[0]}–{layer}.{group[-1]}"
            for layer in self.layers
            for group in groups
        ]


def rows_of(result: Any, panels: int) -> Rows:
    """The heads of a result, in the smallest blocks with which so many square panels keep the budget."""
    layers, heads = (result.data[dim].values.tolist() for dim in ("layer", "head"))
    rows = Rows(layers, heads)
    while (
        side := len(layers) * rows.cells
    ) > LONGEST_SIDE or side**2 * panels > 0.8 * MOST_CELLS:  # room for numbers of components
        if rows.cells == 1:
            raise BadInput(f"{len(layers)} layers in {panels} panels do not fit a figure. Choose one kind.")
        rows = Rows(layers, heads, rows.block + 1)
    return rows


def flatten(values: np.ndarray, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Values [layer, head, layer, head] as a square, and for each cell which entry of the flat [head, head] matrix it shows.

    A cell is the strongest pair of its block; NaN where a block holds none.
    """
    layers, heads = values.shape[:2]
    wide = rows.cells * rows.block
    padded = np.full((layers, wide, layers, wide), np.nan)
    padded[:, :heads, :, :heads] = values
    side = layers * rows.cells
    split = padded.reshape(side, rows.block, side, rows.block).transpose(0, 2, 1, 3).reshape(side, side, -1)
    inside = np.where(np.isnan(split), -np.inf, split).argmax(-1)
    square = np.take_along_axis(split, inside[..., None], -1)[..., 0]
    square = np.where(np.isnan(square), np.nan, square)  # one NaN for all: others take six times the bytes in JSON
    down, across = np.divmod(inside, rows.block)
    row = np.arange(side)[:, None] * rows.block + down
    column = np.arange(side)[None, :] * rows.block + across
    flat = [(place // wide) * heads + np.minimum(place % wide, heads - 1) for place in (row, column)]
    return square, flat[0] * layers * heads + flat[1]


def head_axes(figure: go.Figure, rows: Rows, *, column: int, panels: int, theme: Theme) -> None:
    """Readers across and writers downwards in one panel: layers named at their middle, lines between them."""
    side, cells = len(rows.layers) * rows.cells, rows.cells
    most = 12 if theme == "screen" or panels == 1 else 7
    step = next(step for step in (1, 2, 3, 4, 5, 6, 8, 10, 20, 50, 100) if len(rows.layers) / step <= most)
    middles = [index * cells + (cells - 1) / 2 for index in range(0, len(rows.layers), step)]
    settings: dict[str, Any] = {
        "tickvals": middles, "ticktext": [str(layer) for layer in rows.layers[::step]], "ticks": "", "showgrid": False,
        "tickfont": {"size": text_size(theme, small=True)},
    }  # fmt: skip
    figure.update_xaxes(**settings, range=[-0.5, side - 0.5], title_text="reader (layer)", row=1, col=column)
    figure.update_yaxes(**settings, range=[side - 0.5, -0.5], row=1, col=column)
    line = {"type": "line", "xref": f"x{column if column > 1 else ''}", "yref": f"y{column if column > 1 else ''}"}
    line["line"] = {"color": LINE, "width": 0.6 if theme == "paper" else 0.8}  # type: ignore[assignment]
    for index in range(step, len(rows.layers), step):  # they end at the diagonal: below it is nothing
        at = index * cells - 0.5
        figure.add_shape(**line, x0=at, x1=at, y0=-0.5, y1=at)
        figure.add_shape(**line, x0=at, x1=side - 0.5, y0=at, y1=at)


def place_of(result: Any, name: Any, *, what: str, reader: bool = False) -> tuple[int, int]:
    """(layer, head) as places in the result's axes, from `"8.10"` or (8, 10). Raises `BadInput` with what there is."""
    dims = ("reader_layer", "reader_head") if reader else ("layer", "head")
    layers, heads = (result.data[dim].values.tolist() for dim in dims)
    words = str(name).split(".") if not isinstance(name, tuple) else [str(part) for part in name]
    if len(words) == 2 and all(word.isdigit() for word in words):
        layer, head = int(words[0]), int(words[1])
        if layer in layers and head in heads:
            return layers.index(layer), heads.index(head)
    raise BadInput(
        f"`{what}` must name a head as layer.head, with layers {layers[0]} to {layers[-1]} and heads {heads[0]} to {heads[-1]}; "
        f"not {name!r}."
    )


def kinds_of(result: Any, kind: Any) -> list[str]:
    """The kinds to draw: all, or those named. Raises `BadInput`."""
    have = [str(name) for name in result.data["kind"].values]
    if kind is None:
        return have
    wanted = [kind] if isinstance(kind, str) else [str(name) for name in kind]
    if not wanted:
        raise BadInput(f"`kind` names none. Choose from {listing(have)}.")
    for name in wanted:
        one_of("kind", name, have)
    return wanted


def shown_of(result: Any, kind: Any) -> list[str]:
    """The kinds that have room side by side: those named, or all; of many distances the first of queries, keys and values each.

    Raises `BadInput` where more are named than have room.
    """
    kinds = kinds_of(result, kind)
    if len(kinds) <= MOST_PANELS:
        return kinds
    if kind is not None:
        raise BadInput(f"{len(kinds)} kinds do not fit side by side. Choose at most {MOST_PANELS} of {listing(kinds)}.")
    first = {name.partition("@")[0]: name for name in reversed(kinds)}
    return [name for name in kinds if name in first.values()]


def title_of(kind: str) -> str:
    """What a kind is called over its panel."""
    word, _, offset = kind.partition("@")
    name = {"Q": "into queries", "K": "into keys", "V": "into values"}.get(word, kind)
    return f"{name}, distance {offset}" if offset else name


def into(kind: str, reader: str) -> str:
    """`into keys of 3.5, distance 4`."""
    name, _, offset = title_of(kind).partition(",")
    return f"{name} of {reader}" + (f",{offset}" if offset else "")


def strongest(result: Any, kind: str | None = None) -> tuple[str, str, str]:
    """(kind, writer, reader) of the strongest channel, of one kind or of all."""
    data: xr.Dataset = result.data
    kinds = kinds_of(result, kind)
    best = data["best"].sel(kind=kinds).transpose("kind", "layer", "head", "reader_layer", "reader_head").values
    if not np.isfinite(best).any():
        raise BadInput(
            "no pair of heads has a score: no head reads after another one writes, or those that do are zero or look back less far."
        )
    at = np.unravel_index(int(np.nanargmax(best)), best.shape)
    names = [
        data[dim].values[place]
        for dim, place in zip(("layer", "head", "reader_layer", "reader_head"), at[1:], strict=True)
    ]
    return kinds[at[0]], f"{names[0]}.{names[1]}", f"{names[2]}.{names[3]}"
