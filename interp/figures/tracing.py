"""Causal tracing: which restored states bring the answer back.

Three pictures of one result. `by="role"` (the default) is the map of ROME's figure 2: token roles by layers, one panel a kind, averaged
over prompts. `by="line"` shows the same as lines with their intervals. `by="token"` is one prompt, token by token, its subject bracketed.
White is no effect, red restores the answer, blue pushes it further away; negative effects are shown, not clipped. The colour bar's title
gives the total effect, which is what full restoration would be.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.core.errors import BadInput, one_of

from .marks import band, grid
from .panels import above, panels, place_legend, token_axis, whole_ticks
from .shrink import check_budget
from .theme import Theme, dress, text_size

if TYPE_CHECKING:
    from interp.analyses.tracing import TraceResult

TITLES = {
    "hidden": "state", "mlp": "MLP", "attn": "attention", "hidden_without_mlp": "state, MLP cut",
    "hidden_without_attn": "state, attention cut",
}  # fmt: skip
STYLES = {
    "last": 0, "last subject": 1, "first after": 2, "middle subject": 3, "first subject": 4, "further": 5, "before": 6, "bos": 7,
}  # fmt: skip
UNITS = {"prob": "P(answer)", "logprob": "log P(answer), nats", "logit_diff": "logit difference", "rank": "rank"}
FLOOR = {"prob": 0.05, "logprob": 0.5, "logit_diff": 0.5, "rank": 5.0}
"""Effects that colours reach at least up to, so that noise around nothing stays pale."""


def plot(
    result: "TraceResult",
    *,
    by: str = "role",
    prompt: int | str = 0,
    metric: str = "prob",
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw a trace.

    `by` is 'role', 'line' or 'token'; `prompt` (number or id) chooses the prompt of 'token'; `metric` is one of the result's metrics.
    """
    one_of("by", by, ("role", "line", "token"))
    one_of("metric", metric, [str(name) for name in result.data.coords["metric"].values])
    kinds = [str(kind) for kind in result.data.coords["kind"].values]
    margin = above(theme)
    if by == "line":
        figure, margin = _lines(result, kinds, metric, theme)
        title, rows = f"Which states bring the answer back ({_count(result)})", 12
    elif by == "role":
        figure, rows = _roles(result, kinds, metric, theme)
        title = f"Which states bring the answer back ({_count(result)})"
    else:
        index = _prompt_index(result, prompt)
        figure, rows = _tokens(result, kinds, index, metric, theme)
        answer = str(result.data["answer"].values[index]) if "answer" in result.data.coords else ""
        title = f"Which states bring {answer or 'the answer'} back, one prompt"
    below = 70 if theme == "screen" else 46
    room = max(150, 24 * rows) if theme == "screen" else max(84, 12 * rows)
    height = margin["t"] + below + min(room, 900)
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=height / 528, height=height, margin=margin)
    return check_budget(figure)


def _panels(result: "TraceResult", kinds: Sequence[str], theme: Theme) -> go.Figure:
    window = result.config.get("window")
    wide = f"{window} layers" if window and window > 1 else "1 layer"
    notes = [wide if kind in ("mlp", "attn") else "" for kind in kinds]
    figure = panels([TITLES.get(kind, kind) for kind in kinds], notes=notes, theme=theme, shared_y=True)
    for column in range(1, len(kinds) + 1):
        whole_ticks(figure, "x", result.data.sizes["layer"], column=column)
        figure.update_xaxes(title_text="layer", row=1, col=column)
    return figure


def _roles(result: "TraceResult", kinds: Sequence[str], metric: str, theme: Theme) -> tuple[go.Figure, int]:
    table = result.by_role(metric=metric, known=result.n_known > 0).sel(kind=list(kinds))
    figure = _panels(result, kinds, theme)
    spread = [table[name].transpose("kind", "role", "layer").values for name in ("ci_lo", "ci_hi")]
    names = [str(role) for role in table["role"].values]
    total = result.total_effect(metric, known=result.n_known > 0)["effect"]
    mean = table["mean"].transpose("kind", "role", "layer").values
    _maps(figure, result, mean, names, metric, total, spread)
    token_axis(figure, names, theme=theme)
    return figure, len(names)


