"""Unlearning methods side by side: traces against answers, recovery under relearning, and other ways of asking.

a  What is left of the concept's value vectors (a measure of traces, such as the Jaccard overlap of the tokens they promote) against the
   share of its questions that is still answered. An arrow goes up to what relearning brings back on questions that the relearned texts
   do not answer, from what was answered of these. Bottom left: gone inside and outside. Bottom right: the answers are gone and the
   traces are not.
b  The way there, step by step; controls are grey. A thick line is the untouched model.
c  Every way of asking, and the best of them for each question; small crosses are the best for a wrong answer (the decoy).

Marks that would hide each other are set side by side. Whiskers and bands are 95 % intervals over questions.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from .marks import MARKED, whiskers
from .panels import above, panels, place_legend
from .shrink import check_budget
from .theme import CATEGORY, DASHES, FAINT, INK, SYMBOLS, Theme, dress, plain, text_size

if TYPE_CHECKING:
    from interp.analyses.unlearning.study import UnlearningStudyResult

ORDER = (
    "needle", "gradient-ascent", "gradient-difference", "npo", "dpo", "rank-one", "dampening", "isolation",
)  # fmt: skip
"""Which style a method has, in every figure."""
GREY = {"untouched": "circle-open", "matched ablation": "square-open", "never knew": "diamond-open"}
TITLES = {"traces": "traces and answers", "relearning": "relearning, untold questions", "jailbreaks": "ways of asking"}
TRACES = {
    "jaccard": "Jaccard of top tokens", "rbo": "rank-biased overlap", "cosine": "cosine of vectors", "retention": "words retained",
    "activation_ratio": "activation, after / before", "contribution_ratio": "contribution, after / before",
}  # fmt: skip
DASHED = ("4px,2px", "8px,3px", "2px,3px", "8px,2px,2px,2px")
"""Lines of rows with options, one kind after another."""
CLOSE = 0.02


def plot(
    result: "UnlearningStudyResult",
    *,
    parts: tuple[str, ...] | None = None,
    trace: str = "jaccard",
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw a study; `parts` are the panels (`traces`, `relearning`, `jailbreaks`; all that there are), `trace` the measure of traces."""
    there = ["traces"]
    there += ["relearning"] if "relearn_top" in result.data else []
    there += ["jailbreaks"] if result.data.sizes["jailbreak"] > 1 else []
    chosen = there if parts is None else list(parts)
    for part in chosen:
        one_of("parts", part, TITLES)
        if part not in there:
            raise BadInput(f"this study has no {part!r}: it was run without. There are {', '.join(there)}.")
    if not chosen or len(set(chosen)) < len(chosen):
        raise BadInput(f"`parts` must name each panel once, at least one; not {chosen}.")
    one_of("trace", trace, TRACES)
    figure = panels([TITLES[part] for part in chosen], theme=theme, gap=0.07)
    for column, part in enumerate(chosen, start=1):
        draw = {"traces": _traces, "relearning": _relearning, "jailbreaks": _jailbreaks}[part]
        draw(figure, result, column, trace, theme)
        figure.update_yaxes(range=[-0.04, 1.06], nticks=6, row=1, col=column)
    figure.update_yaxes(title_text="questions answered", row=1, col=1)
    for style in _styles(result.methods):
        figure.add_trace(_key(style))
    place_legend(figure, theme=theme)
    rows = 1 + len(result.methods) // 4
    count = int(np.isfinite(result.data["top"].isel(jailbreak=0, unlearner=0, seed=0).values).sum())
    title = f"What unlearning leaves ({', '.join(map(str, result.data['concept'].values))}; {count} questions)"
    margin = above(theme, legend_rows=rows) | ({"b": 92 if theme == "screen" else 76} if "jailbreaks" in chosen else {})
    dress(figure, result, theme=theme, title=title, venue=venue, height=430, aspect=0.46, margin=margin)
    return check_budget(figure)


def _styles(names: Sequence[str]) -> list[dict[str, str]]:
    """Colour, symbol and dash of each row. Rows of one kind share its colour; those with options are open and dashed, no two alike."""
    found, there = [], dict[str, int]()
    others = [name for name in names if name not in GREY and name.partition(":")[0] not in ORDER]
    for name in names:
        kind, _, options = name.partition(":")
        place = ORDER.index(kind) if kind in ORDER else len(ORDER) + others.index(name) if name in others else 0
        number = there[kind] = there.get(kind, 0) + bool(options)
        found.append(_style(name, place, number if options else 0))
    return found


def _style(name: str, place: int, number: int) -> dict[str, str]:
    """Of a row whose kind is at `place`; `number`: how many of its kind have options so far, 0 if it has none."""
    if name in GREY:
        first = name == "untouched"
        dash = "solid" if first else "2px,2px"
        return {"name": name, "colour": INK if first else FAINT, "symbol": GREY[name], "dash": dash}
    symbol = SYMBOLS[(place + max(0, number - 1)) % len(SYMBOLS)] + ("-open" if number else "")
    symbol += "-dot" if place >= len(ORDER) else ""  # a method that is not ours
    dash = DASHED[(number - 1) % len(DASHED)] if number else DASHES[place % len(DASHES)]
    return {"name": name, "colour": CATEGORY[place % len(CATEGORY)], "symbol": symbol, "dash": dash}


def _key(style: dict[str, str]) -> go.Scatter:
    """The entry of the legend."""
    return go.Scatter(
        x=[None], y=[None], mode="lines+markers", name=plain(style["name"]), legendgroup=style["name"],
        line={"color": style["colour"], "dash": style["dash"]}, marker={"color": style["colour"], "symbol": style["symbol"]},
    )  # fmt: skip


