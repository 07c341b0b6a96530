"""Attribution beside the truth: does the cheap map show what patching does?

Left, every patched cell of every pair: true effect over attributed effect, with the line on which they agree and their rank correlation.
Then the attributed map and, where all cells were patched, the true one, in the same colours: white is nothing, red carries the answer.
Heads are summed over positions; streams and outputs are drawn by token for one pair, or by distance from the end of the prompt for the
mean. GradDrop has a panel and a grey scale of its own, since it ranks and is no effect.
"""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.core.errors import BadInput, one_of

from .marks import grid
from .panels import above, panels, whole_ticks
from .shrink import check_budget
from .theme import FAINT, Theme, colour, dress, plain, text_size

if TYPE_CHECKING:
    from interp.analyses.attribution import AttributionResult

NAMES = {
    "resid_post": "stream after a layer", "attn_out": "attention outputs", "mlp_out": "MLP outputs", "mlp_post": "MLP neurons, summed",
    "z": "heads", "q": "queries", "k": "keys", "v": "values", "neuron": "neurons",
}  # fmt: skip
UNITS = {"logit_diff": "logit difference", "logprob": "log P(answer), nats", "prob": "P(answer)"}
GREYS = [[0.0, "#ffffff"], [1.0, "#3b3f45"]]
MOST_POINTS = 8000
"""Points of the scatter; of more, evenly many of each size are drawn."""


