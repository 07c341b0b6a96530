"""Able to talk, and talking: a point a channel, how well its reader could read it against how much it does on these prompts.

On x the composition score over that of a random direction, from the weights; on y the size of what the channel says to its reader over all
that the reader hears, on average over prompts. Grey points are the other components of the same heads. Those at the ends are named. Below
the dashed line a channel is silent. `by="sources"` is one reader and everything it hears, heads, MLPs and embeddings, with intervals.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import one_of

from .marks import whiskers
from .panels import above, panels, place_legend
from .paths import caption
from .shrink import check_budget
from .theme import CATEGORY, FAINT, INK, SYMBOLS, THEMES, Theme, dress, plain, text_size

if TYPE_CHECKING:
    from interp.analyses.channels.use.result import ChannelUseResult

SILENT = 0.01
NAMED = 4
"""Channels that are named at the end of each axis."""
WORDS = {"Q": "read as query", "K": "read as key", "V": "read as value"}
SOURCES = ("embed", "head", "attn", "mlp", "bias")


def plot(
    result: "ChannelUseResult",
    *,
    by: Literal["able", "sources"] = "able",
    link: str | None = None,
    n: int = 14,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw channels, able against used, or the `n` largest sources of one `link` ("Q 9.9"; the first by default)."""
    one_of("by", by, ("able", "sources"))
    one_of("theme", theme, THEMES)
    if by == "sources":
        return _sources(result, link, n, theme, venue)
    return _able(result, theme, venue)


def _able(result: Any, theme: Theme, venue: str) -> go.Figure:
    mine, every = result.table(), result.table(chosen=False)
    beside = every[~every["channel"].isin(mine["channel"])]
    used = every["part"].to_numpy()
    positive = used[np.isfinite(used) & (used > 0)]
    floor = float(positive.min()) / 2 if len(positive) else SILENT / 10  # where zeros are drawn, on a logarithmic axis
    figure = panels(["channels"], theme=theme)
    figure.layout.annotations = ()
    if len(beside):
        _points(figure, beside, "other components of these heads", floor, ink="#b8bec5", symbol="circle", size=3.5)
    kinds = [str(name).split(" ")[1] for name in mine["channel"]]
    for index, kind in enumerate(dict.fromkeys(sorted(kinds))):
        part = mine[[one == kind for one in kinds]]
        word = WORDS.get(kind.partition("@")[0], kind)
        _points(
            figure, part, word, floor, ink=CATEGORY[index], symbol=SYMBOLS[index], size=8 if theme == "screen" else 6
        )
    top = max(float(positive.max(initial=SILENT)), SILENT)
    bounds = float(np.log10(floor * 0.7)), float(np.log10(top)) + 0.2
    _names(figure, mine, every, bounds, theme)
    figure.add_hline(y=SILENT, line={"color": FAINT, "width": 1, "dash": "4px,3px"})
    figure.add_vline(x=1.0, line={"color": FAINT, "width": 1, "dash": "1.5px,3px"})
    figure.update_xaxes(title_text="able: score / random")
    figure.update_yaxes(title_text="does: share of what the reader hears", type="log", range=list(bounds), dtick=1)
    place_legend(figure, theme=theme)
    rho = result.correlation()
    title = f"Able to talk and talking: {len(mine)} channels, {result.data.sizes['prompt']} prompts"
    dress(
        figure,
        result,
        theme=theme,
        title=title,
        venue=venue,
        aspect=0.6,
        height=460,
        margin=above(theme, legend_rows=1),
    )
    said = f"rank correlation {rho['rho']:.2f} ({rho['ci_lo']:.2f} … {rho['ci_hi']:.2f}); dashed: {SILENT:.0%}".replace(
        "%", " %"
    )
    caption(figure, said + ("; zeros at the bottom" if (used == 0).any() else ""), theme)
    return check_budget(figure)


def _points(figure: go.Figure, frame: Any, name: str, floor: float, *, ink: str, symbol: str, size: float) -> None:
    used = np.nan_to_num(frame["part"].to_numpy(), nan=np.nan)
    figure.add_trace(
        go.Scatter(
            x=frame["over_null"].to_numpy(np.float32), y=np.maximum(used, floor).astype(np.float32), mode="markers", name=name,
            marker={"color": ink, "symbol": symbol, "size": size, "line": {"width": 0}},
            customdata=np.stack([used, frame["share"], frame["ci_lo"], frame["ci_hi"]], -1).astype(np.float32),
            text=[plain(channel) for channel in frame["channel"]],
            hovertemplate="%{text}<br>able %{x:.2f} × random<br>does %{customdata[0]:.4f}<br>share of variance %{customdata[1]:.4f}, "
            "95 % %{customdata[2]:.4f} … %{customdata[3]:.4f}<extra></extra>",
        )
    )  # fmt: skip


