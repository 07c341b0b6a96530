"""Latents as features: how well each feature set tells held-out texts apart, and which latents decide.

Left, macro F1 (or another measure) of the best sets of latents and of all baselines with their 95 % intervals, a mark a probe; grey, what
shuffled labels reach (95 %); dashed, the larger class. Right, the deciding latents of the best set of latents, or another, with the
token that each fires on most.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from .marks import whiskers
from .panels import above, panels, place_legend
from .shrink import check_budget
from .theme import CATEGORY, FAINT, INK, SYMBOLS, Theme, dress, plain, text_size, translucent

if TYPE_CHECKING:
    from interp.analyses.dictionaries.classification import LatentClassificationResult

NAMES = {"f1": "macro F1", "accuracy": "accuracy", "auc": "AUC"}
COLOURS = {"latents": CATEGORY[0], "hidden": CATEGORY[1], "words": CATEGORY[2]}
TOKEN = 14
"""Characters of a token that are shown."""


def plot(
    result: "LatentClassificationResult",
    *,
    measure: Literal["f1", "accuracy", "auc"] = "f1",
    feature: str | None = None,
    probe: str | None = None,
    sets: int = 12,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw about `sets` feature sets, all the baselines and the best sets of latents, and the deciding latents of `feature` by `probe`."""
    one_of("measure", measure, list(NAMES))
    if sets < 1:
        raise BadInput(f"`sets` must be at least 1; not {sets}.")
    best, how = result.best("latents", measure)
    name, how = feature or best, probe or how
    deciding = result.deciders(name, how)  # refuses what is not there
    name = name if name.startswith("latents ") else f"latents {name}"
    figure = panels(
        [f"Held-out {NAMES[measure]}", f"Deciding latents: {name.removeprefix('latents ')}, {how}"],
        theme=theme,
        gap=0.25,
    )
    rows = _kept(result, measure, sets)
    _scores(figure, result, measure, rows, theme)
    _deciders(figure, deciding, how, theme)
    tall = {"height": max(430, 150 + 26 * len(rows))}
    title = (
        f"{result.data.attrs['data']} from latents and from what is there without them ({result.data.attrs['design']})"
    )
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=max(0.5, 0.15 + 0.034 * len(rows)),
        margin=above(theme, legend_rows=1), **tall,
    )  # fmt: skip
    place_legend(figure, theme=theme)
    return check_budget(figure)


def _kept(result: "LatentClassificationResult", measure: str, sets: int) -> list[str]:
    """Names of the sets that are shown, from top to bottom: families together, the best first."""
    table = result.table(measure)
    table = table[table["family"] != "none"]
    score = table.groupby("feature", sort=False)[measure].max().sort_values(ascending=False, kind="stable")
    family = table.groupby("feature", sort=False)["family"].first()
    latents = [str(one) for one in score.index if family[one] == "latents"]
    others = [str(one) for group in ("hidden", "words") for one in score.index if family[one] == group]
    return latents[: max(1, sets - len(others))] + others


def _scores(
    figure: go.Figure, result: "LatentClassificationResult", measure: str, rows: list[str], theme: Theme
) -> None:
    found = result.measures().sel(measure=measure)
    probes = [str(one) for one in found["probe"].values]
    shift = {probe: (place - (len(probes) - 1) / 2) * 0.3 for place, probe in enumerate(probes)}
    for place, probe in enumerate(probes):
        at = found.sel(feature=rows, probe=probe)
        y = np.arange(len(rows)) + shift[probe]
        low, high = at["null_low"].values, at["null_high"].values
        figure.add_trace(
            go.Bar(
                x=high - low, base=low, y=y, width=0.22, orientation="h", name="shuffled labels, 95 %", showlegend=place == 0,
                legendgroup="null", marker={"color": translucent(FAINT, 0.3), "line": {"width": 0}}, hoverinfo="skip",
            ), 1, 1,
        )  # fmt: skip
        value = at["value"].values
        colours = [COLOURS[str(one)] for one in at["family"].values]
        figure.add_trace(
            go.Scatter(
                x=value, y=y, mode="markers", name=probe, showlegend=False, error_x=whiskers(value, at["low"].values, at["high"].values),
                marker={"symbol": SYMBOLS[place], "size": 7, "color": colours}, customdata=at["p_best"].values,
                text=[plain(one) for one in rows], hovertemplate="%{text}: %{x:.3f}, p %{customdata:.3f}<extra>" + probe + "</extra>",
            ), 1, 1,
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=[None], y=[None], mode="markers", name=probe, marker={"symbol": SYMBOLS[place], "size": 7, "color": INK}
            ), 1, 1,
        )  # fmt: skip
    larger = float(found["value"].sel(feature="larger class").isel(probe=0))
    figure.add_trace(
        go.Scatter(
            x=[larger, larger], y=[-0.5, len(rows) - 0.5], mode="lines", name="larger class", hoverinfo="skip",
            line={"color": INK, "dash": "6px,4px", "width": 1.2},
        ), 1, 1,
    )  # fmt: skip
    shown = found.sel(feature=rows)
    bottom = min(larger, float(shown["low"].min()), float(shown["null_low"].min())) - 0.02
    figure.update_xaxes(title_text=NAMES[measure], range=[bottom, 1.02], row=1, col=1)
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=[plain(one) for one in rows], range=[len(rows) - 0.5, -0.5], ticks="", showgrid=False,
        tickfont={"size": text_size(theme, small=True)}, row=1, col=1,
    )  # fmt: skip
    figure.update_layout(barmode="overlay")


def _deciders(figure: go.Figure, deciding: object, probe: str, theme: Theme) -> None:
    rows = list(deciding.itertuples())  # type: ignore[attr-defined]
    weights = np.array([row.weight for row in rows], dtype=np.float32)
    tokens = [row.fires.partition(", ")[0].rpartition(" ")[0][:TOKEN] for row in rows]
    names = [f"{plain(token)}  <b>{row.latent}</b>" for token, row in zip(tokens, rows, strict=True)]
    figure.add_trace(
        go.Bar(
            x=weights, y=list(range(len(rows))), orientation="h", width=0.7, showlegend=False,
            marker={"color": [CATEGORY[0] if one >= 0 else CATEGORY[1] for one in weights]},
            customdata=[[row.on_yes, row.on_no, plain(row.fires)] for row in rows],
            hovertemplate="%{x:+.3f}; in %{customdata[0]:.0%} of yes, %{customdata[1]:.0%} of no<br>%{customdata[2]}<extra></extra>",
        ), 1, 2,
    )  # fmt: skip
    figure.add_vline(x=0.0, line={"color": INK, "width": 1}, row=1, col=2)
    title = "log-odds by one standard deviation" if probe == "logistic" else "importance"
    figure.update_xaxes(title_text=title, row=1, col=2)
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=names, range=[max(1, len(rows)) - 0.5, -0.5], ticks="", showgrid=False,
        tickfont={"size": text_size(theme, small=True)}, row=1, col=2,
    )  # fmt: skip