def plot(
    result: "AttributionResult",
    *,
    form: str | None = None,
    pair: int | str | None = None,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw one form: 'noising' or 'denoising'. `pair` (number or id) draws one pair's maps; by default they are means over pairs."""
    forms = [str(name) for name in result.data["form"].values]
    form = forms[0] if form is None else form
    one_of("form", form, forms)
    row = _row(result, pair)
    maps = {"attributed": _map(result, "score", form, row)}
    whole = "true" in result.data and not bool(
        (np.isnan(result.data["true"]) & np.isfinite(result.data["score"])).any()
    )
    if whole:
        maps["patched"] = _map(result, "true", form, row)
    ranks, checked = "dropped" in result.data, "true" in result.data
    told = [_agreement(result, form)] if checked else []
    named = [*told, *([("GradDrop", "rank only")] if ranks else []), *((name, "") for name in maps)]
    titles, notes = [name for name, _ in named], [note for _, note in named]
    figure = panels(titles, notes=notes, theme=theme, gap=0.11)
    if checked:
        _scatter(figure, result, form, theme)
    if ranks:
        maps = {"GradDrop": _map(result, "dropped", form, row), **maps}
    unit = f"effect on {UNITS[str(result.data.attrs['metric'])]}" + (
        "<br>(summed over positions)" if len(result.cells) == 3 else ""
    )
    effects = [part.values for name, part in maps.items() if name != "GradDrop"]
    top = max(float(np.nanmax(np.abs(values), initial=0.0)) for values in effects) or 1.0
    tall = 0
    for column, (name, part) in enumerate(maps.items(), start=1 + checked):
        if name == "GradDrop":
            trace = _ranks(part)
        else:
            trace = grid(
                part.values, x=_along(part, 1), y=_along(part, 0), effect=True, limit=top, name=unit, of=len(maps), hover=_hover(part),
                showscale=column == len(titles),
            )  # fmt: skip
        figure.add_trace(trace, row=1, col=column)
        tall = max(tall, _axes(figure, result, part, row, column=column, theme=theme, named=column == 1 + checked))
    who = f"{result.data.sizes['pair']} pairs" if row is None else f"pair {result.data['pair'].values[row]}"
    title = f"{NAMES[str(result.data.attrs['nodes'])].capitalize()}: attributed and true effects of {form} ({who})"
    height = 170 + tall
    dress(
        figure,
        result,
        theme=theme,
        title=title,
        venue=venue,
        aspect=0.2 + tall / 900,
        height=height,
        margin=above(theme) | {"l": 66},
    )
    return check_budget(figure)


def _map(result: "AttributionResult", variable: str, form: str, row: int | None) -> xr.DataArray:
    """What is drawn: [layer, head], [token, layer] or [layer, neuron]."""
    values = result.data[variable].sel(form=form)
    axes = result.cells
    if row is not None:
        values = values.isel(pair=row)
    elif axes == ("layer", "pos"):
        values = _from_end(result, values).mean("pair")
    if axes == ("layer", "head", "pos"):
        values = values.sum("pos")  # the padding of shorter prompts is NaN, and no cell
        return (values.mean("pair") if row is None else values).transpose("layer", "head")
    if axes == ("layer", "pos"):
        length = int((result.data["token"].isel(pair=row) != "").sum()) if row is not None else values.sizes["pos"]
        return values.transpose("pos", "layer").isel(pos=slice(length))
    return (values.mean("pair") if row is None else values).transpose("layer", "neuron")


def _from_end(result: "AttributionResult", values: xr.DataArray) -> xr.DataArray:
    """Pairs moved along `pos` so that their last tokens stand together; NaN before the first."""
    lengths = (result.data["token"] != "").sum("pos").values
    moved = np.stack(
        [
            np.roll(one, values.sizes["pos"] - n, axis=-1)
            for one, n in zip(values.transpose("pair", "layer", "pos").values, lengths, strict=True)
        ]
    )
    return xr.DataArray(moved, dims=("pair", "layer", "pos"), coords={"layer": values["layer"].values})


def _agreement(result: "AttributionResult", form: str) -> tuple[str, str]:
    """The rank correlation, and over which cells."""
    rho = result.agreement(form)["rho"]
    best = bool((result.data["chosen"].sel(form=form) == 2).any())
    return "no effect" if np.isnan(rho) else f"ρ = {rho:.2f}", "random cells" if best else "all cells"


def _scatter(figure: go.Figure, result: "AttributionResult", form: str, theme: Theme) -> None:
    """True over attributed effect of every patched cell, and how they agree."""
    part = result.data[["score", "true", "chosen"]].sel(form=form)
    x, y, how = (part[name].values.ravel() for name in ("score", "true", "chosen"))
    known = np.isfinite(x) & np.isfinite(y) & ((x != 0) | (y != 0))
    x, y, how = x[known], y[known], how[known]
    if len(x) > MOST_POINTS:
        keep = np.argsort(np.abs(y), kind="stable")[:: -(-len(y) // MOST_POINTS)]
        x, y, how = x[keep], y[keep], how[keep]
    if not len(x):
        return
    sampled = bool((how == 2).any())
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    space = 0.05 * (high - low) or 1.0
    ends = [low - space, high + space]
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line={"color": FAINT, "width": 1, "dash": "4px,3px"}, hoverinfo="skip",
                                showlegend=False), row=1, col=1)  # fmt: skip
    for kind, name, index, symbol in (
        (1, "random cells" if sampled else "cells", 0, "circle"),
        (2, "best cells", 1, "diamond"),
    ):
        here = how == kind
        if here.any():
            figure.add_trace(
                go.Scatter(
                    x=x[here].astype(np.float32), y=y[here].astype(np.float32), mode="markers", name=name, showlegend=False,
                    marker={"color": colour(index), "symbol": symbol, "size": 4 if theme == "paper" else 5, "opacity": 0.55},
                    hovertemplate="attributed %{x:.4f}<br>patched %{y:.4f}<extra>" + name + "</extra>",
                ),
                row=1, col=1,
            )  # fmt: skip
    figure.update_xaxes(title_text="attributed", range=ends, nticks=5, row=1, col=1)
    figure.update_yaxes(title_text="patched", range=ends, nticks=6, row=1, col=1)


def _ranks(part: xr.DataArray) -> go.Heatmap:
    """In greys, so that nobody takes it for an effect."""
    top = float(np.nanmax(part.values, initial=0.0)) or 1.0
    hover = f"{part.dims[0]} %{{y}} · {part.dims[1]} %{{x}}<br>GradDrop %{{z:.4f}}<extra></extra>"
    return go.Heatmap(
        z=part.values.astype(np.float32), x=_along(part, 1), y=_along(part, 0), colorscale=GREYS, zmin=0.0, zmax=top, showscale=False,
        hovertemplate=hover,
    )  # fmt: skip


def _axes(
    figure: go.Figure,
    result: "AttributionResult",
    part: xr.DataArray,
    row: int | None,
    *,
    column: int,
    theme: Theme,
    named: bool,
) -> int:
    """Axes of a map; gives the height of its rows in pixels."""
    figure.update_xaxes(showgrid=False, row=1, col=column)
    figure.update_yaxes(showgrid=False, row=1, col=column)
    count = part.sizes[str(part.dims[1])]
    whole_ticks(figure, "x", count, most=8 if count <= 10 else 4, column=column)
    figure.update_xaxes(title_text=str(part.dims[1]), row=1, col=column)
    rows = part.sizes[str(part.dims[0])]
    if part.dims[0] == "layer":
        whole_ticks(figure, "y", rows, most=12, column=column)
        figure.update_yaxes(title_text="layer" if named else "", row=1, col=column)
        return min(max(18 * rows, 170), 360)
    labels = [str(place - rows + 1) for place in range(rows)]
    if row is not None:
        labels = [plain(token) for token in result.data["token"].isel(pair=row).values[:rows]]
    figure.update_yaxes(
        range=[rows - 0.5, -0.5], tickvals=list(range(rows)), ticktext=labels, ticks="", showticklabels=named,
        tickfont={"size": text_size(theme, small=True)}, title_text="tokens from the end" if named and row is None else "",
        row=1, col=column,
    )  # fmt: skip
    return min(max(15 * rows, 170), 700)


def _along(part: xr.DataArray, axis: int) -> list[int]:
    return list(range(part.shape[axis]))


def _hover(part: xr.DataArray) -> str:
    return f"{part.dims[0]} %{{y}} · {part.dims[1]} %{{x}}<br>effect %{{z:.4f}}"


def _row(result: "AttributionResult", pair: int | str | None) -> int | None:
    if pair is None:
        return None
    ids = [str(name) for name in result.data["pair"].values]
    if isinstance(pair, str):
        one_of("pair", pair, ids)
        return ids.index(pair)
    if not -len(ids) <= pair < len(ids):
        raise BadInput(f"pair {pair}: the result has pairs 0 to {len(ids) - 1}. Choose one of them.")
    return pair % len(ids)
