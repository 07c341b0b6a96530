"""Scenario labels: how many prompts of each kind, and what features they have."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from .marks import grid
from .panels import above, panels
from .shrink import check_budget
from .theme import Theme, colour, dress, text_size

if TYPE_CHECKING:
    from interp.analyses.scenarios import ScenarioResult

NAMES = {
    "fact": "a fact", "confident": "confident", "overlap": "words overlap", "name_bias": "name alone", "prompt_bias": "subject blanked",
    "correct": "correct",
}  # fmt: skip


def plot(result: "ScenarioResult", *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """Prompts of each label as bars; beside them the share of each label's prompts that have each feature."""
    counts, shares = result.counts(), result.shares()
    names = [str(name) for name in shares["label"].values]
    figure = panels(("prompts", "share that has the feature"), theme=theme, shared_y=True)
    bars = go.Bar(
        x=[counts[name] for name in names], y=list(range(len(names))), orientation="h", marker={"color": colour(0)}, showlegend=False,
        text=[str(counts[name]) for name in names], textposition="outside", cliponaxis=False, width=0.7,
        hovertemplate="%{x} prompts<extra></extra>",
    )  # fmt: skip
    figure.add_trace(bars, row=1, col=1)
    features = [str(name) for name in shares["feature"].values]
    figure.add_trace(
        grid(shares.values, x=list(range(len(features))), y=list(range(len(names))), limit=1.0, name="share", hover="%{z:.2f}"),
        row=1, col=2,
    )  # fmt: skip
    small = {"size": text_size(theme, small=True)}
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5], tickfont=small, showgrid=False
    )
    figure.update_xaxes(range=[0, 1.18 * max(1, *counts.values())], row=1, col=1)
    figure.update_xaxes(
        tickvals=list(range(len(features))), ticktext=[NAMES[name].replace(" ", "<br>") for name in features], tickfont=small,
        showgrid=False, row=1, col=2,
    )  # fmt: skip
    title = f"On what evidence prompts are answered ({result.data.sizes['prompt']} prompts)"
    margin = above(theme)
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=0.34, height=330, margin=margin)
    return check_budget(figure)
