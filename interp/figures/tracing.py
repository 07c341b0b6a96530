"""Causal tracing: which restored states bring the answer back.

Three pictures of one result. `by="role"` (the default) is the map of ROME's figure 2: token roles by layers, one panel a kind, averaged
over prompts. `by="line"` shows the same as lines with their intervals. `by="token"` is one prompt, token by token, its subject bracketed.
White is no effect, red restores the answer (or, noising, takes it away), blue does the contrary; negative effects are shown, not clipped.
The colour bar's title gives the total effect, which is what full restoration would be. Cells whose mean effect differs from zero, corrected
over the whole map, are outlined; where so few subjects could not reach that at all, none is. A trace in both directions has a panel for
each. Random matched controls are the dotted grey lines of `by="line"`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.core.errors import BadInput, one_of

from .marks import band, grid, line
from .outline import outline
from .panels import above, panels, place_legend, token_axis, whole_ticks
from .shrink import check_budget
from .theme import FAINT, Theme, dress, text_size

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
WAYS = {"denoise": "restored", "noise": "broken"}
CROWDED = 4
"""Panels beyond which their titles have no room for notes."""
FLOOR = {"prob": 0.05, "logprob": 0.5, "logit_diff": 0.5, "rank": 5.0}
"""Effects that colours reach at least up to, so that noise around nothing stays pale."""

Shown: TypeAlias = "Sequence[tuple[str, str]]"
"""Kind and direction of each panel."""


def plot(
    result: "TraceResult",
    *,
    by: str = "role",
    prompt: int | str = 0,
    metric: str = "prob",
    direction: str | None = None,
    alpha: float | None = 0.05,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw a trace.

    `by` is 'role', 'line' or 'token'; `prompt` (number or id) chooses the prompt of 'token'; `metric` is one of the result's metrics;
    `direction` one of its directions (all of them by default). Cells of the map by role with a corrected p-value (Holm) below `alpha` are
    outlined; `alpha=None` outlines none.
    """
    one_of("by", by, ("role", "line", "token"))
    one_of("metric", metric, [str(name) for name in result.data.coords["metric"].values])
    if direction is not None:
        one_of("direction", direction, result.directions)
    shown = [
        (str(kind), way) for way in (result.directions if direction is None else (direction,)) for kind in result.data["kind"].values
    ]  # fmt: skip
    margin = above(theme)
    verb = (
        "Which states matter to the answer"
        if ("noise" in {way for _, way in shown})
        else "Which states bring the answer back"
    )
    if by == "line":
        figure, margin = _lines(result, shown, metric, theme)
        title, rows = f"{verb} ({_count(result)})", 12
    elif by == "role":
        figure, rows = _roles(result, shown, metric, theme, alpha)
        title = f"{verb} ({_count(result)})"
    else:
        index = _prompt_index(result, prompt)
        figure, rows = _tokens(result, shown, index, metric, theme)
        answer = str(result.data["answer"].values[index]) if "answer" in result.data.coords else ""
        title = f"Which states bring {answer or 'the answer'} back, one prompt"
        if verb.endswith("to the answer"):
            title = f"Which states matter to {answer or 'the answer'}, one prompt"
    below = 70 if theme == "screen" else 46
    room = max(150, 24 * rows) if theme == "screen" else max(84, 12 * rows)
    height = margin["t"] + below + min(room, 900)
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=height / 528, height=height, margin=margin)
    return check_budget(figure)


def _panels(result: "TraceResult", shown: Shown, theme: Theme) -> go.Figure:
    window = result.config.get("window")
    wide = f"{window} layers" if window and window > 1 else "1 layer"
    ways = {way for _, way in shown}
    titles, notes = [], []
    for kind, way in shown:
        title = TITLES.get(kind, kind).replace("attention", "attn." if len(shown) > CROWDED else "attention")
        titles.append(title + ("" if ways == {"denoise"} else f" {WAYS[way]}"))
        notes.append(wide if kind in ("mlp", "attn") and len(shown) <= CROWDED else "")
    figure = panels(titles, notes=notes, theme=theme, shared_y=True)
    for column in range(1, len(shown) + 1):
        whole_ticks(figure, "x", result.data.sizes["layer"], column=column, most=8 if len(shown) <= CROWDED else 4)
        figure.update_xaxes(title_text="layer", row=1, col=column)
    return figure