def _traces(figure: go.Figure, result: "UnlearningStudyResult", column: int, trace: str, theme: Theme) -> None:
    left = result.measure(trace)["mean"].values.astype(float)
    said = result.answers("top")
    curve = result.relearning(result.group())["mean"].values if "relearn_top" in result.data else None
    styles = _styles(result.methods)
    wide = max(1.0, float(np.nanmax(left, initial=1.0)))
    places = _apart(left, said["mean"].values, wide)
    number = "" if column == 1 else str(column)
    for row, name in enumerate(result.methods):
        style, x, y = styles[row], float(places[row]), float(said["mean"].values[row])
        if not np.isfinite(x):
            continue
        low, high = (said[end].values[row : row + 1] for end in ("ci_lo", "ci_hi"))
        first, last = (np.nan, np.nan) if curve is None else curve[row, [0, -1]]
        back = "" if curve is None else f"<br>{result.group()} questions {first:.2f}, after relearning {last:.2f}"
        hover = f"{plain(name)}<br>trace {left[row]:.3f}, answered {y:.2f}{back}<extra></extra>"
        figure.add_trace(
            go.Scatter(
                x=[x], y=[y], mode="markers", showlegend=False, legendgroup=name, hovertemplate=hover,
                marker={"color": style["colour"], "symbol": style["symbol"], "size": 6 if theme == "paper" else 9},
                error_y=whiskers(np.array([y]), low, high, width=0) | {"color": style["colour"]},
            ), row=1, col=column,
        )  # fmt: skip
        if last - first > 0.03:
            figure.add_annotation(
                x=x, y=float(last), ax=x, ay=float(first), xref=f"x{number}", yref=f"y{number}", axref=f"x{number}", ayref=f"y{number}",
                showarrow=True, arrowhead=2, arrowsize=0.9, arrowwidth=1.2, arrowcolor=style["colour"], opacity=0.55, text="",
                standoff=0, startstandoff=4,
            )  # fmt: skip
    figure.update_xaxes(title_text=TRACES[trace], range=[-0.07 * wide, 1.1 * wide], nticks=6, row=1, col=column)


def _apart(x: np.ndarray, y: np.ndarray, wide: float) -> np.ndarray:
    """Places along x, with marks (and their arrows) that share one set side by side around it."""
    order = sorted(range(len(x)), key=lambda row: (round(float(np.nan_to_num(x[row])) / wide / CLOSE), -float(y[row])))
    groups: dict[int, list[int]] = {}
    for row in order:
        groups.setdefault(round(float(np.nan_to_num(x[row])) / wide / CLOSE), []).append(row)
    out = x.copy()
    for rows in groups.values():
        for place, row in enumerate(rows):
            out[row] = x[row] + (place - (len(rows) - 1) / 2) * CLOSE * wide * min(1.0, 7 / len(rows))
    return out


def _relearning(figure: go.Figure, result: "UnlearningStudyResult", column: int, trace: str, theme: Theme) -> None:
    found = result.relearning(result.group())
    steps, styles = found["step"].values.tolist(), _styles(result.methods)
    for row, name in enumerate(result.methods):
        style, mean = styles[row], found["mean"].values[row]
        low, high = found["ci_lo"].values[row], found["ci_hi"].values[row]
        wide = 2.4 if name == "untouched" else 1.2
        figure.add_trace(
            go.Scatter(
                x=steps, y=mean, mode="lines+markers" if len(steps) <= MARKED else "lines", showlegend=False, legendgroup=name,
                line={"color": style["colour"], "dash": style["dash"], "width": wide},
                marker={"color": style["colour"], "symbol": style["symbol"]},
                customdata=np.stack([low, high], axis=-1),
                hovertemplate=f"{plain(name)}<br>step %{{x}}: %{{y:.2f}} [%{{customdata[0]:.2f}}, %{{customdata[1]:.2f}}]<extra></extra>",
            ), row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(title_text="steps of relearning", row=1, col=column)


def _jailbreaks(figure: go.Figure, result: "UnlearningStudyResult", column: int, trace: str, theme: Theme) -> None:
    found, decoy = result.ways("top"), result.ways("decoy_top").sel(jailbreak="best")["mean"].values
    names = [str(name) for name in found["jailbreak"].values]
    count, styles = len(result.methods), _styles(result.methods)
    for row, name in enumerate(result.methods):
        style = styles[row]
        x = np.arange(len(names)) + 0.7 * ((row + 0.5) / count - 0.5)
        options = {"mode": "markers", "showlegend": False, "legendgroup": name}
        means = found["mean"].values[row]
        hover = [f"{plain(name)}<br>{plain(way)}: {value:.2f}" for way, value in zip(names, means, strict=True)]
        figure.add_trace(
            go.Scatter(
                x=x, y=means, text=hover, hovertemplate="%{text}<extra></extra>",
                marker={"color": style["colour"], "symbol": style["symbol"]}, **options,
            ), row=1, col=column,
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=[x[-1]], y=[decoy[row]], hovertemplate=f"{plain(name)}<br>best, wrong answer: %{{y:.2f}}<extra></extra>",
                marker={"color": style["colour"], "symbol": "x-thin", "size": 4, "line": {"color": style["colour"], "width": 1}}, **options,
            ), row=1, col=column,
        )  # fmt: skip
    small = {"size": text_size(theme, small=True)}
    figure.update_xaxes(
        tickvals=list(range(len(names))), ticktext=[plain(name) for name in names], tickangle=-40, tickfont=small,
        range=[-0.5, len(names) - 0.5], row=1, col=column,
    )  # fmt: skip
    for edge in range(len(names) - 1):
        figure.add_vline(x=edge + 0.5, line={"width": 0.5, "color": "#e7e9ec"}, row=1, col=column)
