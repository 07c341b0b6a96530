"""Concept erasure: what fresh probes still find, before and after, site by site, a panel a probe.

Black is before; a line an eraser, with its 95 % interval; grey, the band of shuffled labels, in which an AUC means nothing. After the names
of the erasers stands what they cost: KL in nats a token on the texts, beside that of random subspaces of the same rank.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import one_of

from .directions import site_labels
from .marks import band
from .panels import above, panels, place_legend
from .shrink import check_budget
from .theme import FAINT, INK, Theme, dress, plain, translucent

if TYPE_CHECKING:
    from interp.analyses.directions import ConceptErasureResult

NAMES = {"linear": "fresh linear probe", "nonlinear": "fresh kernel probe", "transfer": "probe of the fit half"}


def plot(
    result: "ConceptErasureResult",
    *,
    erasers: Sequence[str] = (),
    probes: Sequence[str] = ("linear", "nonlinear"),
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw AUC before and after, over the erased site and those that follow. `erasers` are the methods by default."""
    known = [str(name) for name in result.data["eraser"].values]
    shown = list(erasers) or list(result.methods)
    for name in shown:
        one_of("erasers", name, known)
    for name in probes:
        one_of("probes", name, [str(one) for one in result.data["probe"].values])
    table, costs = result.table(), result.costs()
    sites = [str(name) for name in result.data["site"].values]
    labels, title = site_labels(sites)
    figure = panels([NAMES[name] for name in probes], theme=theme, shared_y=True)
    for column, probe in enumerate(probes, 1):
        part = table.sel(probe=probe)
        places = list(range(len(sites)))
        low, high = (
            part["null_lo"].sel(eraser=["none", *shown]).min("eraser").values,
            part["null_hi"].sel(eraser=["none", *shown]).max("eraser").values,
        )
        first = column == 1
        _grey(figure, places, low, high, column, first)
        for index, name in enumerate(["none", *shown]):
            at = part.sel(eraser=name)
            label = "before" if name == "none" else _label(name, costs)
            for trace in band(
                places, at["auc"].values, at["ci_lo"].values, at["ci_hi"].values, name=label, index=index - 1
            ):
                if name == "none":
                    trace.line.color, trace.line.dash = INK, "solid"
                    trace.fillcolor = None if trace.fill is None else translucent(INK, 0.1)
                trace.showlegend = bool(first and trace.fill is None)
                figure.add_trace(trace, 1, column)
        figure.update_xaxes(
            title_text=title,
            tickvals=places,
            ticktext=[plain(label) for label in labels],
            range=[-0.3, len(sites) - 0.7],
            row=1,
            col=column,
        )
    drawn = table[["ci_lo", "null_lo"]].sel(eraser=["none", *shown], probe=list(probes))
    lowest = min(float(drawn["ci_lo"].min()), float(drawn["null_lo"].min()))
    figure.update_yaxes(range=[min(0.4, lowest - 0.02), 1.02])
    figure.update_yaxes(title_text="AUC", row=1, col=1)
    heading = f"{result.data.attrs['data']} erased at {sites[0]}" + (
        " and onwards" if result.data.attrs["onwards"] else ""
    )
    dress(
        figure,
        result,
        theme=theme,
        title=heading,
        venue=venue,
        aspect=0.5,
        height=430,
        margin=above(theme, legend_rows=3),
    )
    place_legend(figure, theme=theme)
    return check_budget(figure)


def _grey(figure: go.Figure, places: list[int], low: np.ndarray, high: np.ndarray, column: int, first: bool) -> None:
    wide = places if len(places) > 1 else [places[0] - 0.25, places[0] + 0.25]
    if len(places) == 1:
        low, high = np.repeat(low, 2), np.repeat(high, 2)
    figure.add_trace(
        go.Scatter(
            x=[*wide, *wide[::-1]], y=np.concatenate([high, low[::-1]]), fill="toself", mode="lines", line={"width": 0},
            fillcolor=translucent(FAINT, 0.22), name="shuffled labels, 90 %", hoverinfo="skip", showlegend=first,
        ), 1, column,
    )  # fmt: skip


def _label(name: str, costs: "object") -> str:
    at = costs.sel(eraser=name)  # type: ignore[attr-defined]
    return f"{name} (KL {float(at['kl_texts']):.2g}; random {float(at['random_texts']):.1g})"
