"""Steering: what the model says, and what else changes, at every strength.

`by="dose"`: the gain on held-out neutral texts with its interval over texts, between the bands in which the controls' draws lie; beside it
the divergence among all tokens but the targets, likewise. The dotted line marks the strength that was chosen. `by="trade"`: effect against
side effect, a line an arm. `by="layers"`: the gain at each layer and strength on the texts on which both were chosen. `by="examples"`: what
is written.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from .marks import band, grid, line
from .panels import above, panels, place_legend
from .paths import caption
from .shrink import check_budget
from .theme import CATEGORY, FAINT, GRID, INK, THEMES, Theme, dress, plain, text_size, translucent

if TYPE_CHECKING:
    from interp.analyses.directions.steering.result import ConceptSteeringResult

LABELS = {
    "logprob": "gain in log P(targets), nats", "logit": "gain in target logits", "judge": "gain in the judge's score",
    "kl": "KL(steered || clean), nats", "kl_clean": "KL(clean || steered), nats", "kl_rest": "KL among other tokens, nats",
    "nll": "added loss of neutral text, nats",
}  # fmt: skip
KINDS = {"random": "random directions", "span": "directions in the span", "shuffled": "exchanged labels, refitted"}
INKS = {"random": "#6b6b6b", "span": CATEGORY[2], "shuffled": CATEGORY[4]}


def plot(
    result: "ConceptSteeringResult",
    *,
    by: Literal["dose", "trade", "layers", "examples"] = "dose",
    measure: str = "logprob",
    beside: str = "kl_rest",
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw a steering result; `measure` is the effect, `beside` the side effect (dose and trade)."""
    one_of("by", by, ("dose", "trade", "layers", "examples"))
    one_of("theme", theme, THEMES)
    for name, value in (("measure", measure), ("beside", beside)):
        one_of(name, value, tuple(LABELS))
    draw = {"dose": _dose, "trade": _trade, "layers": _layers, "examples": _examples}[by]
    return draw(result, measure, beside, theme, venue)


def _dose(result: Any, measure: str, beside: str, theme: Theme, venue: str) -> go.Figure:
    figure = panels(["what the model says", "what else changes"], theme=theme, gap=0.11)
    for column, name in enumerate((measure, beside), start=1):
        found = result.dose(name)
        if not np.isfinite(found["mean"].values).any():
            raise BadInput(
                f"there is no {name!r} at this site: the judge reads the last stream, where the direction itself was added. Choose another."
            )
        x = found["strength"].values.tolist()
        for kind in result.kinds:
            _null_band(figure, x, found.sel(kind=kind), kind, column)
        for trace in band(
            x,
            found["mean"].values,
            found["ci_lo"].values,
            found["ci_hi"].values,
            name="the direction, 95 % over texts",
            index=0,
        ):
            trace.showlegend = bool(trace.showlegend is not False and column == 1)
            figure.add_trace(trace, row=1, col=column)
        figure.add_vline(x=result.strength, line={"color": FAINT, "width": 1, "dash": "1.5px,3px"}, row=1, col=column)
        figure.update_xaxes(title_text=_unit(result), row=1, col=column)
        figure.update_yaxes(
            title_text=LABELS[name], zeroline=True, zerolinecolor=FAINT, zerolinewidth=0.8, row=1, col=column
        )
        if name.startswith("kl"):
            top = float(found["ci_hi"].max())
            whole = max(top, float(found["null_hi"].max()))
            figure.update_yaxes(range=[-0.04 * whole, 1.06 * whole], row=1, col=column)
    place_legend(figure, theme=theme)
    attrs = result.data.attrs
    title = f"Steering {attrs['site']} of layer {result.layer} by {attrs['method']} ({result.data.sizes['prompt']} neutral texts)"
    dress(
        figure,
        result,
        theme=theme,
        title=title,
        venue=venue,
        aspect=0.5,
        height=420,
        margin=above(theme, legend_rows=2),
    )
    draws = int((result.data["kind"].values == result.kinds[0]).sum())
    caption(figure, f"dotted: chosen on other texts; grey and coloured bands: 95 % of {draws} draws each", theme)
    return check_budget(figure)


def _null_band(figure: go.Figure, x: list[float], at: Any, kind: str, column: int) -> None:
    edges = np.concatenate([at["null_hi"].values, at["null_lo"].values[::-1]]).astype(np.float32)
    figure.add_trace(
        go.Scatter(
            x=x + x[::-1], y=edges, fill="toself", mode="lines", line={"width": 0}, fillcolor=translucent(INKS[kind], 0.3),
            hoverinfo="skip", name=KINDS[kind], legendgroup=kind, showlegend=column == 1,
        ),
        row=1, col=column,
    )  # fmt: skip


