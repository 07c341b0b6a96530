"""The laundry list: accuracy by length of the list, untouched and steered; by place; and the map of where the reader can be made to look.

`by="accuracy"` draws three panels: the untouched model against chance; what it becomes under rules that know the answer and rules that do
not, on prompts that nothing was learned on; and the same oracle on the controls. `by="place"` is accuracy for each place of the missing
thing, `by="map"` the place that gets most attention at each point of the grid, the channel beside its controls (two components).
Intervals are 95 % over prompts. Dotted lines are chance.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from .channel_axes import HOLE
from .channel_regions import Items, add_regions
from .marks import band, grid
from .panels import above, panels, place_legend
from .paths import caption
from .shrink import check_budget
from .theme import FAINT, THEMES, Theme, dress

if TYPE_CHECKING:
    from interp.analyses.channels.laundry.result import LaundryResult

SHOWN = {"unsteered": 0, "oracle region": 3, "single point": 4, "self-consistent": 5}
"""Rules of the second panel and their styles: untouched, with the answer known, and two without."""
CONTROLS = (6, 7, 2)
"""Styles of the controls, which no rule has."""


def plot(
    result: "LaundryResult",
    *,
    by: Literal["accuracy", "place", "map"] = "accuracy",
    scoring: Literal["vocabulary", "listed"] = "vocabulary",
    length: int | None = None,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw accuracies, or with by='map' the regions of lists of one `length` (the longest). Raises `BadInput`."""
    one_of("by", by, ("accuracy", "place", "map"))
    one_of("theme", theme, THEMES)
    if by == "map":
        return _map(result, length, theme, venue)
    if length is not None:
        raise BadInput(f"`length={length}` is for by='map'; by={by!r} shows all lengths. Leave it out.")
    return _place(result, scoring, theme, venue) if by == "place" else _accuracy(result, scoring, theme, venue)


def _accuracy(result: Any, scoring: str, theme: Theme, venue: str) -> go.Figure:
    titles = ["untouched", "steered", "oracle, by directions"][
        : 3 if len(result.arms) > 1 else 2 if result.steers else 1
    ]
    figure = panels(titles, theme=theme, shared_y=True)
    lengths = result.lengths
    for index, (name, way) in enumerate({"best of all tokens": "vocabulary", "best of the list": "listed"}.items()):
        _line(figure, lengths, result.accuracy(way), name, index, 1)
    if result.steers:
        table = result.steering(scoring)
        for rule, index in SHOWN.items():
            _line(figure, lengths, table.sel(arm="channel", rule=rule), rule, index, 2)
        for index, arm in enumerate(result.arms if len(result.arms) > 1 else ()):
            style = (SHOWN["oracle region"], *CONTROLS)[index]
            _line(figure, lengths, table.sel(arm=arm, rule="oracle region"), arm.replace("_", " "), style, 3, index > 0)
    for column in range(1, len(titles) + 1):
        chance = go.Scatter(
            x=lengths, y=[1 / items for items in lengths], mode="lines", line={"color": FAINT, "width": 1, "dash": "1.5px,3px"},
            name="chance", showlegend=column == 1, hovertemplate="chance %{y:.3f}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(chance, row=1, col=column)
        step = -(-len(lengths) // 8)
        figure.update_xaxes(title_text="things listed", tickvals=lengths[::step], row=1, col=column)
    figure.update_yaxes(range=[-0.03, 1.05])
    figure.update_yaxes(title_text="accuracy", row=1, col=1)
    place_legend(figure, theme=theme)
    steered = (
        f", steered by {' '.join(map(str, result.data['axis'].values))} into {result.data.attrs['reader']}"
        if result.steers
        else ""
    )
    title = f"Laundry lists{steered} ({result.data.sizes['prompt']} prompts a length)"
    rows = 1 + (len(titles) > 1) + (len(titles) > 2)
    dress(
        figure,
        result,
        theme=theme,
        title=title,
        venue=venue,
        aspect=0.46,
        height=400,
        margin=above(theme, legend_rows=rows),
    )
    if result.steers:
        caption(figure, f"steered: {scoring}, prompts that nothing was learned on", theme)
    return check_budget(figure)


def _line(
    figure: go.Figure, lengths: list[int], table: Any, name: str, index: int, column: int, plain_line: bool = False
) -> None:
    low, high = table["ci_lo"].values, table["ci_hi"].values
    if plain_line:  # bands of several controls would hide one another
        low, high = low * np.nan, high * np.nan
    for trace in band(lengths, table["mean"].values, low, high, name=name, index=index):
        figure.add_trace(trace, row=1, col=column)


def _place(result: Any, scoring: str, theme: Theme, venue: str) -> go.Figure:
    table = result.by_place(scoring)
    most = table.sizes["item"]
    figure = panels(["accuracy by place of the missing thing"], theme=theme)
    lengths = [str(items) for items in result.lengths]
    cells = grid(
        table["mean"].values, x=list(range(most)), y=lengths, limit=1.0, name="accuracy", hover="%{y} things, place %{x}<br>%{z:.3f}",
        ends=(table["ci_lo"].values, table["ci_hi"].values),
    )  # fmt: skip
    figure.add_trace(cells, row=1, col=1)
    figure.update_xaxes(title_text="place of the missing thing, from 0", dtick=1 if most <= 12 else 2)
    figure.update_yaxes(title_text="things listed", type="category")
    figure.update_xaxes(showgrid=False).update_yaxes(showgrid=False).update_layout(plot_bgcolor=HOLE)  # no such place
    title = f"Accuracy by length and place ({result.data.sizes['prompt']} prompts a length)"
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=0.5, height=420, margin=above(theme))
    caption(figure, "best of all tokens" if scoring == "vocabulary" else "best of the things listed", theme)
    return check_budget(figure)


def _map(result: Any, length: int | None, theme: Theme, venue: str) -> go.Figure:
    if not result.steers or result.data.sizes["axis"] != 2:
        have = result.data.sizes.get("axis", 0) if result.steers else 0
        raise BadInput(f"by='map' needs two components that are steered; this result has {have}. Use by='accuracy'.")
    length = result.lengths[-1] if length is None else length
    pictures = [(arm.replace("_", " "), result.owners(length, arm)) for arm in result.arms]
    figure = panels([name for name, _ in pictures], theme=theme, shared_y=True)
    items = Items.of([f"item_{place}" for place in range(length)])
    names = [str(name) for name in result.data["axis"].values]
    for column, (_, owners) in enumerate(pictures, start=1):
        laid = owners.transpose("axis_1", "axis_0")
        x, y = laid["axis_0"].values.tolist(), laid["axis_1"].values.tolist()
        most = 7 if len(pictures) < 3 else 5 if theme == "screen" else 4
        add_regions(
            figure, laid.values, items, x=x, y=y, column=column, theme=theme, scale=column == len(pictures), most=most
        )
        figure.update_xaxes(title_text=f"{names[0]} (s.d.)" if column == 1 else "axis 1", row=1, col=column)
    figure.update_yaxes(title_text=f"{names[1]} (s.d.)", row=1, col=1)
    title = f"Place that head {result.data.attrs['reader']} looks at most, lists of {length}"
    wide = len(pictures)
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect={1: 0.8, 2: 0.52, 3: 0.4}.get(wide, 0.34),
        height={1: 560, 2: 470}.get(wide, 400), margin=above(theme),
    )  # fmt: skip
    caption(figure, f"{result.data.attrs['mode']} at the last token; grey: no place leads", theme)
    return check_budget(figure)
