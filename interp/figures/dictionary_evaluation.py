"""A dictionary's evaluation: how often its latents are on, what its reconstructions leave unexplained, and what the model gets back."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from .marks import whiskers
from .panels import above, panels, place_legend
from .shrink import check_budget
from .theme import FAINT, GRID, INK, SYMBOLS, Theme, colour, dress, plain

if TYPE_CHECKING:
    from interp.analyses.dictionaries.evaluation import DictionaryEvaluationResult

SHARES = (("ce", "zero"), ("ce", "mean"), ("kl", "zero"), ("kl", "mean"))
NAMES = {
    ("ce", "zero"): "loss, against zeros",
    ("ce", "mean"): "loss, against means",
    ("kl", "zero"): "KL, against zeros",
    ("kl", "mean"): "KL, against means",
}
BINS = 30
"""Bars of the histogram of densities."""
LONGEST = 26
"""Letters of a name on an axis."""


def plot(result: "DictionaryEvaluationResult", *, theme: Theme = "screen", venue: str = "neurips") -> go.Figure:
    """Densities of latents (log axis; those never on are counted beside, dense ones are right of the line), FVU, and what was recovered."""
    figure = panels(
        ("density", "variance unexplained", "recovered"), theme=theme, gap=0.13, notes=(_rare(result), "", "")
    )
    size = 7 if theme == "screen" else 5
    _density(figure, result)
    _unexplained(figure, result, size)
    _recovered(figure, result, size)
    place_legend(figure, theme=theme)
    rows = max(result.data.sizes["view"], result.data.sizes["replacement"])
    sites = list(dict.fromkeys(str(site) for site in result.data["site"].values))
    where = sites[0] if len(sites) == 1 else f"{len(sites)} sites"
    title = f"Dictionary of {result.data.sizes['latent']:,} latents at {where}"
    aspect = min(1.1, 0.36 + 0.045 * max(0, rows - 3))
    height = 380 + 30 * max(0, rows - 4)
    margin = above(theme, legend_rows=1)
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=aspect, height=height, margin=margin)
    return check_budget(figure)


def _rare(result: "DictionaryEvaluationResult") -> str:
    return f"{result.dead():,} dead, {result.dense():.0%} dense"


def _density(figure: go.Figure, result: "DictionaryEvaluationResult") -> None:
    """A histogram over log10 of the density, from one token to all of them; beyond the line latents are dense."""
    density = result.density().values
    lowest = np.log10(1.0 / float(result.data["tokens"].sum()))
    edges = np.linspace(np.floor(2 * lowest) / 2, 0.0, BINS + 1)
    counts, _ = np.histogram(np.log10(density[density > 0]), edges)
    figure.add_trace(
        go.Bar(
            x=((edges[:-1] + edges[1:]) / 2).astype(np.float32), y=counts, width=float(edges[1] - edges[0]),
            marker={"color": colour(0), "line": {"width": 0}}, showlegend=False,
            hovertemplate="on at 10^%{x:.2f} of the tokens<br>%{y} latents<extra></extra>",
        ),
        row=1, col=1,
    )  # fmt: skip
    figure.add_vline(x=-1.0, line={"color": FAINT, "width": 1, "dash": "dot"}, row=1, col=1)
    powers = list(range(int(np.ceil(edges[0])), 1))
    step = max(1, len(powers) // 5)
    shown = powers[::-1][::step]
    figure.update_xaxes(
        title_text="share of tokens", tickvals=shown, ticktext=[_power(power) for power in shown], range=[edges[0], 0.0], row=1, col=1,
    )  # fmt: skip
    figure.update_yaxes(title_text="latents", rangemode="tozero", row=1, col=1)


def _unexplained(figure: go.Figure, result: "DictionaryEvaluationResult", size: int) -> None:
    table = result.fvu()
    names = _short(table["view"].values)
    mean, low, high = (table[name].values.astype(np.float32) for name in ("mean", "ci_lo", "ci_hi"))
    figure.add_trace(
        go.Scatter(
            x=mean, y=np.arange(len(names)), mode="markers", marker={"color": INK, "size": size}, showlegend=False,
            error_x=whiskers(mean, low, high) if np.isfinite(low).all() else None, customdata=names,
            hovertemplate="%{customdata}<br>FVU %{x:.4f}<extra></extra>",
        ),
        row=1, col=2,
    )  # fmt: skip
    top = float(np.nanmax(np.r_[mean, high]))
    figure.update_xaxes(title_text="FVU", range=[0.0, max(1.08 * top, 1e-6)], nticks=4, row=1, col=2)
    _rows(figure, names, 2)


def _recovered(figure: go.Figure, result: "DictionaryEvaluationResult", size: int) -> None:
    """One mark a metric and baseline, side by side in a row for what was replaced; 1 is drawn as a line."""
    names = _short(result.data["replacement"].values)
    lowest = 0.0
    for index, (metric, baseline) in enumerate(SHARES):
        table = result.recovered(metric, baseline)  # type: ignore[arg-type]
        mean, low, high = (table[name].values.astype(np.float32) for name in ("mean", "ci_lo", "ci_hi"))
        lowest = min([lowest, *mean[np.isfinite(mean)].tolist(), *low[np.isfinite(low)].tolist()])
        figure.add_trace(
            go.Scatter(
                x=mean, y=np.arange(len(names)) + (index - 1.5) * 0.16, mode="markers", name=NAMES[metric, baseline],
                marker={"color": colour(index), "symbol": SYMBOLS[index], "size": size}, customdata=names,
                error_x=whiskers(mean, low, high) if np.isfinite(low).all() else None,
                hovertemplate="%{customdata}<br>%{x:.4f}<extra>" + NAMES[metric, baseline] + "</extra>",
            ),
            row=1, col=3,
        )  # fmt: skip
    for place, line in ((0.0, FAINT), (1.0, INK)):
        figure.add_vline(x=place, line={"color": line, "width": 1, "dash": "dot"}, row=1, col=3)
    figure.update_xaxes(title_text="share brought back", range=[1.08 * lowest - 0.03, 1.05], nticks=5, row=1, col=3)
    _rows(figure, names, 3)


def _rows(figure: go.Figure, names: Sequence[str], column: int) -> None:
    """Names downwards, the first on top."""
    for place in range(len(names) - 1):
        figure.add_hline(y=place + 0.5, line={"color": GRID, "width": 1}, row=1, col=column)
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=list(names), range=[len(names) - 0.5, -0.5], ticks="", showgrid=False, row=1, col=column,
    )  # fmt: skip


def _short(names: Iterable[object]) -> list[str]:
    """Names as an axis has room for them."""
    texts = [str(name) for name in names]
    return [plain(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…") for text in texts]


def _power(power: int) -> str:
    return "1" if power == 0 else f"10<sup>{power}</sup>"