def _trade(result: Any, measure: str, beside: str, theme: Theme, venue: str) -> go.Figure:
    effect, side = (result.change(name).mean("prompt") for name in (measure, beside))
    doses = effect["strength"].values
    keep = np.flatnonzero(doses > 0)
    figure = panels(["effect and side effect"], theme=theme)
    figure.layout.annotations = ()
    kinds = result.data["kind"].values
    for kind in result.kinds:
        for number, arm in enumerate(np.flatnonzero(kinds == kind).tolist()):
            figure.add_trace(
                go.Scatter(
                    x=np.r_[0.0, side.values[arm, keep]].astype(np.float32), y=np.r_[0.0, effect.values[arm, keep]].astype(np.float32),
                    mode="lines", line={"color": translucent(INKS[kind], 0.45), "width": 1}, name=KINDS[kind], legendgroup=kind,
                    showlegend=number == 0, hoverinfo="skip",
                )
            )  # fmt: skip
    mine = line(
        np.r_[0.0, side.values[0, keep]].tolist(), np.r_[0.0, effect.values[0, keep]], name="the direction", index=0,
        text=["clean", *(f"strength {dose:g}" for dose in doses[keep])],
        hovertemplate="%{text}<br>side effect %{x:.3f}<br>effect %{y:.3f}<extra></extra>",
    )  # fmt: skip
    figure.add_trace(mine)
    figure.update_xaxes(title_text=LABELS[beside])
    figure.update_yaxes(title_text=LABELS[measure], zeroline=True, zerolinecolor=FAINT, zerolinewidth=0.8)
    place_legend(figure, theme=theme)
    title = f"Effect against side effect at layer {result.layer}, positive strengths"
    dress(
        figure,
        result,
        theme=theme,
        title=title,
        venue=venue,
        aspect=0.6,
        height=440,
        margin=above(theme, legend_rows=2),
    )
    caption(figure, f"a line an arm, a point a strength: {', '.join(f'{dose:g}' for dose in doses[keep])}", theme)
    return check_budget(figure)


def _layers(result: Any, measure: str, beside: str, theme: Theme, venue: str) -> go.Figure:
    figure = panels(["what the model says", "what else changes"], theme=theme, gap=0.24, shared_y=True)
    doses = [f"{dose:g}" for dose in result.data["strength"].values]
    layers = result.data["layer"].values
    for column, name in enumerate((measure, beside), start=1):
        values = result.by_layer(name).values
        trace = grid(
            values, x=doses, y=[str(layer) for layer in layers], effect=not name.startswith("kl"), name=LABELS[name], of=2,
            hover="layer %{y}, strength %{x}<br>%{z:.4f}",
        )  # fmt: skip
        trace.colorbar.x = 0.385 if column == 1 else 1.01
        figure.add_trace(trace, row=1, col=column)
        place = doses.index(f"{result.strength:g}"), int(np.flatnonzero(layers == result.layer)[0])
        number = "" if column == 1 else str(column)
        figure.add_shape(
            type="rect", xref=f"x{number}", yref=f"y{number}", x0=place[0] - 0.5, x1=place[0] + 0.5, y0=place[1] - 0.5, y1=place[1] + 0.5,
            line={"color": INK, "width": 1.5},
        )  # fmt: skip
        figure.update_xaxes(title_text="strength", type="category", showgrid=False, row=1, col=column)
    figure.update_yaxes(title_text="layer", type="category", showgrid=False, row=1, col=1)
    title = f"Where and how strongly to steer ({result.data.sizes['fit_prompt']} texts to choose on)"
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=0.42, height=max(300, 150 + 26 * len(layers)),
        margin=above(theme) | {"r": 90 if theme == "screen" else 52},
    )  # fmt: skip
    caption(figure, f"framed: chosen; at most {result.data.attrs['budget']:g} nats of KL among other tokens", theme)
    return check_budget(figure)


def _examples(result: Any, measure: str, beside: str, theme: Theme, venue: str) -> go.Figure:
    data = result.data
    if not data.sizes["example"]:
        raise BadInput(
            "this result has no examples. Steer with `examples` above 0, and `tokens` that leave room for a prompt."
        )
    size = text_size(theme, small=theme == "paper")
    most = 46 if theme == "screen" else 34
    rows = [
        [_cut(str(data["text"].values[k]), most, tail=True)]
        + [
            _cut(str(data["written"].sel(version=name).values[k]).strip(), most)
            for name in ("clean", "steered", "random")
        ]
        for k in range(data.sizes["example"])
    ]
    head = ["text (its end)", "clean", "steered", "a random direction"]
    table = go.Table(
        columnwidth=[1.15, 1, 1, 1],
        header={
            "values": [f"<b>{name}</b>" for name in head], "align": "left", "fill": {"color": "white"}, "line": {"color": GRID},
            "font": {"size": size, "color": INK},
        },
        cells={
            "values": [[plain(row[column]) for row in rows] for column in range(4)], "align": "left", "line": {"color": GRID},
            "fill": {"color": ["white", "white", translucent(CATEGORY[0], 0.1), "white"]}, "font": {"size": size, "color": INK},
            "height": 3.4 * size,
        },
    )  # fmt: skip
    figure = go.Figure(table)
    title = f"Written at layer {result.layer}, strength {result.strength:g}"
    high = int(3.9 * size * (len(rows) + 1))
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=(high + 50) / (5.5 * 96), height=high + 120,
        margin={"l": 10, "r": 10, "b": 30},
    )  # fmt: skip
    return check_budget(figure)


def _cut(text: str, most: int, *, tail: bool = False) -> str:
    flat = " ".join(text.split())
    if len(flat) <= most:
        return flat
    return "… " + flat[-most:] if tail else flat[:most] + " …"


def _unit(result: Any) -> str:
    attrs = result.data.attrs
    return {
        "difference": "strength, × distance of the class means", "norm": "strength, × mean activation length", "raw": "length",
    }[attrs["unit"]]  # fmt: skip
