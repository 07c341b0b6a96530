"""Panels in rows and columns for interventions: a row a kind of site, a column a direction, one set of colours."""

from collections.abc import Sequence

import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from .panels import above
from .theme import FAINT, INK, Theme, plain, text_size

GAP = {"screen": 48, "paper": 26}
"""Pixels between rows of panels."""


def room_of(tall: int, theme: Theme, *, heads: bool) -> int:
    """Pixels of a row of panels with so many rows of cells."""
    if heads:
        return min(360, max(130, 15 * tall)) if theme == "screen" else min(240, max(96, 9 * tall))
    return min(900, max(130, 22 * tall)) if theme == "screen" else min(400, max(96, 12 * tall))


def facets(
    titles: Sequence[str], directions: Sequence[str], room: int, *, theme: Theme, note: str = "", legend_rows: int = 0
) -> tuple[go.Figure, int, dict[str, int]]:
    """Panels with a row a title and a column a direction; the figure's height in pixels; its margin."""
    rows, columns = len(titles), len(directions)
    inner = rows * room + (rows - 1) * GAP[theme]
    figure = make_subplots(
        rows=rows, cols=columns, shared_yaxes=True, horizontal_spacing=0.05,
        vertical_spacing=GAP[theme] / inner if rows > 1 else 0.0,
    )  # fmt: skip
    grey = f"  <span style='color:{FAINT}'>{plain(note)}</span>" if note else ""
    for index, (title, direction) in enumerate((title, one) for title in titles for one in directions):
        axis = "" if index == 0 else str(index + 1)
        letter = f"<b>{chr(ord('a') + index)}</b>  " if theme == "paper" and rows * columns > 1 else ""
        figure.add_annotation(
            text=f"{letter}{plain(title)}, {plain(direction)}{grey}", showarrow=False, xref=f"x{axis} domain", yref=f"y{axis} domain",
            x=0.0, y=1.0, xanchor="left", yanchor="bottom", yshift=3, font={"size": text_size(theme), "color": INK}, borderpad=0,
            name="panel title",
        )  # fmt: skip
        if index < (rows - 1) * columns:  # only the lowest row names its columns
            figure.layout[f"xaxis{axis}"].showticklabels = False
    margin = above(theme, legend_rows=legend_rows)
    return figure, margin["t"] + inner + (70 if theme == "screen" else 46), margin


def label_axes(figure: go.Figure, picture: xr.DataArray, row: int, rows: int) -> None:
    """Name the axes of the panels in one row, which show `picture` [direction, y, x]."""
    across, down = str(picture.dims[2]), str(picture.dims[1])
    names = {"layer": "layer", "head": "head", "kv_head": "key/value head", "component": "layer and head"}
    for column in range(1, picture.sizes["direction"] + 1):
        if across == "component":
            labels = [str(name) for name in picture[across].values]
            starts = [
                place
                for place, name in enumerate(labels)
                if name.split(".")[0] not in [n.split(".")[0] for n in labels[:place]]
            ]
            step = -(-len(starts) // 12)
            figure.update_xaxes(
                tickvals=starts[::step], ticktext=[labels[place] for place in starts[::step]], range=[-0.5, len(labels) - 0.5],
                row=row, col=column,
            )  # fmt: skip
        else:
            number(figure, "x", picture[across].values.tolist(), row, column)
        if row == rows:
            figure.update_xaxes(title_text=names[across], row=row, col=column)
        if down == "layer":
            number(figure, "y", picture[down].values.tolist(), row, column)
    if down == "layer":
        figure.update_yaxes(title_text="layer", row=row, col=1)


def number(figure: go.Figure, axis: str, labels: Sequence[int], row: int, column: int) -> None:
    """Ticks at places 0, 1, ... that are called by their layers or heads."""
    update = figure.update_xaxes if axis == "x" else figure.update_yaxes
    step = next(
        step for power in (1, 10, 100, 1000) for step in (power, 2 * power, 5 * power) if len(labels) / step <= 10
    )
    places = list(range(0, len(labels), step))
    update(
        tickvals=places, ticktext=[str(labels[place]) for place in places], range=[-0.5, len(labels) - 0.5], row=row, col=column
    )  # fmt: skip
