"""The depth strip: every layer-wise measure of a checkpoint on one x axis, so that a change is located at a glance.

Each row is one measure, drawn on its own scale; what is aligned is depth. Rows come from whatever results are at hand; a missing one
leaves its row out. This is the figure that tells where things happen: where the lens begins to agree, which layers restore a fact, where
heads copy, which layers' weights stand out.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.core.analysis import Result
from interp.core.errors import BadInput

from .marks import line
from .shrink import check_budget
from .theme import Theme, dress

Strip = tuple[str, np.ndarray, np.ndarray]
"""Label, layers (x), values."""


def strips(results: Mapping[str, Result]) -> list[Strip]:
    """The rows that these results give, from the input of the network to its output's causes."""
    rows: list[Strip] = []
    if "lens" in results:
        lens: Any = results["lens"]
        agree = lens.by_depth()["mean"].sel(measure="agree").values
        rows.append(("lens agreement", np.arange(len(agree) - 1), agree[1:]))
    if "tracing" in results:
        trace: Any = results["tracing"]
        table = trace.by_role(known=trace.n_known > 0)["mean"]
        for role, label in (("last subject", "subject end"), ("last", "last token")):
            if role in table["role"].values:
                for kind in ("hidden", "mlp", "attn"):
                    if kind in table["kind"].values:
                        rows.append(
                            (f"trace {kind},<br>{label}", table["layer"].values, table.sel(role=role, kind=kind).values)
                        )
    if "heads" in results:
        heads: Any = results["heads"]
        mean = heads.scores()["mean"]
        for metric in ("induction", "previous"):
            rows.append((f"best {metric}<br>head", mean["layer"].values, mean.sel(metric=metric).max("head").values))
    if "weights" in results:
        weights = results["weights"].data
        share = (weights["effective_rank"] / weights["null"]).sel(matrix="W_out")
        rows.append(("W_out rank<br>/ random", weights["layer"].values, share.values))
        rows.append(("W_out norm", weights["layer"].values, weights["frobenius"].sel(matrix="W_out").values))
    return rows


def plot(results: Mapping[str, Result], *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """Draw the strip of results keyed "lens", "tracing", "heads", "weights" (any of them)."""
    rows = strips(results)
    if not rows:
        raise BadInput(
            f"no layer-wise measure among {sorted(results)}. Give results called lens, tracing, heads or weights."
        )
    figure = make_subplots(rows=len(rows), cols=1, shared_xaxes=True, vertical_spacing=0.02)
    for place, (label, layers, values) in enumerate(rows, start=1):
        trace = line(layers.tolist(), values, name=label.replace("<br>", " "), index=0, showlegend=False)
        trace.update(fill="tozeroy", fillcolor="rgba(0,114,178,0.12)")
        figure.add_trace(trace, row=place, col=1)
        figure.update_yaxes(title_text=label, title_standoff=4, nticks=3, rangemode="tozero", row=place, col=1)
        figure.layout[f"yaxis{place if place > 1 else ''}"].title.font.size = 8 if theme == "paper" else 10
    longest = max(len(values) for _, _, values in rows)
    figure.update_xaxes(title_text="layer", dtick=max(1, longest // 12), row=len(rows), col=1)
    height = (40 if theme == "paper" else 62) * len(rows) + 90
    dress(
        figure,
        next(iter(results.values())),
        theme=theme,
        title="Depth strip: where things happen",
        venue=venue,
        height=height,
    )
    return check_budget(figure)
