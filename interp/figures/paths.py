"""Path patching: who tells the receivers something that the answer depends on.

A map a receiver and position of senders, layers by heads (first layer below), MLPs as a last column where they were senders. White is no
effect; red paths carry what makes the answer, blue ones work against it. Cells whose effect is significant (Holm over all paths) are
outlined. What was held while the receivers listened stands below the maps, on paper too: it is part of the question.
"""

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from .marks import grid
from .outline import outline
from .panels import above, panels, whole_ticks
from .shrink import check_budget
from .theme import FAINT, MARGIN, Theme, dress, plain, text_size

if TYPE_CHECKING:
    from interp.analyses.paths import PathResult

UNITS = {
    "prob": "P(answer)", "logprob": "log P(answer), nats", "logit_diff": "logit difference", "rank": "rank",
    "relative": "P(answer), relative",
}  # fmt: skip
FLOOR = {"prob": 0.02, "logprob": 0.2, "logit_diff": 0.2, "rank": 2.0, "relative": 0.05}
"""Effects that colours reach at least up to, so that noise around nothing stays pale."""
MOST = 4
"""Maps side by side."""


def plot(
    result: "PathResult",
    *,
    metric: str = "logit_diff",
    receiver: str | None = None,
    role: str | None = None,
    alpha: float = 0.05,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw the maps of a result, or of one `receiver` and `role`. `metric` is one of the result's, or relative; `alpha` outlines."""
    one_of("metric", metric, list(UNITS))
    receivers, roles = ([str(name) for name in result.data[dim].values] for dim in ("receiver", "role"))
    for name, value, legal in (("receiver", receiver, receivers), ("role", role, roles)):
        if value is not None:
            one_of(name, value, legal)
    shown = list(product([receiver] if receiver else receivers, [role] if role else roles))
    if len(shown) > MOST:
        raise BadInput(
            f"{len(shown)} maps do not fit side by side. Choose with receiver= ({', '.join(receivers)}) or role= ({', '.join(roles)})."
        )
    known = result.n_known > 0
    means, spread, marked = _values(result, metric, known, alpha)
    titles = [_title(one, place, many=len(roles) > 1) for one, place in shown]
    figure = panels(titles, theme=theme, shared_y=True)
    layers = result.data["layer"].values.tolist()
    top = max(FLOOR[metric], float(np.nanmax(np.abs(means), initial=0.0)))
    columns = means.shape[-1]
    for column, (one, place) in enumerate(shown, start=1):
        at = receivers.index(one), roles.index(place)
        trace = grid(
            means[at], x=list(range(columns)), y=layers, effect=True, limit=top, name=f"effect on {UNITS[metric]}",
            hover="head %{y}.%{x}<br>effect %{z:.4f}", showscale=column == len(shown), of=len(shown), ends=(spread[0][at], spread[1][at]),
        )  # fmt: skip
        figure.add_trace(trace, row=1, col=column)
        figure.add_trace(outline(marked[at]), row=1, col=column)
        whole_ticks(figure, "x", columns, most=8 if columns <= 10 else 4, column=column)
        figure.update_xaxes(title_text=_heads(result), showgrid=False, row=1, col=column)
        if "score" in result.data and "score_mlp" in result.data:
            ticks = list(range(0, columns - 1, max(1, columns // 6)))
            figure.update_xaxes(tickvals=[*ticks, columns - 1], ticktext=[*map(str, ticks), "MLP"], row=1, col=column)
    whole_ticks(figure, "y", len(layers), most=12)
    figure.update_yaxes(showgrid=False)
    figure.update_yaxes(title_text="layer", row=1, col=1)
    count = (
        f"{result.n_known} known pairs of {result.data.sizes['pair']}"
        if known
        else f"{result.data.sizes['pair']} pairs, none known"
    )
    title = f"What heads tell {'the logits' if shown[0][0] == 'logits' and len(shown) == 1 else 'their receivers'} ({count})"
    tall = min(16 * len(layers), 320)
    dress(
        figure,
        result,
        theme=theme,
        title=title,
        venue=venue,
        aspect=0.24 + tall / 800,
        height=270 + tall,
        margin=above(theme),
    )
    told = (
        f"outlined: p ≤ {alpha:g} (Holm)"
        if result.reachable(alpha, known=known)
        else f"too few pairs for p ≤ {alpha:g} (Holm)"
    )
    caption(figure, f"{result.data.attrs['freeze']}; {told}", theme)
    return check_budget(figure)


def _values(
    result: "PathResult", metric: str, known: bool, alpha: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Means, interval ends and significance, [receiver, role, layer, column]; MLPs stand in the last column."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("mean", "ci_lo", "ci_hi", "marked")}
    for senders, name in (("heads", "score"), ("mlps", "score_mlp")):
        if name not in result.data:
            continue
        table = result.mean(metric, known=known, senders=senders)
        marked = result.significant(alpha, metric=metric, known=known, senders=senders)
        for key, values in (*((key, table[key]) for key in ("mean", "ci_lo", "ci_hi")), ("marked", marked)):
            array = values.transpose("receiver", "role", "layer", ...).values
            parts[key].append(array if senders == "heads" else array[..., None])
    joined = {name: np.concatenate(values, axis=-1) for name, values in parts.items()}
    return joined["mean"], (joined["ci_lo"], joined["ci_hi"]), joined["marked"]


def caption(figure: go.Figure, text: str, theme: Theme) -> None:
    """A line at the very bottom, opposite the footer: what was held belongs to the picture, on paper too."""
    figure.add_annotation(
        text=plain(text), showarrow=False, xref="paper", yref="paper", x=0.0, y=0.0, xanchor="left", yanchor="bottom",
        yshift=2 - MARGIN[theme]["b"], font={"size": text_size(theme, small=True) - 1, "color": FAINT}, borderpad=0, name="caption",
    )  # fmt: skip


def _title(receiver: str, role: str, *, many: bool) -> str:
    text = f"to {receiver.replace('+', ', ')}"
    text = text if len(text) <= 34 else text[:33] + "…"
    return f"{text}, from {role}" if many else text


def _heads(result: "PathResult") -> str:
    return "head" if "score" in result.data else "MLP"
