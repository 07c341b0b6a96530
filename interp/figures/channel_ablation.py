"""Components taken out one by one: what each of them did for the reader, or for the answer.

A panel a writer, a point a component with its 95 % interval over prompts: the drop of the readout where it was removed. The one that
composes most with the reader is named and orange. The band is the range of random directions of the head's write space; the dashed
line is the drop where the whole head is removed. `by="joint"` shows heads and sets of components removed or kept, also over all writers.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from .marks import whiskers
from .panels import above, panels
from .paths import caption
from .shrink import check_budget
from .theme import CATEGORY, FAINT, INK, THEMES, Theme, dress, plain, text_size, translucent

if TYPE_CHECKING:
    from interp.analyses.channels.ablation.result import ComponentAblationResult

MOST_WRITERS = 4
STRIP = 0.14
"""Height of the strip for names, as a share of what is drawn below it."""
UNITS = {"prob": "P(answer)", "logprob": "log P(answer), nats", "logit_diff": "logit difference", "rank": "rank"}
JOINT = {
    ("zero", -1): "strongest of each removed", ("keep", -1): "only strongest of each", ("keep", 0): "only component 0 of each",
    ("head", -1): "all heads removed",
}  # fmt: skip


def plot(
    result: "ComponentAblationResult",
    *,
    by: Literal["components", "joint"] = "components",
    of: str = "score",
    writer: str | None = None,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw drops of the readout ('score') or of a metric of the answer; `writer` keeps to one head. Raises `BadInput`."""
    one_of("by", by, ("components", "joint"))
    one_of("of", of, ("score", *UNITS))
    one_of("theme", theme, THEMES)
    if writer is not None:
        one_of("writer", writer, result.writers)
    writers = [writer] if writer else result.writers
    if by == "joint":
        return _joint(result, of, writers, theme, venue)
    if len(writers) > MOST_WRITERS:
        raise BadInput(
            f"{len(writers)} writers do not fit side by side. Choose one with writer= ({', '.join(writers)})."
        )
    figure = panels([f"head {name}" for name in writers], theme=theme, shared_y=True)
    table, controls = result.components(of), result.controls(of).set_index("writer")
    drop = result.drop(of).mean("prompt")
    for column, name in enumerate(writers, start=1):
        random = drop.values[(drop["writer"].values == name) & (drop["edit_kind"].values == "random")]
        _writer(figure, table[table["writer"] == name], controls.loc[name], random, column, theme)
    shown = np.isin(drop["writer"].values, writers) & np.isin(drop["edit_kind"].values, ["zero", "random", "head"])
    intervals = table.loc[table["writer"].isin(writers), ["ci_lo", "ci_hi"]].to_numpy()
    low, high = _span(np.concatenate([drop.values[shown], intervals.ravel(), [0.0]]))
    figure.update_yaxes(zeroline=True, zerolinecolor=INK, zerolinewidth=0.8, range=[low, high])
    figure.update_yaxes(title_text=f"drop of {_what(result, of)}", row=1, col=1)
    title = f"What single components do for {_what(result, of)} ({result.data.sizes['prompt']} prompts)"
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=0.48, height=400, margin=above(theme))
    caption(figure, "band: range of random directions; dashed: whole head; whiskers: 95 %", theme)
    return check_budget(figure)