def _roles(
    result: "TraceResult", shown: Shown, metric: str, theme: Theme, alpha: float | None
) -> tuple[go.Figure, int]:
    known = result.n_known > 0
    ways = list(dict.fromkeys(way for _, way in shown))
    tables = {way: result.by_role(metric=metric, known=known, direction=way) for way in ways}
    figure = _panels(result, shown, theme)

    def picture(name: str) -> np.ndarray:
        return np.stack([tables[way][name].sel(kind=kind).transpose("role", "layer").values for kind, way in shown])

    names = [str(role) for role in tables[ways[0]]["role"].values]
    total = result.total_effect(metric, known=known)["effect"]
    tests = {way: result.significant(metric, alpha=alpha, known=known, direction=way) for way in ways} if alpha else {}
    found = bool(tests) and all(test.attrs["attainable"] for test in tests.values())
    note = f"<br>outlined: p < {alpha:g}" if found else ""
    _maps(figure, result, picture("mean"), names, metric, total, (picture("ci_lo"), picture("ci_hi")), note=note)
    layers = result.data.coords["layer"].values.tolist()
    for column, (kind, way) in enumerate(shown, start=1):
        if found and len(figure.data[column - 1].x) == len(layers):  # not where cells were drawn together
            marked = tests[way]["significant"].sel(kind=kind, role=names).transpose("role", "layer").values
            figure.add_trace(outline(marked, x=layers, width=1.6 if theme == "screen" else 1.0), row=1, col=column)
    token_axis(figure, names, theme=theme)
    return figure, len(names)


def _tokens(result: "TraceResult", shown: Shown, index: int, metric: str, theme: Theme) -> tuple[go.Figure, int]:
    length = int(result.data["n_pos"].values[index])
    effects = {way: result.effects(way).sel(metric=metric).isel(prompt=index) for _, way in shown}
    maps = np.stack([effects[way].sel(kind=kind).transpose("pos", "layer").values[:length] for kind, way in shown])
    tokens = [str(token) for token in result.data["token"].isel(prompt=index).values[:length]]
    roles = [str(role) for role in result.data["role"].isel(prompt=index).values[:length]]
    figure = _panels(result, shown, theme)
    ends: xr.Dataset = result.data[["low", "high"]].isel(prompt=index).sel(metric=metric)
    _maps(figure, result, maps, tokens, metric, float(ends["high"] - ends["low"]))
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
    *,
    note: str = "",
) -> None:
    """Fill the panels with values [kind, row, layer]; `spread` holds the ends of their intervals."""
    top = max(FLOOR[metric], float(np.nanmax(np.abs(values), initial=0.0)))
    layers = result.data.coords["layer"].values.tolist()
    for column, picture in enumerate(values, start=1):
        ends = (spread[0][column - 1], spread[1][column - 1]) if spread else None
        trace = grid(
            picture, x=layers, y=list(range(len(names))), effect=True, limit=top, hover="%{y}<br>layer %{x}<br>effect %{z:.4f}",
            name=f"effect on {UNITS[metric]}<br>(total {total:.2g}){note}", showscale=column == len(values), ends=ends, of=len(values),
        )  # fmt: skip
        figure.add_trace(trace, row=1, col=column)
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)


def _lines(result: "TraceResult", shown: Shown, metric: str, theme: Theme) -> tuple[go.Figure, dict[str, int]]:
    known = result.n_known > 0
    figure = _panels(result, shown, theme)
    layers = result.data.coords["layer"].values.tolist()
    for column, (kind, way) in enumerate(shown, start=1):
        table = result.by_role(metric=metric, known=known, direction=way)
        for place, role in enumerate(str(name) for name in table.coords["role"].values):
            at = table.sel(kind=kind, role=role)
            if not np.isfinite(at["mean"].values).any():
                continue
            for trace in band(
                layers,
                at["mean"].values,
                at["ci_lo"].values,
                at["ci_hi"].values,
                name=role,
                index=STYLES.get(role, place),
            ):
                trace.showlegend = bool(trace.showlegend is not False and column == 1)
                figure.add_trace(trace, row=1, col=column)
        if "control" in result.data:
            _controls(
                figure,
                result.by_role(metric=metric, known=known, direction=way, control=True).sel(kind=kind),
                layers,
                column,
            )
    figure.update_yaxes(title_text=f"effect on {UNITS[metric]}", row=1, col=1)
    figure.update_yaxes(zeroline=True, zerolinecolor="#b8bec5", zerolinewidth=1)
    place_legend(figure, theme=theme)
    figure.update_layout(legend_font_size=text_size(theme, small=True))
    return figure, above(theme, legend_rows=2)


def _controls(figure: go.Figure, table: xr.Dataset, layers: Sequence[int], column: int) -> None:
    """What another prompt's values do at each role that has a control, dotted."""
    first = column == 1
    for role in (str(name) for name in table["role"].values):
        mean = table["mean"].sel(role=role).values
        if not np.isfinite(mean).any():
            continue
        hover = f"{role}, another prompt's value<br>%{{x}}: %{{y:.4g}}<extra></extra>"
        trace = line(layers, mean, name="another prompt's value", mode="lines", showlegend=first, hovertemplate=hover)
        trace.line.color, trace.line.dash = FAINT, "dot"
        figure.add_trace(trace, row=1, col=column)
        first = False


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
