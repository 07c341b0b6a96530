"""What changing latents does: mean effects with their intervals, beside the draws of both controls.

A panel a measure; a column a set of latents and strength. Diamonds are the latents themselves (95 % over texts), dots the draws of other
latents that are on about as often, circles those of random directions with shifts as long.
"""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from .marks import whiskers
from .panels import above, panels, place_legend
from .paths import caption
from .shrink import check_budget
from .theme import CATEGORY, FAINT, THEMES, Theme, dress, plain, translucent

if TYPE_CHECKING:
    from interp.analyses.dictionaries.effects.result import LatentEffectResult

NAMES = {
    "kl": "KL, nats",
    "nll": "change of loss, nats",
    "logprob": "change of the answer's logprob",
    "logit_diff": "change of logit difference",
}
MOST = 24
"""Columns."""


def plot(
    result: "LatentEffectResult",
    *,
    measures: "tuple[str, ...] | None" = None,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw the effects on `measures` (those that are defined, by default)."""
    one_of("theme", theme, THEMES)
    defined = [name for name in result.measures if bool(np.isfinite(result.change(name).values).any())]
    shown = tuple(defined) if measures is None else measures
    if not shown:
        raise BadInput("`measures` is empty. Name one or more.")
    for name in shown:
        one_of("measures", name, defined)
    data = result.data
    cells = [(str(one), float(strength)) for one in data["set"].values for strength in data["strength"].values][:MOST]
    figure = panels([NAMES[name] for name in shown], theme=theme)
    small = 5 if theme == "screen" else 3.2
    for column, measure in enumerate(shown, start=1):
        said, change = result.effect_of(measure), result.change(measure).mean("document")
        for side, kind in enumerate(said["kind"].values):
            arms = np.flatnonzero(data["kind"].values == kind)
            x = (
                np.repeat(np.arange(len(cells)), len(arms))
                + np.tile(np.linspace(0.12, 0.3, len(arms)), len(cells))
                + 0.2 * side
            )
            y = np.concatenate([change.sel(set=one, strength=strength).values[arms] for one, strength in cells])
            figure.add_trace(
                go.Scatter(
                    x=x.astype(np.float32), y=y.astype(np.float32), mode="markers", name=str(kind), showlegend=column == 1,
                    legendgroup=str(kind), hovertemplate="%{y:.4g}<extra>" + str(kind) + "</extra>",
                    marker={"color": translucent(CATEGORY[0], 0.6) if side == 0 else "rgba(255,255,255,1)", "size": small,
                            "line": {"width": 0 if side == 0 else 1, "color": FAINT}},
                ),
                row=1, col=column,
            )  # fmt: skip
        mean, low, high = (
            np.array([float(said[name].sel(set=one, strength=strength)) for one, strength in cells])
            for name in ("mean", "ci_lo", "ci_hi")
        )
        figure.add_trace(
            go.Scatter(
                x=np.arange(len(cells)) - 0.12, y=mean, mode="markers", name="the latents, 95 %", showlegend=column == 1,
                legendgroup="latents",
                error_y=whiskers(mean, low, high, width=4), hovertemplate="%{y:.4g}<extra>the latents</extra>",
                marker={"color": CATEGORY[1], "symbol": "diamond", "size": 9 if theme == "screen" else 6},
            ),
            row=1, col=column,
        )  # fmt: skip
        figure.update_xaxes(
            tickvals=list(range(len(cells))), ticktext=[_column(result, *cell) for cell in cells], range=[-0.5, len(cells) - 0.3],
            showgrid=False, title_text="latent" if data.sizes["set"] > 1 else "strength", row=1, col=column,
        )  # fmt: skip
    figure.add_hline(y=0, line={"color": FAINT, "width": 1, "dash": "4px,3px"})
    place_legend(figure, theme=theme)
    sets = " and ".join(str(one) for one in data["set"].values[:3])
    dress(
        figure, result, theme=theme, title=f"What it does to {data.attrs['how']} {'latent ' + sets}", venue=venue, aspect=0.5, height=400,
        margin=above(theme, legend_rows=1),
    )  # fmt: skip
    caption(
        figure,
        f"{data.sizes['document']} texts; changed at {float(data['changed'].max()):.1%} of tokens at most",
        theme,
    )
    return check_budget(figure)


def _column(result: "LatentEffectResult", members: str, strength: float) -> str:
    several, doses = result.data.sizes["set"] > 1, result.data.sizes["strength"] > 1
    parts = ([members] if several else []) + ([f"{strength:g}"] if doses or not several else [])
    return plain(": ".join(parts))
