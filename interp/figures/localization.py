"""Editing against tracing: where edits work, where tracing points, and what the one says of the other.

`by="layer"` (the default) has a panel for each editing problem: the mean score of each editor over layers with its interval over facts,
and, dashed and grey, the mean tracing effect as a share of what the noise took, which has the same axis from 0 to 1. `by="gain"` is the
regression: what the layer alone explains of the score (pale), and what tracing adds to it (dark) up to R2(both); right of it the same
addition by itself, less the gain that irrelevant effects would have by chance (dotted line: none), with its interval over facts. Filled
marks have the last layer in them, hollow ones do not.
"""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from .marks import band, line
from .panels import above, panels, place_legend, whole_ticks
from .shrink import check_budget
from .theme import CATEGORY, FAINT, INK, Theme, dress, plain, text_size, translucent

if TYPE_CHECKING:
    import pandas as pd

    from interp.analyses.localization import EditSweepResult

TITLES = {
    "error_injection": "error injection", "tracing_reversal": "tracing reversal", "fact_erasure": "fact erasure",
    "fact_amplification": "amplification", "fact_forcing": "fact forcing",
}  # fmt: skip
STYLES = {"FT-1": 0, "ROME": 1, "FT-3": 2, "FT-5": 2, "MEMIT": 3}
"""Style of each editor, in every figure."""
SCORES = {
    "rewrite": "rewrite score", "paraphrase": "paraphrase score", "neighbourhood": "neighbourhood score", "essence": "essence score",
    "harmonic": "overall score", "arithmetic": "overall score", "kept": "neighbours' answers kept",
}  # fmt: skip


