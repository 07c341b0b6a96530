"""How dictionaries learned: loss, what is not explained, latents that are on, dead and exclusive ones, over the tokens seen.

Lines are means between two records of the training. Open marks are rows that were not trained on, by the rule of inference as it was then
(for BatchTopK the running threshold); the cross at the end is with the threshold that was set on such rows. Several dictionaries have a
colour each and a dash for each view; a single one has a colour for each view.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.core.errors import BadInput, one_of

from .panels import above, place_legend
from .shrink import check_budget
from .theme import CATEGORY, DASHES, FAINT, INK, SYMBOLS, THEMES, Theme, colour, dress, plain, text_size

if TYPE_CHECKING:
    from interp.train.result import TrainingResult

PARTS = {
    "loss": "loss", "fvu": "variance not explained (FVU)", "l0": "latents on per token (L0)", "dead": "dead latents",
    "exclusive": "latents of one view only", "threshold": "running threshold", "gradient": "gradient norm", "speed": "tokens per second",
}  # fmt: skip
HELD = {"fvu": "fvu_heldout", "l0": "l0_heldout"}
FINAL = {"fvu": "final_fvu", "l0": "final_l0", "threshold": "calibrated"}
VARIABLE = {"gradient": "gradient_norm", "speed": "tokens_per_second"}
LOGARITHMIC = ("loss", "fvu", "gradient")
MOST_POINTS = 2000
"""Records beyond which every second, third, ... is drawn."""
GAP = {"screen": 62, "paper": 44}
"""Pixels between the rows of panels."""


def plot(
    result: "TrainingResult", *, parts: tuple[str, ...] | None = None, theme: Theme = "screen", venue: str = "neurips"
) -> go.Figure:
    """Draw a training; `parts` are the panels (keys of `PARTS`), by default four of them."""
    one_of("theme", theme, THEMES)
    several = "exclusive" in result.data
    default = ("fvu", "exclusive", "l0", "dead") if several else ("loss", "fvu", "l0", "dead")
    chosen = default if parts is None else tuple(parts)
    for part in chosen:
        one_of("parts", part, PARTS)
        if part == "exclusive" and not several:
            raise BadInput("no dictionary of this training writes several views, so none has latents of one view only.")
    if not chosen or len(set(chosen)) < len(chosen):
        raise BadInput(f"`parts` must name each panel once, at least one; not {list(chosen)}.")
    columns = min(2, len(chosen))
    rows = -(-len(chosen) // columns)
    room = 190 if theme == "screen" else 118
    inner = rows * room + (rows - 1) * GAP[theme]
    figure = make_subplots(
        rows=rows, cols=columns, horizontal_spacing=0.12, vertical_spacing=GAP[theme] / inner if rows > 1 else 0.0
    )
    for place, part in enumerate(chosen):
        _panel(figure, result, part, place, columns, theme)
        bottom = place + columns >= len(chosen)
        figure.update_xaxes(
            title_text="tokens" if bottom else None, exponentformat="SI", nticks=6,
            range=[0, 1.04 * float(result.data["tokens"].values[-1])],
            row=place // columns + 1, col=place % columns + 1,
        )  # fmt: skip
        figure.add_annotation(**_title(part, place, len(chosen), theme))
    entries = _legend(figure, result, chosen)
    place_legend(figure, theme=theme)
    margin = above(theme, legend_rows=1 + sum(entries) // 90)
    height = margin["t"] + inner + (70 if theme == "screen" else 46)
    names, tokens = len(result.names), int(result.data["tokens"].values[-1])
    title = f"Training {'a dictionary' if names == 1 else f'{names} dictionaries'} ({tokens:,} tokens)"
    dress(figure, result, theme=theme, title=title, venue=venue, height=height, margin=margin)
    if theme == "paper":
        figure.update_layout(height=height)
    return check_budget(figure)


def _panel(figure: go.Figure, result: "TrainingResult", part: str, place: int, columns: int, theme: Theme) -> None:
    data, name = result.data, VARIABLE.get(part, part)
    tokens = data["tokens"].values
    where: Any = {"row": place // columns + 1, "col": place % columns + 1}
    every = -(-len(tokens) // MOST_POINTS)
    if part == "speed":
        values = data[name].values
        figure.add_trace(_line(tokens, values, INK, "solid", "all dictionaries", every), **where)
    for d, dictionary in enumerate(result.names if part != "speed" else []):
        views = [str(view) for view in data["view"].values] if "view" in data[name].dims else [""]
        for v, view in enumerate(views):
            one = data.sel(dictionary=dictionary, view=view) if view else data.sel(dictionary=dictionary)
            if not np.isfinite(one[name].values).any():
                continue
            tint, dash = _style(result, d, v if view else None)
            label = ", ".join(filter(None, [dictionary if len(result.names) > 1 else "", view])) or dictionary
            figure.add_trace(_line(tokens, one[name].values, tint, dash, label, every), **where)
            if part in HELD:
                figure.add_trace(_marks(tokens, one[HELD[part]].values, tint, v, f"{label}, held out", theme), **where)
            if part in FINAL and np.isfinite(last := float(one[FINAL[part]].values)):
                figure.add_trace(_cross(tokens[-1], last, tint, f"{label}, at the end", theme), **where)
    if part in LOGARITHMIC:
        figure.update_yaxes(type="log", exponentformat="none", dtick=_ticks(figure, place), **where)
    else:
        figure.update_yaxes(rangemode="tozero", nticks=5, **where)


def _style(result: "TrainingResult", dictionary: int, view: int | None) -> tuple[str, str]:
    """Colour and dash of a line."""
    if len(result.names) > 1:
        return colour(dictionary), DASHES[(view or 0) % len(DASHES)]
    if view is None or result.data.sizes["view"] == 1:
        return (INK, "solid") if result.data.sizes["view"] > 1 else (CATEGORY[0], "solid")
    return colour(view), DASHES[view % len(DASHES)]


def _line(x: np.ndarray, y: np.ndarray, tint: str, dash: str, name: str, every: int) -> go.Scatter:
    return go.Scatter(
        x=x[::every], y=y[::every].astype(np.float32), mode="lines", line={"color": tint, "dash": dash}, showlegend=False, name=plain(name),
        hovertemplate="%{x:,} tokens: %{y:.4g}<extra>" + plain(name) + "</extra>",
    )  # fmt: skip


def _marks(x: np.ndarray, y: np.ndarray, tint: str, index: int, name: str, theme: Theme) -> go.Scatter:
    there = np.isfinite(y)
    return go.Scatter(
        x=x[there], y=y[there].astype(np.float32), mode="markers", showlegend=False, name=plain(name),
        marker={"color": tint, "symbol": f"{SYMBOLS[index % len(SYMBOLS)]}-open", "size": 4 if theme == "paper" else 6},
        hovertemplate="%{x:,} tokens: %{y:.4g}<extra>" + plain(name) + "</extra>",
    )  # fmt: skip


def _cross(x: float, y: float, tint: str, name: str, theme: Theme) -> go.Scatter:
    return go.Scatter(
        x=[x], y=[y], mode="markers", showlegend=False, name=plain(name), cliponaxis=False,
        marker={"color": tint, "symbol": "x-thin", "size": 7 if theme == "paper" else 9, "line": {"color": tint, "width": 1.6}},
        hovertemplate="%{y:.4g}<extra>" + plain(name) + "</extra>",
    )  # fmt: skip


def _ticks(figure: go.Figure, place: int) -> Any:
    """Distance of ticks on a log axis: whole powers of ten where there are several, else at 1, 2 and 5."""
    axis = f"y{place + 1}" if place else "y"
    drawn = [np.asarray(trace.y, dtype=float) for trace in figure.data if (trace.yaxis or "y") == axis]
    values = np.concatenate([one[np.isfinite(one) & (one > 0)] for one in drawn]) if drawn else np.ones(1)
    return 1 if len(values) and values.max() / values.min() > 300 else "D2"


def _title(part: str, place: int, count: int, theme: Theme) -> dict[str, Any]:
    axis = "" if place == 0 else str(place + 1)
    letter = f"<b>{chr(ord('a') + place)}</b>  " if theme == "paper" and count > 1 else ""
    return {
        "text": letter + PARTS[part], "showarrow": False, "xref": f"x{axis} domain", "yref": f"y{axis} domain", "x": 0.0, "y": 1.0,
        "xanchor": "left", "yanchor": "bottom", "yshift": 3, "font": {"size": text_size(theme), "color": INK}, "borderpad": 0,
        "name": "panel title",
    }  # fmt: skip


def _legend(figure: go.Figure, result: "TrainingResult", chosen: tuple[str, ...]) -> list[int]:
    """Entries for dictionaries, views and marks; the length of each text."""
    views = [str(view) for view in result.data["view"].values]
    entries: list[dict[str, Any]] = []
    if len(result.names) > 1:
        entries += [
            {"name": name, "line": {"color": colour(d), "dash": "solid"}} for d, name in enumerate(result.names)
        ]
        tint = [FAINT] * len(views)
    else:
        tint = [colour(v) for v in range(len(views))]
    if len(views) > 1 and {"fvu", "exclusive", "threshold"} & set(chosen):
        entries += [
            {"name": view, "line": {"color": tint[v], "dash": DASHES[v % len(DASHES)]}} for v, view in enumerate(views)
        ]
    for entry in entries:
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name=plain(entry["name"]), line=entry["line"]))
    marks: list[tuple[str, dict[str, Any]]] = (
        [("held out", {"symbol": "circle-open"})] if set(HELD) & set(chosen) else []
    )
    marks += (
        [("held out, final threshold", {"symbol": "x-thin", "line": {"width": 1.6, "color": FAINT}})]
        if set(FINAL) & set(chosen)
        else []
    )
    for name, marker in marks:
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker={"color": FAINT, **marker}))
    return [len(entry["name"]) + 6 for entry in entries] + [len(name) + 6 for name, _ in marks]
