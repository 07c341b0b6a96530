"""Where marks stand: panels side by side, their titles and letters, token axes, a legend that covers nothing."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.core.errors import one_of

from .theme import FAINT, INK, THEMES, Theme, plain, text_size

ABOVE = {"screen": 80, "paper": 24}
"""Pixels above panels with a title each."""
PER_LEGEND_ROW = 16
"""Pixels of a row of the paper legend, which stands above the panels."""


def panels(
    titles: Sequence[str],
    *,
    theme: Theme,
    notes: Sequence[str] = (),
    shared_y: bool = False,
    gap: float | None = None,
) -> go.Figure:
    """Panels in a row, each with its title over its left edge; on paper with a letter. A note follows the title in grey."""
    one_of("theme", theme, THEMES)
    spacing = gap if gap is not None else 0.035 if shared_y else 0.085
    figure = make_subplots(rows=1, cols=len(titles), shared_yaxes=shared_y, horizontal_spacing=spacing)
    for column, title in enumerate(titles):
        number = "" if column == 0 else str(column + 1)
        letter = f"<b>{chr(ord('a') + column)}</b>  " if theme == "paper" and len(titles) > 1 else ""
        note = f"  <span style='color:{FAINT}'>{plain(notes[column])}</span>" if notes else ""
        figure.add_annotation(
            text=letter + plain(title) + note, showarrow=False, xref=f"x{number} domain", yref=f"y{number} domain", x=0.0, y=1.0,
            xanchor="left", yanchor="bottom", yshift=3, font={"size": text_size(theme), "color": INK}, borderpad=0, name="panel title",
        )  # fmt: skip
    return figure


def whole_ticks(figure: go.Figure, axis: str, count: int, *, most: int = 8, column: int | None = None) -> None:
    """Ticks at whole numbers 0 ... count - 1, about `most` of them, the axis ending half a step beyond."""
    step = next(
        step for power in (1, 10, 100, 1000, 10_000) for step in (power, 2 * power, 5 * power) if count / step <= most
    )
    update = figure.update_xaxes if axis == "x" else figure.update_yaxes
    where = {} if column is None else {"row": 1, "col": column}
    update(tick0=0, dtick=step, range=[-0.5, count - 0.5], **where)


def token_axis(figure: go.Figure, tokens: Sequence[str], *, theme: Theme, marked: Sequence[int] = ()) -> None:
    """Tokens downwards, one row each (equal tokens stay apart), named at the first panel's left; `marked` rows are bracketed.

    Of more tokens than can be read, every second, fifth, ... is named.
    """
    step = next(
        step for power in (1, 10, 100, 1000) for step in (power, 2 * power, 5 * power) if len(tokens) / step <= 80
    )
    places = list(range(0, len(tokens), step))
    names = [f"<b>{plain(tokens[place])}</b>" if place in set(marked) else plain(tokens[place]) for place in places]
    figure.update_yaxes(
        range=[len(tokens) - 0.5, -0.5], tickvals=places, ticktext=names, ticks="", ticklabelstandoff=7 if marked else 3,
        tickfont={"size": text_size(theme, small=True)},
    )  # fmt: skip
    if marked:
        edge = {"type": "line", "xref": "x domain", "yref": "y", "line": {"color": INK, "width": 1.2}}
        first, last = min(marked) - 0.42, max(marked) + 0.42
        out = -0.015
        for x0, y0, x1, y1 in ((out, first, out, last), (out, first, 0, first), (out, last, 0, last)):
            figure.add_shape(**edge, x0=x0, x1=x1, y0=y0, y1=y1)


def place_legend(figure: go.Figure, *, theme: Theme) -> None:
    """On screen beside the panels; on paper above them, in the place of the title, left to right."""
    if theme == "screen":
        figure.update_layout(legend={"x": 1.01, "xanchor": "left", "y": 1.0, "yanchor": "top"})
        return
    figure.update_layout(
        legend={"orientation": "h", "x": 0.0, "xref": "paper", "xanchor": "left", "y": 1.0, "yref": "container", "yanchor": "top"}
    )  # fmt: skip


def above(theme: Theme, *, legend_rows: int = 0) -> dict[str, int]:
    """The margin above panels with titles, with room for a paper legend of so many rows."""
    return {"t": ABOVE[theme] + (PER_LEGEND_ROW * legend_rows + 4 * bool(legend_rows) if theme == "paper" else 0)}
