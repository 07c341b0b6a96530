"""Steering along a channel: where the reader looks at every amount of it.

With one axis, `by="curve"` draws attention to each span, a panel a kind of prompt, with 95 % intervals over prompts; dotted lines are the
untouched run. `by="arms"` draws one outcome (the score) for the channel beside its controls, over the same strengths. With two axes,
`by="map"` colours each point of the grid by the span that gets most attention, the channel beside its controls; with three, slices of
the channel's grid side by side. Grey points are undecided. Dashed lines mark a strength of 0, which in `replace` is an ablation and not the
untouched run.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from .channel_regions import Items, add_regions
from .marks import band
from .panels import above, panels, place_legend
from .paths import caption
from .shrink import check_budget
from .theme import FAINT, THEMES, Theme, dress, line_style, plain

if TYPE_CHECKING:
    from interp.analyses.channels.steering.steer_result import SteeringResult

MOST_LINES = 8
"""Spans that lines can still tell apart."""
MOST_PANELS = 4
LABELS = {
    "score": "attention to {to} - {minus}", "prob": "P(answer)", "logprob": "log P(answer), nats", "logit_diff": "logit difference",
    "rank": "rank of the answer", "accuracy": "accuracy among candidates", "top1": "answer is the top token",
}  # fmt: skip


def plot(
    result: "SteeringResult",
    *,
    by: Literal["auto", "curve", "arms", "map"] = "auto",
    outcome: str | None = None,
    arm: str | None = None,
    axis: int = 0,
    hold: float = 0.0,
    reader: str | None = None,
    split: str | None = None,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw what steering does: `by` is chosen by the number of axes where it is 'auto'.

    `outcome` is for by='arms' (the score, or the logit difference where there is none); `arm` keeps to the channel or one control; `axis`
    and `hold` choose a line through a grid of several axes; `split` keeps a map to one kind of prompt. Raises `BadInput`.
    """
    one_of("by", by, ("auto", "curve", "arms", "map"))
    one_of("theme", theme, THEMES)
    if arm is not None:
        one_of("arm", arm, result.arms)
    axes = len(result.axes)
    if by == "map" and axes == 1:
        raise BadInput("by='map' needs two or three axes; this result has one. Use by='curve' or by='arms'.")
    if by == "map" or (by == "auto" and axes > 1):
        return _map(result, arm, reader, split, theme, venue)
    if by == "arms":
        return _arms(result, outcome, arm, axis, hold, reader, theme, venue)
    return _curve(result, arm or "channel", axis, hold, reader, theme, venue)


