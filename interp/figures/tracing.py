"""Causal tracing: which restored states bring the answer back.

Three pictures of one result. `by="role"` (the default) is the map of ROME's figure 2: token roles by layers, one panel a kind, averaged
over prompts. `by="line"` shows the same as lines with their intervals. `by="token"` is one prompt, token by token.
White is no effect, red restores the answer, blue pushes it further away; negative effects are shown, not clipped.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.core.errors import BadInput, one_of

from .marks import band, grid, token_labels
from .shrink import check_budget
from .theme import Theme, dress

if TYPE_CHECKING:
    from interp.analyses.tracing import TraceResult

TITLES = {
    "hidden": "one layer's state", "mlp": "MLP outputs", "attn": "attention outputs",
    "hidden_without_mlp": "state, MLPs severed", "hidden_without_attn": "state, attention severed",
}  # fmt: skip
UNITS = {"prob": "probability", "logprob": "nats", "logit_diff": "logit difference", "rank": "rank"}


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
    if by == "token":
        figure = _tokens(result, kinds, _prompt_index(result, prompt), metric)
        title = "Restoring one state at a time: " + str(
            result.data.coords["prompt"].values[_prompt_index(result, prompt)]
        )
    else:
        figure = _roles(result, kinds, metric) if by == "role" else _lines(result, kinds, metric)
        title = f"Which states bring the answer back ({_count(result)})"
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=0.4, height=None if theme == "paper" else 400)
    return check_budget(figure)


def _panels(result: "TraceResult", kinds: Sequence[str]) -> go.Figure:
    window = result.config.get("window")
    width = f", {window} layers" if window and window > 1 else ""
    names = [TITLES.get(kind, kind) + (width if kind in ("mlp", "attn") else "") for kind in kinds]
    figure = make_subplots(rows=1, cols=len(kinds), shared_yaxes=True, horizontal_spacing=0.035, subplot_titles=names)
    figure.update_annotations(font_size=12)
    for column in range(1, len(kinds) + 1):
        figure.update_xaxes(title_text="layer", dtick=_tick(result.data.sizes["layer"]), row=1, col=column)
    return figure


def _roles(result: "TraceResult", kinds: Sequence[str], metric: str) -> go.Figure:
    table = result.by_role(metric=metric, known=result.n_known > 0)
    labels = [f"{role} ({count})" for role, count in zip(table["role"].values, table["n"].values, strict=True)]
    mean = table["mean"].transpose("kind", "role", "layer").sel(kind=kinds).values
    return _maps(result, kinds, mean, labels, metric)


def _tokens(result: "TraceResult", kinds: Sequence[str], index: int, metric: str) -> go.Figure:
    one = result.effects().sel(metric=metric).isel(prompt=index).transpose("kind", "pos", "layer")
    tokens = [str(token) for token in result.data["token"].isel(prompt=index).values]
    roles = [str(role) for role in result.data["role"].isel(prompt=index).values]
    keep = [place for place, role in enumerate(roles) if role]
    marked = [tokens[place] + ("*" if "subject" in roles[place] else "") for place in keep]
    return _maps(result, kinds, one.sel(kind=list(kinds)).values[:, keep], token_labels(marked), metric)


def _maps(result: "TraceResult", kinds: Sequence[str], values: np.ndarray, labels: list[str], metric: str) -> go.Figure:
    figure = _panels(result, kinds)
    top = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    layers = result.data.coords["layer"].values.tolist()
    for column, picture in enumerate(values, start=1):
        trace = grid(
            picture, x=layers, y=labels, effect=True, limit=top, name=f"effect, {UNITS[metric]}",
            hover="%{y}<br>layer %{x}<br>effect %{z:.4f}", showscale=column == len(kinds),
        )  # fmt: skip
        figure.add_trace(trace, row=1, col=column)
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def _lines(result: "TraceResult", kinds: Sequence[str], metric: str) -> go.Figure:
    table = result.by_role(metric=metric, known=result.n_known > 0)
    figure = _panels(result, kinds)
    layers = result.data.coords["layer"].values.tolist()
    for column, kind in enumerate(kinds, start=1):
        for index, role in enumerate(str(name) for name in table.coords["role"].values):
            at = table.sel(kind=kind, role=role)
            if not np.isfinite(at["mean"].values).any():
                continue
            for trace in band(
                layers, at["mean"].values, at["ci_lo"].values, at["ci_hi"].values, name=role, index=index
            ):
                trace.showlegend = bool(trace.showlegend is not False and column == 1)
                figure.add_trace(trace, row=1, col=column)
    figure.update_yaxes(title_text=f"effect, {UNITS[metric]}", row=1, col=1)
    return figure


def _prompt_index(result: "TraceResult", prompt: int | str) -> int:
    ids = [str(name) for name in result.data.coords["prompt"].values]
    if isinstance(prompt, str):
        one_of("prompt", prompt, ids)
        return ids.index(prompt)
    if not -len(ids) <= prompt < len(ids):
        raise BadInput(f"prompt {prompt}: the result has prompts 0 to {len(ids) - 1}.")
    return prompt


def _count(result: "TraceResult") -> str:
    total = result.data.sizes["prompt"]
    return f"{result.n_known} known prompts of {total}" if result.n_known else f"{total} prompts, none known"


def _tick(layers: int) -> int:
    return max(1, layers // 8)
