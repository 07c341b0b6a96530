"""Concept directions: held-out AUC over sites beside what chance and the words alone give, and where the two classes fall.

Left, a line a method with its 95 % interval; grey, the band of shuffled labels (of all the methods that are shown); dashed, the bag of
words. Right, the held-out scores of the two classes at the best site, or another: what an AUC looks like.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.core.site import Site

from .marks import band
from .panels import above, panels, place_legend
from .shrink import check_budget
from .theme import CATEGORY, FAINT, INK, Theme, dress, plain, translucent

if TYPE_CHECKING:
    from interp.analyses.directions import ConceptDirectionsResult

SHORT = {"embed": "embed", "final": "final"}


def plot(
    result: "ConceptDirectionsResult",
    *,
    methods: Sequence[str] = (),
    site: str | None = None,
    method: str | None = None,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw the curves of `methods` (all by default) and the scores at `site` by `method` (the best by default)."""
    best_site, best_method = result.best()
    where, how = Site.parse(site).name if site else best_site, method or best_method
    result.direction(where, how)  # refuses what is not there
    shown = list(methods) or [str(name) for name in result.data["fit"].values]
    figure = panels(["Held-out AUC", f"{how}, {_long(where)}"], theme=theme, gap=0.11)
    _curves(figure, result, shown)
    _classes(figure, result, where, how)
    n = result.data.attrs["design"]
    margin = above(theme, legend_rows=2)
    title = f"Where {result.data.attrs['data']} can be read ({n})"
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=0.5, height=430, margin=margin)
    place_legend(figure, theme=theme)
    return check_budget(figure)


def site_labels(sites: Sequence[str]) -> tuple[list[str], str]:
    """Short names of sites along an axis, and the title of the axis: the layer where one kind of site is meant."""
    parsed = [Site.parse(name) for name in sites]
    kinds = {site.kind for site in parsed if site.layer is not None}
    if len(kinds) == 1:
        kind = next(iter(kinds))
        return [
            SHORT.get(site.kind, site.kind) if site.layer is None else str(site.layer) for site in parsed
        ], f"layer ({kind})"
    return [site.kind if site.layer is None else f"{site.layer} {site.kind}" for site in parsed], "site"


def _curves(figure: go.Figure, result: "ConceptDirectionsResult", shown: Sequence[str]) -> None:
    curves, words = result.curves().sel(fit=list(shown)), result.words()
    labels, title = site_labels([str(name) for name in result.data["site"].values])
    places = list(range(len(labels)))
    low, high = curves["null_lo"].min("fit").values, curves["null_hi"].max("fit").values
    wide: list[float] = [*map(float, places)]
    if len(places) == 1:  # a band needs two ends
        wide, low, high = [-0.25, 0.25], np.repeat(low, 2), np.repeat(high, 2)
    figure.add_trace(
        go.Scatter(
            x=wide + wide[::-1], y=np.concatenate([high, low[::-1]]), fill="toself", mode="lines", line={"width": 0},
            fillcolor=translucent(FAINT, 0.22), name="shuffled labels, 95 %", hoverinfo="skip",
        ), 1, 1,
    )  # fmt: skip
    for name in shown:
        at = curves.sel(fit=name)
        index = [str(one) for one in result.data["fit"].values].index(name)
        for trace in band(places, at["auc"].values, at["ci_lo"].values, at["ci_hi"].values, name=name, index=index):
            figure.add_trace(trace, 1, 1)
    ends = [-0.3, len(places) - 0.7]
    figure.add_trace(
        go.Scatter(
            x=ends, y=[words["auc"]] * 2, mode="lines", line={"color": INK, "dash": "6px,4px", "width": 1.2}, name="bag of words",
            hovertemplate="bag of words: %{y:.3f}<extra></extra>",
        ), 1, 1,
    )  # fmt: skip
    bottom = min(0.45, float(low.min()) - 0.03, float(curves["ci_lo"].min()) - 0.03)
    step = max(1, -(-len(labels) // 14))
    kept = [place for place in places if place % step == 0 or place == 0]
    figure.update_xaxes(
        title_text=title, tickvals=kept, ticktext=[plain(labels[place]) for place in kept], range=ends, row=1, col=1
    )
    figure.update_yaxes(title_text="AUC", range=[bottom, 1.02], row=1, col=1)


def _classes(figure: go.Figure, result: "ConceptDirectionsResult", site: str, method: str) -> None:
    score = result.data["score"].sel(site=site, fit=method).values
    yes = result.data["label"].values.astype(bool)
    edges = np.linspace(float(score.min()), float(score.max()), 31)
    centres, width = (edges[1:] + edges[:-1]) / 2, float(edges[1] - edges[0])
    for name, rows, colour in (("no", ~yes, CATEGORY[1]), ("yes", yes, CATEGORY[0])):
        counts = np.histogram(score[rows], edges)[0]
        figure.add_trace(
            go.Bar(
                x=centres, y=counts, width=width, name=f"label {name}",
                marker={"color": translucent(colour, 0.55), "line": {"color": colour, "width": 0.6}},
                hovertemplate="%{x:.2f}: %{y} texts<extra>" + name + "</extra>",
            ), 1, 2,
        )  # fmt: skip
    figure.add_vline(x=0.0, line={"color": INK, "width": 1, "dash": "2px,2px"}, row=1, col=2)
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(title_text="held-out score, spreads within a class", row=1, col=2)
    figure.update_yaxes(title_text="texts", row=1, col=2)


def _long(site: str) -> str:
    parsed = Site.parse(site)
    return parsed.kind if parsed.layer is None else f"{parsed.kind} of layer {parsed.layer}"
