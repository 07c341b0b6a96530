"""A channel patched between two prompts: how much of the answer goes with it, beside what else might have been exchanged.

Three panels: the fraction of the logit difference destroyed (1 removes it, more turns it round), how often the answer becomes the other
prompt's (best of all tokens; open: the better of the two), and the change of the reader's attention. Points are means with 95 % intervals
over pairs; the controls, below the line, are means over their draws, with a stroke to the best draw.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from .marks import whiskers
from .panels import above, panels
from .paths import caption
from .shrink import check_budget
from .theme import CATEGORY, FAINT, THEMES, Theme, dress, plain

if TYPE_CHECKING:
    from interp.analyses.channels.steering.patch_result import ChannelPatchingResult

NAMES = {
    "channel": "channel", "head": "whole heads", "stream": "whole stream", "row": "what the reader sees", "span": "in its span",
    "null": "what it does not see", "same_head": "same head's others", "random": "random directions",
}  # fmt: skip


def plot(
    result: "ChannelPatchingResult", *, direction: str | None = None, theme: Theme = "screen", venue: str = "neurips"
) -> go.Figure:
    """Draw one direction ('noise' or 'denoise', the first there is by default). Raises `BadInput`."""
    one_of("theme", theme, THEMES)
    ways = [str(name) for name in result.data["direction"].values]
    if direction is not None:
        one_of("direction", direction, ways)
    way, known = direction or ways[0], result.n_known > 0
    variants = [str(name) for name in result.data["variant"].values if str(name) != "none"]
    controls = [str(name) for name in result.data["control"].values]
    rows = [*variants, *controls]
    y = {name: float(len(rows) - 1 - place) - (0.4 if name in controls else 0.0) for place, name in enumerate(rows)}
    figure = panels(["logit difference destroyed", "answer changed", "reader's attention"], theme=theme, shared_y=True)
    how: dict[str, Any] = {"direction": way, "known": known}
    tables = [
        (1, result.fldd(**how, drop=True), "circle", CATEGORY[0]), (2, result.interchange("all", **how), "circle", CATEGORY[0]),
        (2, result.interchange("two", **how), "circle-open", CATEGORY[5]), (3, result.readout(**how), "circle", CATEGORY[0]),
    ]  # fmt: skip
    for column, table, symbol, ink in tables:
        _means(figure, table.sel(variant=variants), [y[name] for name in variants], column, symbol, ink, theme)
    for column, measure, among in ((1, "fldd", "all"), (2, "interchange", "all"), (3, "readout", "all")):
        _controls(figure, result, measure, among, way, known, y, column, theme)
    floor = float(result.interchange("all", **how)["mean"].sel(variant="none"))
    for column, at in ((1, 1.0), (2, floor)):
        number = "" if column == 1 else str(column)
        figure.add_shape(
            type="line", xref=f"x{number}", yref=f"y{number} domain", x0=at, x1=at, y0=0, y1=1, name="reference",
            line={"color": FAINT, "width": 1, "dash": "2px,2px"},
        )  # fmt: skip
    if controls:
        between = (y[variants[-1]] + y[controls[0]]) / 2
        for number in ("", "2", "3"):
            figure.add_shape(
                type="line", xref=f"x{number} domain", yref=f"y{number}", x0=0, x1=1, y0=between, y1=between, name="rule",
                line={"color": "#c9ced4", "width": 0.8},
            )  # fmt: skip
    figure.update_yaxes(
        tickvals=list(y.values()), ticktext=[NAMES.get(name, plain(name)) for name in rows], ticks="", showgrid=False,
        range=[min(y.values()) - 0.6, len(rows) - 0.4],
    )  # fmt: skip
    figure.update_xaxes(zeroline=True, zerolinecolor=FAINT, zerolinewidth=0.8, nticks=5)
    attrs = result.data.attrs
    less = f" - {attrs['minus']}" if attrs["minus"] else ""
    for column, text in ((1, "fraction"), (2, "share of pairs"), (3, f"change of {attrs['to']}{less}")):
        figure.update_xaxes(title_text=text, row=1, col=column)
    count = (
        f"{result.n_known} known pairs of {result.data.sizes['pair']}"
        if known
        else f"{result.data.sizes['pair']} pairs, none known"
    )
    names = ", ".join(str(name) for name in result.data["component"].values)
    title = f"{names} patched, {'corrupted into clean' if way == 'noise' else 'clean into corrupted'} ({count})"
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=0.26 + 0.028 * len(rows), height=210 + 24 * len(rows),
        margin=above(theme),
    )  # fmt: skip
    caption(
        figure, f"{attrs['site']} at {attrs['position']}; 95 % over pairs; filled: all tokens, open: the two", theme
    )
    return check_budget(figure)


def _means(figure: go.Figure, table: Any, y: list[float], column: int, symbol: str, ink: str, theme: Theme) -> None:
    mean, low, high = (table[name].values.astype(np.float32) for name in ("mean", "ci_lo", "ci_hi"))
    figure.add_trace(
        go.Scatter(
            x=mean, y=[at - (0.2 if symbol.endswith("open") else 0.0) for at in y], mode="markers", showlegend=False, name="variants",
            marker={"color": ink, "symbol": symbol, "size": 8 if theme == "screen" else 6, "line": {"width": 1.2}},
            error_x=whiskers(mean, low, high, width=0), hovertemplate="%{x:.3f}<extra></extra>",
        ),
        row=1, col=column,
    )  # fmt: skip


def _controls(
    figure: go.Figure,
    result: Any,
    measure: str,
    among: str,
    way: str,
    known: bool,
    y: dict[str, float],
    column: int,
    theme: Theme,
) -> None:
    """Mean of a control's draws, and a stroke to its best one."""
    if not result.data.sizes.get("draw", 0):
        return
    try:
        frame = result.controls(measure, among=among, known=known, drop=True)
    except BadInput:  # no control could be drawn in this model
        return
    rows = frame[frame["direction"] == way].to_dict("records")
    for row in rows:
        at, drawn = y[row["control"]], [float(row["control_mean"]), float(row["control_best"])]
        figure.add_trace(
            go.Scatter(
                x=drawn, y=[at, at], mode="lines+markers", showlegend=False, name="controls", line={"color": CATEGORY[6], "width": 1},
                marker={"color": CATEGORY[6], "symbol": ["diamond", "line-ns-open"], "size": 7 if theme == "screen" else 5},
                hovertemplate=f"%{{x:.3f}}<br>{row['draws']} draws; as good as the channel: p {row['p_rank']:.2g}<extra></extra>",
            ),
            row=1, col=column,
        )  # fmt: skip