def _writer(figure: go.Figure, rows: Any, control: Any, random: np.ndarray, column: int, theme: Theme) -> None:
    number = "" if column == 1 else str(column)
    if len(random):
        figure.add_shape(
            type="rect", xref=f"x{number} domain", yref=f"y{number}", x0=0, x1=1, y0=float(random.min()), y1=float(random.max()),
            fillcolor=translucent(FAINT, 0.25), line={"width": 0}, layer="below", name="random",
        )  # fmt: skip
    if np.isfinite(control["head"]):
        figure.add_shape(
            type="line", xref=f"x{number} domain", yref=f"y{number}", x0=0, x1=1, y0=float(control["head"]), y1=float(control["head"]),
            line={"color": FAINT, "width": 1, "dash": "4px,3px"}, name="whole head",
        )  # fmt: skip
    strongest = (rows["name"] == control["name"]).to_numpy()
    for marked, ink, symbol in ((False, CATEGORY[0], "circle"), (True, CATEGORY[1], "diamond")):
        part = rows[strongest == marked]
        figure.add_trace(
            go.Scatter(
                x=part["component"].to_numpy(), y=part["drop"].to_numpy(np.float32), mode="markers", showlegend=False,
                name="strongest" if marked else "components", text=[plain(name) for name in part["name"]],
                marker={"color": ink, "symbol": symbol, "size": (9 if marked else 5) if theme == "screen" else (6 if marked else 3.5)},
                error_y=whiskers(*(part[key].to_numpy(np.float32) for key in ("drop", "ci_lo", "ci_hi")), width=0)
                | {"color": ink, "thickness": 0.8},
                customdata=part[["composition", "p_adjusted"]].to_numpy(np.float32),
                hovertemplate="%{text}: %{y:.4f}<br>composition %{customdata[0]:.3f}<br>p %{customdata[1]:.3g} (Holm)<extra></extra>",
            ),
            row=1, col=column,
        )  # fmt: skip
    best = int(rows[strongest].iloc[0]["component"])
    others = f" (p {control['others_p']:.2g} of {int(control['n_others'])})" if control["n_others"] else ""
    figure.add_annotation(  # in the strip above everything that is drawn
        text=f"{plain(control['name'])}{others}", x=best, y=1, xref=f"x{number}", yref=f"y{number} domain", showarrow=False, yanchor="top",
        xanchor="left" if best < float(rows["component"].max()) / 2 else "right", borderpad=0, name="strongest",
        font={"size": text_size(theme, small=True), "color": CATEGORY[1]},
    )  # fmt: skip
    figure.update_xaxes(
        title_text="component removed", range=[-1, float(rows["component"].max()) + 1], row=1, col=column
    )


def _span(values: np.ndarray) -> tuple[float, float]:
    """The y axis over everything that is drawn, with a strip above it in which a name can stand."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = (high - low) or 1.0
    return low - 0.04 * room, high + STRIP * room


def _joint(result: Any, of: str, writers: list[str], theme: Theme, venue: str) -> go.Figure:
    frame = result.drops(of=of)
    rows = [(_said(row, result), row) for row in frame.to_dict("records") if row["writer"] in ("all", *writers)]
    rows = [(label, row) for label, row in rows if label]
    figure = panels([f"drop of {_what(result, of)}"], theme=theme)
    y = list(range(len(rows)))[::-1]
    mean, low, high = (np.array([row[key] for _, row in rows], dtype=np.float32) for key in ("drop", "ci_lo", "ci_hi"))
    figure.add_trace(
        go.Bar(
            x=mean, y=y, orientation="h", showlegend=False, name="drop", error_x=whiskers(mean, low, high),
            marker={"color": [CATEGORY[2] if row["writer"] == "all" else CATEGORY[0] for _, row in rows]},
            customdata=np.array([[row["after"], row["p_adjusted"]] for _, row in rows], dtype=np.float32).reshape(-1, 2),
            hovertemplate="%{x:.4f}, then %{customdata[0]:.4f}<br>p %{customdata[1]:.3g} (Holm)<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=y, ticktext=[plain(label) for label, _ in rows], ticks="", showgrid=False, range=[-0.6, len(y) - 0.4]
    )
    figure.update_xaxes(zeroline=True, zerolinecolor=INK, title_text=_what(result, of))
    title = f"Heads and sets of components taken out ({result.data.sizes['prompt']} prompts)"
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=0.24 + 0.03 * len(y), height=170 + 20 * len(y), margin=above(theme)
    )  # fmt: skip
    caption(figure, "whiskers: 95 % over prompts", theme)
    return check_budget(figure)


def _said(row: dict[str, Any], result: Any) -> str:
    """What a row of `drops` removed or kept; empty for single components, which have their own picture, and for scalings."""
    kind, component, writer = row["edit_kind"], int(row["component"]), row["writer"]
    if writer == "all":
        return JOINT.get((kind, component), "")
    if kind == "head":
        return f"{writer} removed"
    if kind == "keep":
        return f"only {writer}.{component}"
    return ""


def _what(result: Any, of: str) -> str:
    if of != "score":
        return UNITS[of]
    attrs = result.data.attrs
    less = f" - {attrs['minus']}" if attrs["minus"] else ""
    return f"{attrs['reader']} on {attrs['to']}{less}"
