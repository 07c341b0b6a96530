"""Unlearning, evaluated: what is left in the parameters beside what is left in the answers; or the top tokens before and after.

Traces, a row a concept. Left, measures of its value vectors (filled) over the range of 95 % of the null vectors of its layer (grey band;
the bar in it is their mean): more than elsewhere happened to a trace only where its mark lies left of the band. Right, overlap with the
original answers, about the concept (filled) and about others (hollow), with intervals over prompts, and the share of gold answers before
(hollow) and after.

Tokens, a column a model: the top tokens of each value vector, best first. Words of the concept are bold and coloured, grey are those that
were not among the first thirty before, and lines join what both columns hold.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.core.errors import BadInput, one_of

from .marks import whiskers
from .panels import above, panels, place_legend
from .shrink import check_budget
from .theme import FAINT, INK, Theme, colour, dress, plain, text_size, translucent

if TYPE_CHECKING:
    from interp.analyses.concepts.traces import UnlearningResult

MOST = 40
"""Concepts that have room."""
LONGEST = 24
WIDE = 0.012
"""Width of a bold character as a share of a figure's width."""
OWN, OTHER, LEVELS, CLEAN = "the concept's", "about others", "before", "clean model"
TITLES = {
    "jaccard": "top tokens kept", "rbo": "top tokens kept (rank-biased)", "cosine": "direction kept", "l2": "distance moved",
    "retention": "its tokens kept", "activation_ratio": "active on its texts", "contribution_ratio": "written on its texts",
    "gate_cosine": "gate kept", "in_cosine": "input kept", "jaccard_own": "top tokens kept (own E)", "rbo_own": "rank-biased (own E)",
}  # fmt: skip
UNITS = {
    "cosine": "cosine",
    "gate_cosine": "cosine",
    "in_cosine": "cosine",
    "l2": "L2",
    "retention": "share",
    "rbo": "RBO",
    "rbo_own": "RBO",
}
BEHAVIOUR = {"rouge": "ROUGE-L", "bleu": "BLEU"}