def _names(figure: go.Figure, mine: Any, every: Any, bounds: tuple[float, float], theme: Theme) -> None:
    """Names of the channels at the ends of both axes, and of components beside them that are used more; moved apart where they would meet.

    `bounds` are the ends of the logarithmic axis.
    """
    known, all_ = (frame[np.isfinite(frame["over_null"]) & np.isfinite(frame["part"])] for frame in (mine, every))
    rows = [*known.nlargest(NAMED, "part").to_dict("records"), *known.nlargest(NAMED, "over_null").to_dict("records")]
    rows += [row for row in all_.nlargest(2, "part").to_dict("records")]
    rows = list({row["channel"]: row for row in rows}.values())
    left, wide = float(all_["over_null"].min()), float(np.ptp(all_["over_null"])) or 1.0
    room = 300 if theme == "screen" else 220  # pixels between the ends of the axes, about
    placed: list[tuple[float, float]] = []
    for row in sorted(rows, key=lambda row: -row["part"]):
        x, y = float(row["over_null"]), float(np.log10(max(row["part"], 10 ** bounds[0])))
        at = (x - left) / wide, (y - bounds[0]) / (bounds[1] - bounds[0])
        shifts = (13, -13, 26, -26, 39, -39, 52, -52)
        shift = next((one for one in shifts if _free(placed, at[0], at[1] + one / room)), shifts[0])
        placed.append((at[0], at[1] + shift / room))
        figure.add_annotation(
            text=plain(row["channel"]), x=x, y=y, ax=0, ay=-shift, showarrow=True, arrowhead=0, arrowwidth=0.6, arrowcolor=FAINT,
            borderpad=0, font={"size": text_size(theme, small=True) - 1, "color": INK}, name="named",
        )  # fmt: skip


def _free(placed: list[tuple[float, float]], x: float, y: float) -> bool:
    return all(abs(x - other) > 0.16 or abs(y - height) > 0.042 for other, height in placed)


def _sources(result: Any, link: str | None, n: int, theme: Theme, venue: str) -> go.Figure:
    links = [str(name) for name in result.data["link"].values]
    if link is not None:
        one_of("link", link, links)
    name = link or links[0]
    every = result.sources(name)
    frame = every.head(n).iloc[::-1]
    figure = panels([f"heard by {name}"], theme=theme)
    y = np.arange(len(frame))
    for index, kind in enumerate(SOURCES):
        here = (frame["kind"] == kind).to_numpy()
        if here.any():
            part = frame[here]
            figure.add_trace(
                go.Bar(
                    x=part["share"].to_numpy(np.float32), y=y[here], orientation="h", name=kind, marker={"color": CATEGORY[index]},
                    error_x=whiskers(*(part[key].to_numpy(np.float32) for key in ("share", "ci_lo", "ci_hi"))),
                    hovertemplate="%{x:.4f}<extra>" + kind + "</extra>",
                )
            )  # fmt: skip
    figure.update_yaxes(
        tickvals=y.tolist(),
        ticktext=[plain(source) for source in frame["source"]],
        ticks="",
        showgrid=False,
        range=[-0.6, len(y) - 0.4],
    )
    kind = name.split(" ")[0].partition("@")[0]
    figure.update_xaxes(
        title_text="share of the output's length" if kind == "V" else "share of the variance over keys",
        zeroline=True,
        zerolinecolor=INK,
    )
    place_legend(figure, theme=theme)
    count = f"{len(frame)} of {len(every)} sources" if len(frame) < len(every) else f"{len(every)} sources"
    title = f"What {name} hears: {count} ({result.data.sizes['prompt']} prompts)"
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=0.25 + 0.028 * len(y), height=170 + 19 * len(y),
        margin=above(theme, legend_rows=1),
    )  # fmt: skip
    caption(figure, "whiskers: 95 % over prompts; all shares sum to 1", theme)
    return check_budget(figure)
