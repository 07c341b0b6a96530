"""Where value vectors fire.

`by="distributions"`: for each vector and concept that are looked at for each other, the coefficients of the concept's texts beside those of
the others: a point a text (its largest or mean coefficient, or all tokens as a curve), held-out ones filled; the dashed line is the
threshold of the fitted half. `by="contexts"`: the sentences around a vector's strongest tokens, each token shaded by its coefficient.
`by="null"`: the held-out AUC with its interval against those of other neurons of the layer.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of
from interp.core.seed import numpy_generator

from .marks import whiskers
from .panels import above, panels, place_legend
from .paths import caption
from .sentences import EM, sentence
from .shrink import check_budget
from .theme import CATEGORY, EFFECT, FAINT, INK, THEMES, Theme, dress, plain, text_size, translucent

if TYPE_CHECKING:
    from interp.analyses.concepts.firing.result import FiringResult

MOST_PAIRS = 4
"""Panels side by side."""
MOST_ROWS = 24
"""Vectors in a column of AUCs."""
MOST_POINTS = 600
"""Points of a group that are drawn; the rest are thinned at random."""
UNITS = {
    "max": "largest coefficient of a text",
    "mean": "mean coefficient of a text",
    "token": "coefficient of a token",
}


def plot(
    result: "FiringResult",
    *,
    by: Literal["distributions", "contexts", "null"] = "distributions",
    measure: Literal["max", "mean", "token"] = "max",
    vector: str | None = None,
    n: int = 8,
    end: Literal["top", "bottom", "both"] = "both",
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw where vectors fire; `vector` keeps to one (contexts: the first by default), `n` is the number of contexts an end."""
    one_of("by", by, ("distributions", "contexts", "null"))
    one_of("theme", theme, THEMES)
    one_of("measure", measure, tuple(UNITS))
    if vector is not None:
        one_of("vector", vector, result.vectors)
    if by == "contexts":
        return _contexts(result, vector or result.vectors[0], n, end, theme, venue)
    pairs = [pair for pair in result.pairs if vector in (None, pair[0])]
    if by == "null":
        return _null(result, pairs, measure, theme, venue)
    return _distributions(result, pairs, measure, theme, venue)


def _distributions(result: Any, pairs: list[tuple[str, str]], measure: str, theme: Theme, venue: str) -> go.Figure:
    shown = pairs[:MOST_PAIRS]
    said = result.selectivity(measure)
    figure = panels([f"{vector}, {concept}" for vector, concept in shown], theme=theme, gap=0.05)
    for column, (vector, concept) in enumerate(shown, start=1):
        at = said.sel(vector=vector, concept=concept)
        scores, inside, held = _scores(result, vector, concept, measure, int(at["sign"]))
        for side, name in enumerate(("the concept's texts", "other texts")):
            mine = inside == (side == 0)
            _cloud(figure, scores[mine], held[mine], side, name, column, theme)
        cut = float(at["threshold"]) * int(at["sign"])
        number = "" if column == 1 else str(column)
        figure.add_shape(
            type="line", xref=f"x{number} domain", yref=f"y{number}", x0=0, x1=1, y0=cut, y1=cut,
            line={"color": FAINT, "width": 1, "dash": "4px,3px"}, layer="below",
        )  # fmt: skip
        figure.update_xaxes(
            tickvals=[0, 1], ticktext=["concept", "others"], range=[-0.6, 1.6], showgrid=False,
            title_text=f"AUC {float(at['auc']):.2f}", row=1, col=column,
        )  # fmt: skip
    figure.update_yaxes(title_text=UNITS[measure], row=1, col=1)
    left = len(pairs) - len(shown)
    title = f"Where value vectors fire: {result.data.sizes['text']} texts" + (
        f" (first {MOST_PAIRS} of {len(pairs)})" if left else ""
    )
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=0.48, height=420, margin=above(theme))
    how = "filled: held out; open: sign and threshold were chosen on these; dashed: threshold; bars: medians"
    caption(figure, how + (f"; first {MOST_PAIRS} of {len(pairs)}" if left and theme == "paper" else ""), theme)
    figure.update_layout(showlegend=False)
    return check_budget(figure)


