"""A circuit: who is in it, who tells whom, and how much of the behaviour it carries.

Groups are columns, read from left to right towards the logits; heads are nodes. A line is a path that was measured by itself: red where it
carries what makes the answer, blue where it works against it, the wider the larger. An evaluated circuit has two more panels: what it
keeps of the model beside its floors (empty and random circuits, guessing) and its ceiling (every head at the same positions), and
completeness, the accuracy of circuit and model after the same heads were taken from both; points on the diagonal are complete.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput

from .panels import above, panels
from .paths import caption
from .shrink import check_budget
from .theme import CATEGORY, FAINT, GRID, INK, Theme, dress, plain, text_size

if TYPE_CHECKING:
    from interp.analyses.circuits import CircuitResult, DiscoveryResult

GOOD, AGAINST = "#b2182b", "#2166ac"
WIDEST = 5.0
"""Pixels of the strongest path."""
FAINTEST = 0.03
"""Paths weaker than this share of the strongest are not drawn."""


def plot(result: "DiscoveryResult | CircuitResult", *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """Draw what was found and, where it was evaluated, how good it is."""
    judged = "score" in result.data
    titles = ["circuit", "kept of the model", "completeness"] if judged else ["circuit"]
    figure = panels(titles, theme=theme)
    if judged:
        for number, domain in enumerate(((0.0, 0.42), (0.585, 0.74), (0.83, 1.0)), start=1):
            figure.update_xaxes(domain=domain, row=1, col=number)
    tallest = _graph(figure, result, theme)
    if judged:
        _bars(figure, result)  # type: ignore[arg-type]
        _complete(figure, result, theme)  # type: ignore[arg-type]
    prompts = result.data.sizes["prompt" if judged else "pair"]
    how = f"paths: {result.data.attrs['freeze']}" if "freeze" in result.data.attrs else "paths not measured"
    title = f"{len(result.circuit)} heads ({prompts} {'prompts' if judged else 'pairs'})"
    room = max(220, 30 * tallest)
    tall = 0.42 if judged else 0.4
    dress(
        figure,
        result,
        theme=theme,
        title=title,
        venue=venue,
        aspect=max(tall, tallest * 0.032),
        height=150 + room,
        margin=above(theme),
    )
    chance = result.data.attrs.get("chance", float("nan"))
    caption(figure, how + (f"; guessing is right in {chance:.2g}" if np.isfinite(chance) else ""), theme)
    return check_budget(figure)


def _graph(figure: go.Figure, result: Any, theme: Theme) -> int:
    """Nodes, paths and the names of the columns; gives the size of the largest group."""
    groups = list(reversed(result.circuit.groups))
    tallest = max([1, *(len(group.heads) for group in groups)])
    place: dict[str, tuple[float, float]] = {"logits": (float(len(groups)), 0.0)}
    for column, group in enumerate(groups):
        for row, (layer, head) in enumerate(group.heads):
            place[f"{group.name}:{layer}.{head}"] = (float(column), row - (len(group.heads) - 1) / 2)
    _paths(figure, result, place)
    x, y, text = zip(*((*at, name.rpartition(":")[2]) for name, at in place.items()), strict=True)
    size = 22 if theme == "screen" else 15
    figure.add_trace(
        go.Scatter(
            x=x, y=y, mode="markers+text", text=[plain(word) for word in text], textfont={"size": text_size(theme, small=True) - 1.5},
            marker={"size": [size if word != "logits" else size * 1.6 for word in text], "color": "white", "opacity": 1.0,
                    "line": {"color": INK, "width": 1}},
            hovertext=list(place), hoverinfo="text", showlegend=False, name="heads",
        ),
        row=1, col=1,
    )  # fmt: skip
    for column in (column for column, group in enumerate(groups) if not group.heads):
        figure.add_annotation(
            text="none", showarrow=False, xref="x", yref="y", x=column, y=0, font={"size": text_size(theme, small=True), "color": FAINT},
            name="none found",
        )  # fmt: skip
    names = [f"{plain(group.name)}<br><span style='color:{FAINT}'>{plain(group.at)}</span>" for group in groups]
    half = max(tallest / 2, 1.0) + 0.2
    figure.update_xaxes(
        tickvals=list(range(len(groups))), ticktext=names, range=[-0.45, len(groups) + 0.4], showgrid=False, showline=False, ticks="",
        row=1, col=1,
    )  # fmt: skip
    figure.update_yaxes(visible=False, range=[-half, half], row=1, col=1)
    return tallest


def _paths(figure: go.Figure, result: Any, place: dict[str, tuple[float, float]]) -> None:
    table = result.edges()
    if not len(table):
        return
    strongest = float(table["effect"].abs().max())
    order = table["effect"].abs().sort_values().index
    listeners = [str(word) for word in result.data["listeners"].values]
    for index in order:
        edge = table.loc[index]
        if not abs(edge.effect) > FAINTEST * strongest:
            continue
        source = edge.source.replace(" ", ":")
        for target in listeners[index].split() or ["logits"]:
            (x0, y0), (x1, y1) = place[source], place[target]
            figure.add_trace(
                go.Scatter(
                    x=[x0, x1], y=[y0, y1], mode="lines", showlegend=False, opacity=0.75, name=f"{edge.source} to {edge.target}",
                    line={"color": GOOD if edge.effect > 0 else AGAINST, "width": max(0.6, WIDEST * abs(edge.effect) / strongest)},
                    hoverinfo="skip",
                ),
                row=1, col=1,
            )  # fmt: skip
            figure.add_trace(
                go.Scatter(
                    x=[(x0 + x1) / 2], y=[(y0 + y1) / 2], mode="markers", marker={"size": 10, "opacity": 0}, showlegend=False,
                    hovertemplate=f"{plain(edge.source)} to {plain(edge.target)}<br>{edge.effect:.3f}<br>95 % {edge.ci_lo:.3f} … "
                    f"{edge.ci_hi:.3f}<extra></extra>",
                ),
                row=1, col=1,
            )  # fmt: skip


def _bars(figure: go.Figure, result: "CircuitResult") -> None:
    """Shares of the model's accuracy and logit difference: the circuit, between floors and ceiling."""
    rows = ["all heads there", "circuit", "minimal", "random", "empty"]
    named_bars: list[str] = []
    for number, (measure, label) in enumerate((("accuracy", "accuracy"), ("logit_diff", "logit diff."))):
        try:
            f = result.faithfulness(measure)
        except BadInput:
            continue
        keys = {
            "all heads there": "open",
            "circuit": "value",
            "minimal": "minimal",
            "random": "random",
            "empty": "empty",
        }
        named = [row for row in rows if keys[row] in f]
        values = [f[keys[row]] for row in named]
        reach = [
            max(0.0, f["random_max"] - f["random"])
            if row == "random"
            else max(0.0, f["ci_hi"] - f["value"])
            if row == "circuit"
            else 0.0
            for row in named
        ]
        back = [max(0.0, f["value"] - f["ci_lo"]) if row == "circuit" else 0.0 for row in named]
        y = [len(rows) - 1 - rows.index(row) + (0.18 if number == 0 else -0.18) for row in named]
        figure.add_trace(
            go.Bar(
                x=np.asarray(values, dtype=np.float32), y=y, orientation="h", width=0.34, marker_color=CATEGORY[number], name=label,
                error_x={"type": "data", "array": reach, "arrayminus": back, "symmetric": False, "thickness": 1, "width": 2, "color": INK},
                hovertemplate="%{x:.3f}<extra>" + label + "</extra>", showlegend=False,
            ),
            row=1, col=2,
        )  # fmt: skip
        named_bars.append(f"<span style='color:{CATEGORY[number]}'>■</span> {label}")
    figure.update_xaxes(zeroline=True, zerolinecolor=FAINT, nticks=4, title_text=" ".join(named_bars), row=1, col=2)
    figure.update_yaxes(
        tickvals=[4, 3, 2, 1, 0], ticktext=rows, range=[-0.6, 4.6], ticks="", showgrid=False, row=1, col=2
    )
    if named_bars:
        figure.add_shape(
            type="line",
            xref="x2",
            yref="y2 domain",
            x0=1,
            x1=1,
            y0=0,
            y1=1,
            line={"color": FAINT, "width": 1, "dash": "2px,2px"},
        )