def _curve(result: Any, arm: str, axis: int, hold: float, reader: str | None, theme: Theme, venue: str) -> go.Figure:
    spans = [str(name) for name in result.data["span"].values]
    curves = [result.curve(span, arm, axis=axis, hold=hold, reader=reader) for span in spans]
    splits = [str(name) for name in curves[0]["split"].values]
    figure = panels(_titles(result, splits), notes=_counts(curves[0]), theme=theme, shared_y=True)
    items = Items.of(spans)
    for column, split in enumerate(splits, start=1):
        for index, (span, curve) in enumerate(zip(spans, curves, strict=True)):
            at = curve.sel(split=split)
            _line(
                figure,
                at,
                span,
                index,
                column,
                ink=items.colours[index] if len(spans) > MOST_LINES else None,
                base=len(spans) <= MOST_LINES,
            )
        _axis(figure, result, axis, column)
    top = max(float(curve[name].max()) for curve in curves for name in ("mean", "ci_hi", "base"))
    figure.update_yaxes(range=[-0.02, min(1.02, 1.12 * top)])
    figure.update_yaxes(title_text=f"attention of {_reader(result, reader)}", row=1, col=1)
    place_legend(figure, theme=theme)
    title = f"Where head {_reader(result, reader)} looks as {_written(result, arm)} is written ({_count(result)})"
    rows = -(-len(spans) // 6)
    dress(
        figure,
        result,
        theme=theme,
        title=title,
        venue=venue,
        aspect=0.46,
        height=400,
        margin=above(theme, legend_rows=rows),
    )
    caption(figure, _how(result, axis, hold), theme)
    return check_budget(figure)


def _arms(
    result: Any,
    outcome: str | None,
    arm: str | None,
    axis: int,
    hold: float,
    reader: str | None,
    theme: Theme,
    venue: str,
) -> go.Figure:
    outcome = outcome or ("score" if "score" in result.outcomes else "logit_diff")
    one_of("outcome", outcome, result.outcomes)
    arms = [arm] if arm else result.arms
    curves = [result.curve(outcome, one, axis=axis, hold=hold, reader=reader) for one in arms]
    splits = [str(name) for name in curves[0]["split"].values]
    figure = panels(_titles(result, splits), notes=_counts(curves[0]), theme=theme, shared_y=True)
    for column, split in enumerate(splits, start=1):
        for index, (one, curve) in enumerate(zip(arms, curves, strict=True)):
            at = curve.sel(split=split)
            if index:  # bands of several controls would hide one another
                at = at.assign(ci_lo=at["ci_lo"] * np.nan)
            _line(figure, at, _named(result, one), index, column, ink=None, base=index == 0)
        _axis(figure, result, axis, column)
    label = LABELS.get(outcome, f"attention to {outcome}").format(**result.data.attrs)
    figure.update_yaxes(zeroline=True, zerolinecolor=FAINT, zerolinewidth=0.8)
    figure.update_yaxes(title_text=label, row=1, col=1)
    place_legend(figure, theme=theme)
    title = f"Steering along {_written(result, 'channel')} beside its controls ({_count(result)})"
    dress(
        figure,
        result,
        theme=theme,
        title=title,
        venue=venue,
        aspect=0.46,
        height=400,
        margin=above(theme, legend_rows=-(-len(arms) // 3)),
    )
    caption(figure, _how(result, axis, hold), theme)
    return check_budget(figure)


def _map(result: Any, arm: str | None, reader: str | None, split: str | None, theme: Theme, venue: str) -> go.Figure:
    items = Items.of([str(name) for name in result.data["span"].values])
    names = [str(name) for name in result.data["axis"].values]
    if len(names) == 2:
        arms = [arm] if arm else _chosen(result)
        pictures = [(one.replace("_", " "), result.regions(one, reader=reader, split=split)) for one in arms]
    else:
        whole = result.regions(arm or "channel", reader=reader, split=split)
        depth = whole.sizes["axis_2"]
        places = np.unique(np.linspace(0, depth - 1, min(depth, MOST_PANELS)).round().astype(int))
        pictures = [
            (f"{names[2]} at {float(whole['axis_2'][place]):g}", whole.isel(axis_2=int(place))) for place in places
        ]
    figure = panels([title for title, _ in pictures], theme=theme, shared_y=True)
    for column, (_, regions) in enumerate(pictures, start=1):
        laid = regions.transpose("axis_1", "axis_0")
        x, y = laid["axis_0"].values.tolist(), laid["axis_1"].values.tolist()
        most = 7 if len(pictures) < 3 else 5 if theme == "screen" else 4
        add_regions(
            figure, laid.values, items, x=x, y=y, column=column, theme=theme, scale=column == len(pictures), most=most
        )
        figure.update_xaxes(title_text=_strength(result, names[0]), row=1, col=column)
    figure.update_yaxes(title_text=_strength(result, names[1]), row=1, col=1)
    who = f", prompts {split}" if split else ""
    title = f"What head {_reader(result, reader)} looks at most as {_written(result, arm or 'channel')} are written{who} ({_count(result)})"
    wide = len(pictures)
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect={1: 0.8, 2: 0.52, 3: 0.4}.get(wide, 0.34),
        height={1: 560, 2: 470}.get(wide, 400), margin=above(theme),
    )  # fmt: skip
    caption(figure, f"{result.data.attrs['mode']} at {result.data.attrs['position']}; grey: no span leads", theme)
    return check_budget(figure)


def _line(figure: go.Figure, at: Any, name: str, index: int, column: int, *, ink: str | None, base: bool) -> None:
    for trace in band(
        at["alpha"].values.tolist(), at["mean"].values, at["ci_lo"].values, at["ci_hi"].values, name=name, index=index
    ):
        trace.showlegend = bool(trace.showlegend is not False and column == 1)
        if ink and trace.showlegend is not None and trace.fill is None:
            trace.line = {"color": ink, "dash": "solid"}
        if not (ink and trace.fill):
            figure.add_trace(trace, row=1, col=column)
    if base and np.isfinite(float(at["base"])):
        number = "" if column == 1 else str(column)
        figure.add_shape(
            type="line", xref=f"x{number} domain", yref=f"y{number}", x0=0, x1=1, y0=float(at["base"]), y1=float(at["base"]),
            line={"color": ink or line_style(index)["color"], "width": 1, "dash": "1.5px,3px"}, layer="below", name="untouched",
        )  # fmt: skip


def _chosen(result: Any) -> list[str]:
    """The channel and the first control of each kind, as many as fit."""
    kinds = [str(kind) for kind in result.data["arm_kind"].values]
    first = [arm for place, arm in enumerate(result.arms) if kinds.index(kinds[place]) == place]
    return first[:MOST_PANELS]


def _named(result: Any, arm: str) -> str:
    writes = str(result.data["writes"].sel(arm=arm).values)
    return arm.replace("_", " ") + ("" if "random" in writes else f" {writes}")


def _written(result: Any, arm: str) -> str:
    return str(result.data["writes"].sel(arm=arm).values)


def _reader(result: Any, reader: str | None) -> str:
    return reader or str(result.data["reader"].values[0])


def _titles(result: Any, splits: list[str]) -> list[str]:
    key = str(result.data.attrs.get("split_by") or "")
    if len(splits) > MOST_PANELS:
        raise BadInput(
            f"{len(splits)} kinds of prompts do not fit side by side. Steer with another `split`, or on fewer kinds."
        )
    return [f"{key} {split}".strip() or "all prompts" for split in splits]


def _counts(curve: Any) -> list[str]:
    return [f"{int(n)} prompts" for n in curve["n"].values]


def _strength(result: Any, name: str) -> str:
    unit = "SD" if result.data.attrs["unit"] == "std" else "raw"
    return f"{plain(name)}, {unit}"


def _axis(figure: go.Figure, result: Any, axis: int, column: int) -> None:
    name = str(result.data["axis"].values[axis])
    figure.update_xaxes(
        title_text=f"strength of {_strength(result, name)}", zeroline=True, zerolinecolor="#d0d4d9", row=1, col=column
    )


def _how(result: Any, axis: int, hold: float) -> str:
    attrs = result.data.attrs
    held = [str(name) for place, name in enumerate(result.data["axis"].values) if place != axis]
    rest = f", {' and '.join(held)} near {hold:g}" if held else ""
    return f"{attrs['mode']} at {attrs['position']}{rest}; sign: {attrs['sign_rule']}; dotted: untouched; bands: 95 %"


def _count(result: Any) -> str:
    return f"{result.data.sizes['prompt']} prompts"