def _scores(
    result: Any, vector: str, concept: str, measure: str, sign: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients as they are (not turned by the sign), whether they are the concept's, and whether held out: [item] each."""
    data = result.data.sel(vector=vector)
    inside, held = data["member"].sel(concept=concept).values, data["held_out"].values
    if measure == "token":
        owner = data["token_text"].values
        return data["coefficient"].values, inside[owner], held[owner]
    name = "mean" if measure == "mean" else "largest" if sign > 0 else "smallest"
    return data[name].values, inside, held


def _cloud(
    figure: go.Figure, scores: np.ndarray, held: np.ndarray, side: int, name: str, column: int, theme: Theme
) -> None:
    """Points of one group, moved sideways at random, and the median of those held out."""
    draw = numpy_generator(0, "firing figure", name, column)
    middle = float(np.median(scores[held])) if held.any() else np.nan
    if len(scores) > MOST_POINTS:
        keep = np.sort(draw.permutation(len(scores))[:MOST_POINTS])
        scores, held = scores[keep], held[keep]
    x = side + draw.uniform(-0.3, 0.3, len(scores))
    size = 4.5 if theme == "screen" else 3
    for kept in (False, True):
        ink = CATEGORY[side]
        fill = translucent(ink, 0.75) if kept else "rgba(255,255,255,0)"
        figure.add_trace(
            go.Scatter(
                x=x[held == kept].astype(np.float32), y=scores[held == kept].astype(np.float32), mode="markers",
                name=f"{name}, {'held out' if kept else 'fitted'}",
                marker={"color": fill, "size": size, "line": {"width": 0 if kept else 0.7, "color": translucent(ink, 0.55)}},
                hovertemplate="%{y:.3f}<extra>" + name + "</extra>",
            ),
            row=1, col=column,
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=[side - 0.38, side + 0.38], y=[middle, middle], mode="lines", line={"color": INK, "width": 2}, hoverinfo="skip",
            name="median",
        ),
        row=1, col=column,
    )  # fmt: skip


def _null(result: Any, pairs: list[tuple[str, str]], measure: str, theme: Theme, venue: str) -> go.Figure:
    shown = pairs[:MOST_ROWS][::-1]
    said = result.selectivity(measure)
    figure = panels(["held-out AUC"], theme=theme)
    figure.layout.annotations = ()
    draw = numpy_generator(0, "firing null figure")
    rows = [said.sel(vector=vector, concept=concept) for vector, concept in shown]
    nulls = [result.null(vector, concept, measure) for vector, concept in shown]
    if any(map(len, nulls)):
        x = np.concatenate(nulls)
        y = np.concatenate([place + draw.uniform(-0.28, 0.28, len(null)) for place, null in enumerate(nulls)])
        figure.add_trace(
            go.Scatter(
                x=x.astype(np.float32), y=y.astype(np.float32), mode="markers",
                name="other neurons of the layer",
                marker={"color": "rgba(110,119,129,0.35)", "size": 4 if theme == "screen" else 2.6},
                hovertemplate="%{x:.3f}<extra></extra>",
            )
        )  # fmt: skip
    auc, low, high = (np.array([float(row[name]) for row in rows]) for name in ("auc", "ci_lo", "ci_hi"))
    shares = [f"{float(row['null_share']):.1%} of neurons as selective; p {float(row['p_holm']):.2g}" for row in rows]
    figure.add_trace(
        go.Scatter(
            x=auc, y=np.arange(len(rows)), mode="markers", name="the vector, 95 %", error_x=whiskers(auc, low, high, width=4),
            marker={"color": CATEGORY[1], "symbol": "diamond", "size": 9 if theme == "screen" else 6}, text=shares,
            hovertemplate="%{x:.3f}<br>%{text}<extra></extra>",
        )
    )  # fmt: skip
    figure.add_vline(x=0.5, line={"color": FAINT, "width": 1, "dash": "4px,3px"})
    figure.update_xaxes(
        title_text=f"held-out AUC, {UNITS[measure]}",
        range=[
            min([0.35, *(float(null.min()) - 0.03 for null in nulls if len(null)), *(low[np.isfinite(low)] - 0.03)]),
            1.03,
        ],
    )
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=[plain(f"{vector}, {concept}") for vector, concept in shown],
        range=[-0.6, len(rows) - 0.4], showgrid=False, ticks="",
    )  # fmt: skip
    place_legend(figure, theme=theme)
    title = f"Selective for a concept beside the layer's other neurons ({len(shown)} of {len(pairs)})"
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=0.22 + 0.06 * len(rows), height=190 + 44 * len(rows),
        margin=above(theme, legend_rows=1),
    )  # fmt: skip
    caption(figure, "signs chosen on the other half of the texts, for every neuron", theme)
    return check_budget(figure)