def plot(
    result: "UnlearningResult",
    *,
    by: Literal["traces", "tokens"] = "traces",
    measures: Sequence[str] = ("jaccard", "activation_ratio"),
    score: str = "rouge",
    concept: str | None = None,
    concepts: Sequence[str] | None = None,
    n: int = 15,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw the traces of `concepts` (the first forty by default), or the first `n` top tokens of one `concept`."""
    one_of("by", by, ["traces", "tokens"])
    if by == "tokens":
        return _tokens(result, concept or result.concepts[0], n, theme, venue)
    one_of("score", score, list(BEHAVIOUR))
    for name in measures:
        one_of("measures", name, list(TITLES))
    if not 1 <= len(measures) <= 3:
        raise BadInput(f"`measures` names one to three measures of the vectors; not {len(measures)}.")
    names = list(concepts or result.concepts)
    for one in names:
        one_of("concepts", one, result.concepts)
    names = names[:MOST]
    gold = result.answers("correct").sel(concept=names)
    known = bool(np.isfinite(gold["mean"].sel(group="related")).any())
    titles = [*(TITLES[name] for name in measures), "answers kept", *(["right answers"] if known else [])]
    figure = panels(titles, theme=theme, shared_y=True, gap=0.03)
    for column, name in enumerate(measures, start=1):
        _trace(figure, result.traces(name).sel(concept=names), column, first=column == 1)
        figure.update_xaxes(
            title_text=UNITS.get(name, "after / before" if "ratio" in name else "Jaccard"), row=1, col=column
        )
    _answers(figure, result.answers(score).sel(concept=names), len(measures) + 1)
    figure.update_xaxes(title_text=BEHAVIOUR[score], row=1, col=len(measures) + 1)
    if known:
        _levels(figure, gold.sel(group="related"), len(titles))
        figure.update_xaxes(title_text="accuracy", row=1, col=len(titles))
    figure.update_xaxes(nticks=4, zeroline=False)
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=[plain(_short(one)) for one in names], range=[len(names) - 0.4, -0.6], ticks="",
        showgrid=False, tickfont={"size": text_size(theme, small=True)},
    )  # fmt: skip
    place_legend(figure, theme=theme)
    attrs = result.data.attrs
    some = "" if len(names) == len(result.concepts) else f", {len(names)} of {len(result.concepts)} concepts"
    tall = 26 * len(names)
    dress(
        figure, result, theme=theme, title=f"What is left of {attrs['before']}'s concepts in {attrs['after']}{some}", venue=venue,
        aspect=min(0.26 + 0.03 * len(names), 1.3), height=190 + max(90, tall), margin=above(theme, legend_rows=1),
    )  # fmt: skip
    return check_budget(figure)


def _trace(figure: go.Figure, table: xr.Dataset, column: int, *, first: bool) -> None:
    """The concept's own vectors as marks over the range of the null's."""
    rows = np.arange(table.sizes["concept"])
    low, high, mean, null, p = (table[name].values for name in ("null_lo", "null_hi", "mean", "null", "p"))
    shown = True
    for row in rows[np.isfinite(low)]:
        figure.add_trace(
            go.Scatter(
                x=[low[row], high[row], high[row], low[row]], y=[row - 0.28, row - 0.28, row + 0.28, row + 0.28], fill="toself",
                mode="lines", line={"width": 0}, fillcolor="rgba(110,119,129,0.28)", hoverinfo="skip", name="null vectors, 95 %",
                legendgroup="null", showlegend=first and shown,
            ),
            row=1, col=column,
        )  # fmt: skip
        shown = False
    ticks: dict[str, Any] = {"x": null, "y": rows, "mode": "markers", "showlegend": False}
    figure.add_trace(
        go.Scatter(
            **ticks, marker={"symbol": "line-ns-open", "color": FAINT, "size": 9}, hovertemplate="null %{x:.3f}<extra></extra>"
        ),
        row=1, col=column,
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=mean, y=rows, mode="markers", marker={"color": colour(0), "symbol": "circle", "size": 8}, name=OWN, legendgroup=OWN,
            showlegend=first, customdata=p, hovertemplate="%{x:.3f} (p %{customdata:.2g})<extra></extra>",
        ),
        row=1, col=column,
    )  # fmt: skip
    top = float(np.nanmax([1.0, *mean[np.isfinite(mean)], *high[np.isfinite(high)]]))
    least = float(np.nanmin([0.0, *mean[np.isfinite(mean)], *low[np.isfinite(low)]]))
    pad = 0.06 * (top - least)
    figure.update_xaxes(range=[least - pad, top + pad], row=1, col=column)


def _answers(figure: go.Figure, table: xr.Dataset, column: int) -> None:
    """Overlap with the original answers: about the concept and about others."""
    rows = np.arange(table.sizes["concept"])
    for place, (group, name, symbol) in enumerate((("related", OWN, "circle"), ("unrelated", OTHER, "square-open"))):
        part = table.sel(group=group)
        mean, low, high = (part[key].values for key in ("mean", "ci_lo", "ci_hi"))
        figure.add_trace(
            go.Scatter(
                x=mean, y=rows + (place - 0.5) * 0.3, mode="markers", marker={"color": colour(place), "symbol": symbol, "size": 8},
                error_x=whiskers(mean, low, high), name=name, legendgroup=name, showlegend=name != OWN,
                hovertemplate="%{x:.3f}<extra>" + name + "</extra>",
            ),
            row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(range=[-0.06, 1.06], row=1, col=column)


def _levels(figure: go.Figure, table: xr.Dataset, column: int) -> None:
    """Gold answers before and after, joined by a line; of the clean model where there is one."""
    rows = np.arange(table.sizes["concept"])
    values = {str(state): table["mean"].sel(state=state).values for state in table["state"].values}
    joined_x, joined_y = [], []
    for row in rows:
        joined_x += [values["before"][row], values["after"][row], None]
        joined_y += [row, row, None]
    figure.add_trace(
        go.Scatter(x=joined_x, y=joined_y, mode="lines", line={"color": translucent(colour(0), 0.5), "width": 1.5}, hoverinfo="skip",
                   showlegend=False),
        row=1, col=column,
    )  # fmt: skip
    after = table.sel(state="after")
    ends = whiskers(*(after[key].values for key in ("mean", "ci_lo", "ci_hi")))
    marks = [("before", LEVELS, "circle-open", colour(0), None), ("after", OWN, "circle", colour(0), ends)]
    marks += [("clean", CLEAN, "diamond-open", colour(2), None)] if "clean" in values else []
    for state, name, symbol, ink, error in marks:
        figure.add_trace(
            go.Scatter(
                x=values[state], y=rows, mode="markers", marker={"color": ink, "symbol": symbol, "size": 8}, name=name, legendgroup=name,
                error_x=error, showlegend=name != OWN, hovertemplate="%{x:.3f}<extra>" + state + "</extra>",
            ),
            row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(range=[-0.06, 1.06], row=1, col=column)


def _tokens(result: "UnlearningResult", concept: str, n: int, theme: Theme, venue: str) -> go.Figure:
    """Top tokens of a concept's vectors, a panel a vector, a column a model."""
    words = result.top_tokens(concept, n)
    related = result.data["token_related"].sel(named=words["named"]).isel(rank=slice(0, n))
    states = [str(state) for state in words["state"].values]
    vectors = [str(name) for name in words["named"].values][:4]
    figure = panels([f"vector {name.rsplit('/', 1)[1]}" for name in vectors], theme=theme, shared_y=True, gap=0.03)
    small = text_size(theme, small=True)
    for column, vector in enumerate(vectors, start=1):
        began = set(result.data["token"].sel(named=vector, state="before").values.tolist())
        lists = [words.sel(named=vector, state=state).values.tolist() for state in states]
        _joined(figure, lists, column, character=WIDE * len(vectors) * len(states))
        for place, state in enumerate(states):
            said = [str(word) for word in words.sel(named=vector, state=state).values]
            own = related.sel(named=vector, state=state).values
            texts = [
                f"<b>{plain(_short(word))}</b>" if mine else plain(_short(word))
                for word, mine in zip(said, own, strict=True)
            ]
            inks = [
                colour(0) if mine else INK if word in began else FAINT for word, mine in zip(said, own, strict=True)
            ]
            if not any(said):
                texts, inks = ["(removed)"], [FAINT]
            figure.add_trace(
                go.Scatter(
                    x=[place] * len(texts), y=list(range(1, len(texts) + 1)), mode="text", text=texts, textposition="middle right",
                    textfont={"color": inks, "size": small}, showlegend=False, hoverinfo="skip", name=state,
                ),
                row=1, col=column,
            )  # fmt: skip
        figure.update_xaxes(
            tickvals=list(range(len(states))), ticktext=states, range=[-0.1, len(states) - 0.05], showgrid=False, side="bottom",
            ticks="", ticklabelposition="outside right", row=1, col=column,
        )  # fmt: skip
    figure.update_yaxes(range=[n + 0.6, 0.4], showgrid=False, dtick=5, tick0=5)
    figure.update_yaxes(title_text="rank", row=1, col=1)
    title = f"Top tokens for {concept} in {result.data.attrs['before']} and {result.data.attrs['after']}"
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=0.16 + 0.03 * n, height=150 + 19 * n, margin=above(theme)
    )  # fmt: skip
    return check_budget(figure)


def _joined(figure: go.Figure, lists: Sequence[Sequence[str]], column: int, *, character: float) -> None:
    """A line from each word of a column, past the longest one, to the same word in the next; `character` is the width of one."""
    x: list[float | None] = []
    y: list[int | None] = []
    for place, (left, right) in enumerate(pairwise(lists)):
        past = min(0.9, 0.04 + character * max(min(len(word), LONGEST) for word in left))
        for rank, word in enumerate(left, start=1):
            if word and word in right:
                x += [place + past, place + 0.97, None]
                y += [rank, right.index(word) + 1, None]
    figure.add_trace(
        go.Scatter(x=x, y=y, mode="lines", line={"color": translucent(FAINT, 0.5), "width": 1}, hoverinfo="skip", showlegend=False),
        row=1, col=column,
    )  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