def plot(
    result: "EditSweepResult",
    *,
    by: str = "layer",
    score: str = "rewrite",
    problem: str | None = None,
    permutations: int = 1,
    resamples: int = 500,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw a sweep.

    `by` is 'layer' or 'gain'; `score` one of the result's scores; `problem` one of its problems (all of them by default). `resamples` are
    those of the intervals of 'gain', which are not computed anew for 'layer'. Raises `BadInput` where nothing can be regressed.
    """
    one_of("by", by, ("layer", "gain"))
    problems = [str(name) for name in result.data["problem"].values]
    if problem is not None:
        one_of("problem", problem, problems)
        problems = [problem]
    one_of("score", score, SCORES)
    if by == "layer":
        figure, title = _layers(result, problems, score, theme), "Where edits work, and where tracing points"
        height, aspect, margin = 360, 0.36, above(theme, legend_rows=1)
    else:
        table = result.table(score=score, permutations=permutations, resamples=resamples)
        table = table[table["problem"].isin(problems)]
        if not (table["note"] == "").any():
            raise BadInput(
                f"nothing can be regressed here: {table['note'].iloc[0]} Draw by='layer', or sweep more facts."
            )
        figure, rows = _gains(table[table["note"] == ""], theme)
        title = "What tracing says about edits beyond the layer's number"
        height, margin = 170 + 22 * rows, above(theme, legend_rows=2)
        aspect = (margin["t"] + 46 + 14 * rows) / 528
    title += f" ({result.data.sizes['fact']} facts)"
    dress(figure, result, theme=theme, title=title, venue=venue, height=height, aspect=aspect, margin=margin)
    return check_budget(figure)


def _layers(result: "EditSweepResult", problems: list[str], score: str, theme: Theme) -> go.Figure:
    found = result.by_layer(score)
    layers = result.data["layer"].values.tolist()
    effect = result.data["effect"].sel(measure="fraction", how="max").mean("fact").values
    figure = panels([TITLES.get(name, name) for name in problems], theme=theme, shared_y=True)
    for column, name in enumerate(problems, start=1):
        for place, editor in enumerate(str(one) for one in result.data["editor"].values):
            at = found.sel(problem=name, editor=editor)
            if not np.isfinite(at["mean"].values).any():
                continue
            ends = (at["mean"].values, at["ci_lo"].values, at["ci_hi"].values)
            for trace in band(layers, *ends, name=editor, index=STYLES.get(editor, place)):
                trace.showlegend = bool(trace.showlegend is not False and column == 1)
                figure.add_trace(trace, row=1, col=column)
        if np.isfinite(effect).any():
            traced = line(layers, effect, name="tracing: share restored", mode="lines", showlegend=column == 1)
            traced.line.color, traced.line.dash = FAINT, "6px,3px"
            figure.add_trace(traced, row=1, col=column)
        if layers == list(range(len(layers))):
            whole_ticks(figure, "x", len(layers), column=column, most=8 if len(problems) <= 3 else 4)
        figure.update_xaxes(title_text="layer", row=1, col=column)
    shown = [values for values in (found["ci_lo"].values, found["ci_hi"].values, effect) if np.isfinite(values).any()]
    low, high = (min(0.0, *(np.nanmin(v) for v in shown)), max(1.0, *(np.nanmax(v) for v in shown)))
    figure.update_yaxes(range=[low - 0.03, high + 0.03])
    figure.update_yaxes(title_text=SCORES[score], row=1, col=1)
    place_legend(figure, theme=theme)
    return figure


def _gains(table: "pd.DataFrame", theme: Theme) -> tuple[go.Figure, int]:
    """Bars of R2 on the left, gain less chance on the right; one row a problem, editor and choice of layers."""
    names = list(dict.fromkeys(zip(table["problem"], table["editor"], strict=True)))
    many = len({problem for problem, _ in names}) > 1
    labels = [f"{TITLES.get(problem, problem)}, {editor}" if many else editor for problem, editor in names]
    figure = panels(["R² of the score", "gain of tracing beyond chance"], theme=theme, gap=0.06)
    for last in (True, False):
        part = table[table["last layer"] == last]
        if part.empty:
            continue
        where = np.array([names.index(one) for one in zip(part["problem"], part["editor"], strict=True)])
        y = where + (-0.19 if last else 0.19)
        word = "all layers" if last else "without the last"
        _bars(figure, part, y, last, word)
        middle, low, high = (part[name].to_numpy(np.float64) for name in ("gain", "gain low", "gain high"))
        mark = {"symbol": "circle", "color": INK if last else "white", "line": {"color": INK, "width": 1.2}}
        figure.add_trace(
            go.Scatter(
                x=middle.astype(np.float32), y=y, mode="markers", marker=mark, showlegend=False, name=word,
                error_x={"type": "data", "array": np.maximum(0, high - middle), "arrayminus": np.maximum(0, middle - low),
                         "symmetric": False, "thickness": 1, "width": 2, "color": INK},
                customdata=part[["diff", "null", "p by facts"]].to_numpy(np.float32),
                hovertemplate="gain %{x:.4f}<br>R² added %{customdata[0]:.4f}, by chance %{customdata[1]:.4f}<extra>" + word + "</extra>",
            ),
            row=1, col=2,
        )  # fmt: skip
    for column in (1, 2):
        figure.update_yaxes(
            tickvals=list(range(len(names))), ticktext=[plain(label) for label in labels] if column == 1 else [""] * len(names),
            range=[len(names) - 0.5, -0.5], showgrid=False, ticks="", row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(range=[0, 1.02], row=1, col=1, title_text="R²")
    figure.update_xaxes(title_text="R² added less null gain", nticks=5, row=1, col=2)
    figure.add_vline(x=0, line={"color": FAINT, "width": 1, "dash": "2px,2px"}, row=1, col=2)
    figure.update_layout(barmode="overlay")
    place_legend(figure, theme=theme)
    figure.update_layout(legend_font_size=text_size(theme, small=True))
    return figure, 2 * len(names)


def _bars(figure: go.Figure, part: "pd.DataFrame", y: np.ndarray, last: bool, word: str) -> None:
    """What the layer explains, what tracing adds to it, and where chance alone would have ended."""
    layer, both, null = (part[name].to_numpy(np.float64) for name in ("layer", "both", "null"))
    dark = CATEGORY[0] if last else CATEGORY[4]
    figure.add_trace(
        go.Bar(
            x=layer.astype(np.float32), y=y, orientation="h", width=0.34, marker={"color": translucent(dark, 0.45)},
            name=f"R²(layer), {word}", hovertemplate="R²(layer) %{x:.4f}<extra>" + word + "</extra>",
        ),
        row=1, col=1,
    )  # fmt: skip
    figure.add_trace(
        go.Bar(
            x=(both - layer).astype(np.float32), base=layer.astype(np.float32), y=y, orientation="h", width=0.34, marker={"color": dark},
            name=f"added by tracing, {word}", showlegend=last, customdata=both.astype(np.float32),
            hovertemplate="R²(both) %{customdata:.4f}<extra>" + word + "</extra>",
        ),
        row=1, col=1,
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=np.minimum(1.0, layer + null).astype(np.float32), y=y, mode="markers", name="null gain", showlegend=last,
            marker={"symbol": "line-ns", "size": 11, "line": {"color": INK, "width": 1.5}},
            hovertemplate="by chance %{x:.4f}<extra>null gain</extra>",
        ),
        row=1, col=1,
    )  # fmt: skip