def _tokens(
    result: "TraceResult", kinds: Sequence[str], index: int, metric: str, theme: Theme
) -> tuple[go.Figure, int]:
    one = result.effects().sel(metric=metric).isel(prompt=index).transpose("kind", "pos", "layer")
    length = int(result.data["n_pos"].values[index])
    tokens = [str(token) for token in result.data["token"].isel(prompt=index).values[:length]]
    roles = [str(role) for role in result.data["role"].isel(prompt=index).values[:length]]
    figure = _panels(result, kinds, theme)
    ends: xr.Dataset = result.data[["low", "high"]].isel(prompt=index).sel(metric=metric)
    _maps(figure, result, one.values[:, :length], tokens, metric, float(ends["high"] - ends["low"]))
    token_axis(figure, tokens, theme=theme, marked=[place for place, role in enumerate(roles) if "subject" in role])
    return figure, length


def _maps(
    figure: go.Figure,
    result: "TraceResult",
    values: np.ndarray,
    names: Sequence[str],
    metric: str,
    total: float,
    spread: Sequence[np.ndarray] = (),
) -> None:
    """Fill the panels with values [kind, row, layer]; `spread` holds the ends of their intervals."""
    top = max(FLOOR[metric], float(np.nanmax(np.abs(values), initial=0.0)))
    layers = result.data.coords["layer"].values.tolist()
    for column, picture in enumerate(values, start=1):
        ends = (spread[0][column - 1], spread[1][column - 1]) if spread else None
        trace = grid(
            picture, x=layers, y=list(range(len(names))), effect=True, limit=top, hover="%{y}<br>layer %{x}<br>effect %{z:.4f}",
            name=f"effect on {UNITS[metric]}<br>(total {total:.2g})", showscale=column == len(values), ends=ends, of=len(values),
        )  # fmt: skip
        figure.add_trace(trace, row=1, col=column)
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)


def _lines(result: "TraceResult", kinds: Sequence[str], metric: str, theme: Theme) -> tuple[go.Figure, dict[str, int]]:
    table = result.by_role(metric=metric, known=result.n_known > 0)
    figure = _panels(result, kinds, theme)
    layers = result.data.coords["layer"].values.tolist()
    names = [str(name) for name in table.coords["role"].values]
    for column, kind in enumerate(kinds, start=1):
        for place, role in enumerate(names):
            index = STYLES.get(role, place)
            at = table.sel(kind=kind, role=role)
            if not np.isfinite(at["mean"].values).any():
                continue
            for trace in band(
                layers, at["mean"].values, at["ci_lo"].values, at["ci_hi"].values, name=role, index=index
            ):
                trace.showlegend = bool(trace.showlegend is not False and column == 1)
                figure.add_trace(trace, row=1, col=column)
    figure.update_yaxes(title_text=f"effect on {UNITS[metric]}", row=1, col=1)
    figure.update_yaxes(zeroline=True, zerolinecolor="#b8bec5", zerolinewidth=1)
    place_legend(figure, theme=theme)
    figure.update_layout(legend_font_size=text_size(theme, small=True))
    return figure, above(theme, legend_rows=2)


def _prompt_index(result: "TraceResult", prompt: int | str) -> int:
    ids = [str(name) for name in result.data.coords["prompt"].values]
    if isinstance(prompt, str):
        one_of("prompt", prompt, ids)
        return ids.index(prompt)
    if not -len(ids) <= prompt < len(ids):
        raise BadInput(f"prompt {prompt}: the result has prompts 0 to {len(ids) - 1}. Choose one of them.")
    return prompt


def _count(result: "TraceResult") -> str:
    total = result.data.sizes["prompt"]
    return f"{result.n_known} known prompts of {total}" if result.n_known else f"{total} prompts, none known"
