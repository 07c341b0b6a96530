"""What a component writes and reads, in words: the tokens at both ends of its directions, beside what random directions reach.

One component, a panel an end (writes and reads, or queries and keys). Bars to the right go with the component's sign, bars to the left
against it: what `reads +` finds makes it write `writes +`. Between the dashed lines stay the largest values of 95 % of random
directions; bars within them are words that any direction would have. Above them stands p, corrected over all sides of the result.
"""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from .panels import above, panels
from .paths import caption
from .shrink import check_budget
from .theme import CATEGORY, FAINT, INK, Theme, dress, plain, text_size

if TYPE_CHECKING:
    from interp.analyses.channels.words import ComponentWordsResult

LEVEL = 0.95
MOST = 25
"""Words on each side that have room."""
LONGEST = 16


def plot(
    result: "ComponentWordsResult",
    *,
    component: str | None = None,
    n: int = 10,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw the `n` most extreme words on each side of one component, the first by default. Raises `BadInput`."""
    names = [str(name) for name in result.data["component"].values]
    if component is not None:
        one_of("component", component, names)
    if not 1 <= n <= MOST:
        raise BadInput(f"`n` must be from 1 to {MOST} words a side; not {n}.")
    name = component or names[0]
    here, table = result.data.sel(component=name), result.table()
    ends = [str(end) for end in here["end"].values]
    figure = panels(ends, notes=[_told(table, name, end) for end in ends], theme=theme, gap=0.2)
    count = min(n, here.sizes["rank"])
    for column, end in enumerate(ends, start=1):
        _end(figure, here, end, count, column, theme)
    figure.update_yaxes(ticks="", showgrid=False, showline=False, tickfont={"size": text_size(theme, small=True)})
    tall = 2 * count + 1
    gap = float(here["gap_after"])
    title = f"Component {name} in words (singular value {float(here['singular']):.3g}, {gap:.2f} times the next)"
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=min(0.24 + 0.028 * tall, 1.1), height=170 + 17 * tall,
        margin=above(theme) | {"l": 110 if theme == "screen" else 78},
    )  # fmt: skip
    caption(figure, f"dashed: {LEVEL:.0%} of random directions".replace("%", " %"), theme)
    return check_budget(figure)


def _end(figure: go.Figure, here: object, end: str, count: int, column: int, theme: Theme) -> None:
    """Words of one end: those along the sign above, strongest first; those against it below, strongest last."""
    data = here.isel(side=here["side_end"].values == end)  # type: ignore[attr-defined,index]
    rows: list[tuple[str, float]] = []
    for side in sorted(
        data["side"].values.tolist(), key=lambda side: str(data["side_sign"].sel(side=side).values) != "+"
    ):
        part = data.sel(side=side).isel(rank=slice(count))
        found = list(zip(part["token"].values.tolist(), part["value"].values.tolist(), strict=True))
        rows += found if str(part["side_sign"].values) == "+" else found[::-1]
    values = np.array([value for _, value in rows], dtype=np.float32)
    bound = float(np.quantile(data["null"].sel(end=end).values, LEVEL))
    inks = [CATEGORY[1] if value > 0 else CATEGORY[0] for value in values]
    pale = [1.0 if abs(value) > bound else 0.45 for value in values]
    y = list(range(len(rows)))
    figure.add_trace(
        go.Bar(
            x=values, y=y, orientation="h", marker={"color": inks, "opacity": pale}, showlegend=False, name=end,
            customdata=[plain(word) for word, _ in rows], hovertemplate="%{customdata}: %{x:.3g}<extra></extra>",
        ),
        row=1, col=column,
    )  # fmt: skip
    shown = [word if len(word) <= LONGEST else word[: LONGEST - 1] + "…" for word, _ in rows]
    figure.update_yaxes(
        tickvals=y, ticktext=[plain(word) for word in shown], range=[len(rows) - 0.4, -0.6], row=1, col=column
    )
    unit = "logits of a write of length 1" if end == "writes" else "of the token alone in the stream"
    figure.update_xaxes(
        title_text=unit, zeroline=True, zerolinecolor=INK, zerolinewidth=0.8, nticks=6, row=1, col=column
    )
    number = "" if column == 1 else str(column)
    for at in (-bound, bound):
        figure.add_shape(
            type="line", xref=f"x{number}", yref=f"y{number} domain", x0=at, x1=at, y0=0, y1=1, name="null",
            line={"color": FAINT, "width": 1, "dash": "4px,3px"},
        )  # fmt: skip


def _told(table: object, name: str, end: str) -> str:
    """p of both sides of an end."""
    rows = table[(table["component"] == name) & table["side"].str.startswith(end)]  # type: ignore[index]
    said = [f"{row['side'].rpartition(' ')[2]} p {row['p']:.2g}" for row in rows.to_dict("records")]
    return ", ".join(said)