def _complete(figure: go.Figure, result: "CircuitResult", theme: Theme) -> None:
    table = result.completeness()
    figure.add_shape(
        type="line", xref="x3", yref="y3", x0=0, x1=1, y0=0, y1=1, line={"color": FAINT, "width": 1, "dash": "2px,2px"}
    )
    empty = result.accuracy("empty")
    figure.add_shape(
        type="line", xref="x3", yref="y3", x0=0, x1=1, y0=empty, y1=empty, line={"color": GRID, "width": 1.5}
    )
    figure.add_annotation(
        text="empty", showarrow=False, xref="x3", yref="y3", x=1, y=empty, xanchor="right", yanchor="bottom",
        font={"size": text_size(theme, small=True) - 1, "color": FAINT}, name="floor",
    )  # fmt: skip
    for number, (kind, symbol) in enumerate((("half", "circle"), ("group", "diamond"))):
        part = table[table["kind"] == kind]
        figure.add_trace(
            go.Scatter(
                x=part["model"].to_numpy(np.float32), y=part["circuit"].to_numpy(np.float32), mode="markers",
                marker={"symbol": symbol, "color": CATEGORY[number], "size": 7 if theme == "screen" else 5, "opacity": 0.8},
                text=[plain(name) for name in part["draw"]], name=kind, showlegend=False,
                hovertemplate="without %{text}<br>model %{x:.3f}, circuit %{y:.3f}<extra></extra>",
            ),
            row=1, col=3,
        )  # fmt: skip
    for number, word in enumerate(("● halves", "◆ groups")):
        figure.add_annotation(
            text=f"<span style='color:{CATEGORY[number]}'>{word[0]}</span>{word[1:]}", showarrow=False, xref="x3 domain", yref="y3 domain",
            x=0.03, y=0.98 - 0.1 * number, xanchor="left", yanchor="top", font={"size": text_size(theme, small=True)}, name="legend",
        )  # fmt: skip
    figure.update_xaxes(title_text="model without", range=[-0.06, 1.06], nticks=3, row=1, col=3)
    figure.update_yaxes(title_text="circuit without", range=[-0.06, 1.06], nticks=3, row=1, col=3)
