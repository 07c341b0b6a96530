"""What damage of a concept's value vectors does.

`by="response"`: the mean effect on related and on unrelated prompts along the dose (or, `along="size"`, along the number of vectors), a
panel a concept, with 95 % intervals over prompts; the grey band is what matched vectors do to the related prompts, from the least to the
most. `by="summary"`: the damaged model's mean value (overlap with the original answers, where there are any) on both kinds of prompts,
concept by concept, with intervals; the short lines are the original model.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from .marks import band, whiskers
from .panels import above, panels, place_legend
from .paths import caption
from .shrink import check_budget
from .theme import FAINT, SYMBOLS, THEMES, Theme, dress, line_style, plain, translucent

if TYPE_CHECKING:
    from interp.analyses.concepts.validation.result import ConceptValidationResult

MOST_PANELS = 4
MOST_CONCEPTS = 40
"""Concepts that the summary can name."""
EFFECTS = {
    "prob": "fall of P(answer)", "logprob": "fall of log P(answer), nats", "accuracy": "fall of accuracy",
    "kl": "KL from the original, nats", "kl_answer": "KL along the original answer, nats", "bleu": "fall of BLEU",
    "rouge_l": "fall of ROUGE-L",
}  # fmt: skip
LEVELS = {
    "prob": "P(answer)", "logprob": "log P(answer), nats", "accuracy": "accuracy", "kl": "KL from the original, nats",
    "kl_answer": "KL along the original answer, nats", "bleu": "BLEU with the original answers",
    "rouge_l": "ROUGE-L with the original answers",
}  # fmt: skip


def plot(
    result: "ConceptValidationResult",
    *,
    by: Literal["response", "summary"] = "response",
    metric: str | None = None,
    along: Literal["auto", "dose", "size"] = "auto",
    concept: str | None = None,
    size: int | None = None,
    dose: float | None = None,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw the response (of P(answer) by default) or the summary (of BLEU, or P(answer) without generated answers).

    `along` is the dose where there are several; `size` and `dose` hold the other one. Raises `BadInput`.
    """
    one_of("by", by, ("response", "summary"))
    one_of("along", along, ("auto", "dose", "size"))
    one_of("theme", theme, THEMES)
    if metric is not None:
        one_of("metric", metric, result.metrics)
    if concept is not None:
        one_of("concept", concept, result.concepts)
    if by == "summary":
        return _summary(result, metric or ("bleu" if "bleu" in result.metrics else "prob"), size, dose, theme, venue)
    way: Literal["dose", "size"] = along if along != "auto" else "dose" if result.data.sizes["dose"] > 1 else "size"
    return _response(result, metric or "prob", way, concept, size, dose, theme, venue)


def _response(
    result: Any, metric: str, along: Any, concept: str | None, size: int | None, dose: float | None, theme: Theme, venue: str
) -> go.Figure:  # fmt: skip
    names = [concept] if concept else result.concepts
    shown = names[:MOST_PANELS]
    curves = [result.response(name, metric, along=along, size=size, dose=dose) for name in shown]
    figure = panels(shown, theme=theme, shared_y=True)
    for column, curve in enumerate(curves, start=1):
        _null(figure, curve, along, column)
        for index, kind in enumerate(("related", "unrelated")):
            at = curve.sel(kind=kind).sortby(along)
            x = _places(at[along].values, along)
            mean, low, high = (at[name].values for name in ("mean", "ci_lo", "ci_hi"))
            for trace in band(x, mean, low, high, name=f"{kind} prompts", index=index):
                trace.showlegend = bool(trace.showlegend is not False and column == 1)
                figure.add_trace(trace, row=1, col=column)
        ticks = sorted(curve[along].values.tolist())
        named = {"tickvals": _places(ticks, along), "ticktext": [f"{tick:g}" for tick in ticks]}
        figure.update_xaxes(**named, title_text=_axis(result, along), zeroline=False, row=1, col=column)
    figure.update_yaxes(zeroline=True, zerolinecolor=FAINT, zerolinewidth=0.8)
    figure.update_yaxes(title_text=EFFECTS[metric], row=1, col=1)
    place_legend(figure, theme=theme)
    few = f", first {MOST_PANELS} of {len(names)} concepts" if len(names) > MOST_PANELS else ""
    title = f"Damage of concepts' value vectors{few}"
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=0.46, height=420, margin=above(theme, legend_rows=1)
    )  # fmt: skip
    caption(figure, _how(result, along, curves, size) + (few if theme == "paper" else ""), theme)
    return check_budget(figure)


