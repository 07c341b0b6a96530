"""Sequential edits: panels over the number of edits, one line an editor.

Norm of the edited matrices relative to the model as it was; drift of the residual stream on running text; retention, the share of all
edits so far whose target is still on top (the line) and, faint and dotted, of the latest edits right after they were made; and locality,
how much of their own answers neighbours keep. Perplexity of running text, over what it was, is the fifth: the alarm of collapse. Bands
are 95 % intervals over facts or documents; weights have none. The axis of edits is logarithmic where checkpoints span more than a decade.
"""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from .marks import band, line
from .panels import above, panels, place_legend
from .shrink import check_budget
from .theme import Theme, dress

if TYPE_CHECKING:
    from interp.analyses.localization import EditSequenceResult

PANELS = {
    "growth": "norm |W|/|W₀|", "change": "change |W−W₀|/|W₀|", "drift": "drift |h−h₀|/|h₀|", "cosine": "cos(h, h₀)",
    "share": "MLP's share", "latest": "P(latest targets)", "success": "latest on top", "retention": "still on top",
    "probability": "P(targets)", "paraphrase": "P(paraphrases)", "locality": "neighbours kept", "perplexity": "perplexity ratio",
    "essence": "essence perplexity",
}  # fmt: skip
USUAL = ("growth", "drift", "retention", "locality", "perplexity")
STYLES = {"ROME": 1, "MEMIT": 3, "MEMIT-stop": 4, "Ridge": 2, "FT-1": 0}
"""Style of each editor, as in the figures of a sweep."""
BOUNDED = ("latest", "success", "retention", "probability", "paraphrase", "locality")


def plot(
    result: "EditSequenceResult",
    *,
    measures: tuple[str, ...] = USUAL,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw a sequence of edits; `measures` are the panels, from left to right."""
    if not measures or len(set(measures)) < len(measures):
        raise BadInput(f"`measures` must name each panel once, at least one; not {list(measures)}.")
    for name in measures:
        one_of("measures", name, PANELS)
    names = [str(name) for name in result.data["editor"].values]
    edits = result.data["edits"].values
    log = edits.max() > 10
    figure = panels([PANELS[name] for name in measures], theme=theme, gap=0.055)
    for column, name in enumerate(measures, start=1):
        found = result.curve(name)
        shown = np.isfinite(found["mean"].values).any(axis=0) & ((edits > 0) | (not log))
        for place, editor in enumerate(names):
            at = found.sel(editor=editor).isel(edits=shown)
            style = STYLES.get(editor, place)
            ends = (at["mean"].values, at["ci_lo"].values, at["ci_hi"].values)
            for trace in band(edits[shown].tolist(), *ends, name=editor, index=style):
                trace.showlegend = bool(trace.showlegend is not False and column == 1)
                figure.add_trace(trace, row=1, col=column)
            if name == "retention":
                _latest(figure, result, editor, style, column, log)
        _axes(figure, name, column, edits[edits > 0] if log else edits, log, found["mean"].values)
    place_legend(figure, theme=theme)
    title = f"Edit after edit ({result.data.sizes['fact']} facts, layer {result.data.attrs['centre']})"
    margin = above(theme, legend_rows=1)
    dress(figure, result, theme=theme, title=title, venue=venue, height=340, aspect=0.36, margin=margin)
    return check_budget(figure)


def _latest(figure: go.Figure, result: "EditSequenceResult", editor: str, style: int, column: int, log: bool) -> None:
    """Success of the edits since the checkpoint before, right after each was made."""
    found = result.curve("success")["mean"].sel(editor=editor)
    known = np.isfinite(found.values)
    hover = f"{editor}, right after the edit<br>%{{x}}: %{{y:.3g}}<extra></extra>"
    trace = line(
        found["edits"].values[known].tolist(), found.values[known], name=editor, index=style, mode="lines", showlegend=False,
        hovertemplate=hover, opacity=0.55,
    )  # fmt: skip
    trace.line.dash, trace.line.width = "1.5px,3px", 1
    figure.add_trace(trace, row=1, col=column)


def _axes(figure: go.Figure, name: str, column: int, edits: np.ndarray, log: bool, means: np.ndarray) -> None:
    ticks = [int(n) for n in edits if not log or (str(n)[0] == "1" and set(str(n)[1:]) <= {"0"}) or n == edits.max()]
    where = {"row": 1, "col": column}
    figure.update_xaxes(
        type="log" if log else "linear", tickvals=ticks, ticktext=[str(n) for n in ticks], title_text="edits", **where
    )
    figure.update_yaxes(nticks=5, **where)
    if name in BOUNDED:
        figure.update_yaxes(range=[-0.03, 1.03], **where)
    elif name in ("growth", "cosine", "perplexity"):
        far = max(0.05, 1.15 * float(np.nanmax(np.abs(means - 1), initial=0.0)))
        figure.update_yaxes(range=[1 - far, 1 + 0.05 * far] if name == "cosine" else [1 - 0.25 * far, 1 + far], **where)
    elif name in ("drift", "change", "share"):
        figure.update_yaxes(rangemode="tozero", **where)