def _contexts(result: Any, vector: str, n: int, end: str, theme: Theme, venue: str) -> go.Figure:
    """Rows of running text, a rectangle behind each token."""
    one_of("end", end, ("top", "bottom", "both"))
    if n < 1:
        raise BadInput(f"`n` must be at least 1; not {n}.")
    ends = ("top", "bottom") if end == "both" else (end,)
    size = text_size(theme, small=theme == "paper")
    page = 780 if theme == "screen" else 5.5 * 96 - 100
    width = max(4, int(page / (size * EM * 11)))  # tokens on either side, of about five characters
    rows: list[tuple[str, dict[str, Any]]] = []
    for one in ends:
        rows += [(one, row) for row in result.contexts(vector, n, end=one, window=width).to_dict("records")]
    limit = float(np.abs(result.data["coefficient"].sel(vector=vector)).max()) or 1.0
    figure = go.Figure()
    unit = size * EM
    for place, (one, row) in enumerate(rows):
        y = -place - (0.7 if one == "bottom" and end == "both" else 0.0)
        labels, values, at = result.window_of(vector, int(row["place"]), width)
        sentence(figure, labels, values, at, y, limit=limit, size=size, page=page)
        figure.add_annotation(
            text=f"{row['coefficient']:.2f}", x=-unit, y=y, xanchor="right", showarrow=False, borderpad=0,
            font={"size": size, "color": FAINT}, name="coefficient",
        )  # fmt: skip
    bottom = -len(rows) + 0.4 - (0.7 if end == "both" else 0.0)
    figure.update_xaxes(visible=False, range=[-7 * unit, page], fixedrange=True)
    figure.update_yaxes(visible=False, range=[bottom, 0.6])
    figure.add_trace(
        go.Scatter(
            x=[None], y=[None], mode="markers", showlegend=False, hoverinfo="skip",
            marker={
                "color": [0.0], "colorscale": EFFECT, "cmin": -limit, "cmax": limit, "showscale": True,
                "colorbar": {
                    "title": {"text": "coefficient", "side": "right", "font": {"size": size}}, "thickness": 8, "len": 0.9,
                    "outlinewidth": 0,
                },
            },
        )
    )  # fmt: skip
    names = ", ".join(concept for one, concept in result.pairs if one == vector)
    words = {"top": "fires most", "bottom": "fires least", "both": "fires most, and least"}
    title = f"Where {vector} ({names}) {words[end]}"
    high = 19 if theme == "screen" else 14
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=(high * (len(rows) + 1) + 60) / (5.5 * 96),
        height=130 + high * (len(rows) + 2), margin={"l": 16 if theme == "screen" else 4, "b": 34 if theme == "screen" else 22},
    )  # fmt: skip
    return check_budget(figure)