def _null(figure: go.Figure, curve: Any, along: str, column: int) -> None:
    """The band of matched vectors on related prompts; a bar where it is at one tick only."""
    at = curve.sel(kind="related").sortby(along)
    low, high = at["null_lo"].values, at["null_hi"].values
    known = np.isfinite(low)
    if not known.any():
        return
    x = np.array(_places(at[along].values, along), dtype=float)[known].tolist()
    figure.add_trace(
        go.Scatter(
            x=x + x[::-1], y=np.concatenate([high[known], low[known][::-1]]).astype(np.float32), fill="toself", mode="lines",
            line={"width": 2 if len(x) == 1 else 0, "color": translucent("#6b7280", 0.5)}, fillcolor=translucent("#6b7280", 0.22),
            hoverinfo="skip", name="matched vectors, related", legendgroup="null", showlegend=column == 1,
        ),
        row=1, col=column,
    )  # fmt: skip


def _summary(result: Any, metric: str, size: int | None, dose: float | None, theme: Theme, venue: str) -> go.Figure:
    if len(result.concepts) > MOST_CONCEPTS:
        raise BadInput(
            f"{len(result.concepts)} concepts do not fit under one axis. Draw `result.table()` as a histogram, or validate fewer."
        )
    found = result.levels(metric, size=size, dose=dose)
    figure = go.Figure()
    count = len(result.concepts)
    for index, kind in enumerate(("related", "unrelated")):
        at, x = found.sel(kind=kind), np.arange(count) + (-0.14, 0.14)[index]
        style = line_style(index)
        mean, low, high = (at[name].values for name in ("mean", "ci_lo", "ci_hi"))
        figure.add_trace(
            go.Scatter(
                x=x, y=mean.astype(np.float32), mode="markers", name=f"{kind} prompts",
                error_y=whiskers(mean, low, high) | {"color": style["color"]},
                marker={"color": style["color"], "symbol": SYMBOLS[index], "size": 8 if theme == "screen" else 5},
                customdata=at["n"].values.astype(int), hovertemplate="%{y:.4g} (%{customdata} prompts)<extra>" + plain(kind) + "</extra>",
            )
        )  # fmt: skip
        for place, before in zip(x, at["before"].values, strict=True):
            figure.add_shape(
                type="line", x0=place - 0.09, x1=place + 0.09, y0=before, y1=before,
                line={"color": style["color"], "width": 1.5},
            )  # fmt: skip
    figure.update_xaxes(
        tickvals=list(range(count)), ticktext=[plain(name) for name in result.concepts], range=[-0.5, count - 0.5], showgrid=False
    )  # fmt: skip
    figure.update_yaxes(title_text=LEVELS[metric])
    if metric in ("prob", "accuracy", "bleu", "rouge_l"):
        figure.update_yaxes(range=[-0.02, 1.04])
    place_legend(figure, theme=theme)
    title = f"{_damage(result, dose)}: prompts that ask for the concept, and others"
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=0.5, height=420, margin=above(theme, legend_rows=1)
    )  # fmt: skip
    sizes = sorted({result._size(name, size) for name in result.concepts})
    many = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    caption(figure, f"{_damage(result, dose)}, {many} a concept; bars: 95 % over prompts; lines: before damage", theme)
    return check_budget(figure)


def _places(ticks: Any, along: str) -> list[float]:
    """Where ticks stand: doses on their own scale, sizes by their logarithm."""
    return [float(tick) if along == "dose" else float(np.log2(tick)) for tick in ticks]


def _axis(result: Any, along: str) -> str:
    if along == "size":
        return "vectors"
    how = result.data.attrs["how"]
    return {"noise": "noise a coordinate", "relative-noise": "noise, of |v|"}.get(how, "factor")


def _damage(result: Any, dose: float | None) -> str:
    how, value = result.data.attrs["how"], float(result.data.attrs["main"] if dose is None else dose)
    if how == "noise":
        return f"Vectors with noise of {value:g} a coordinate"
    if how == "relative-noise":
        return f"Vectors with noise of {value:g} times their length"
    return "Vectors removed" if value == 0 else f"Vectors times {value:g}"


def _how(result: Any, along: str, curves: list[Any], size: int | None) -> str:
    if along == "dose":
        sizes = sorted({int(curve.attrs["size"]) for curve in curves})
        held = f"{sizes[0]}{'' if len(sizes) == 1 else f' to {sizes[-1]}'} vectors a concept"
    else:
        held = _damage(result, curves[0].attrs["dose"]).lower()
    most = max(int(curve["n_null"].max()) for curve in curves)
    least = min(int(curve["n_null"].min()) for curve in curves)
    null = f"; grey: {f'{least} to {most}' if most != least else most} matched sets" if most else ""
    return f"{held}; bands: 95 % over prompts{null}"
