"""Running text in a figure: a row of tokens, each shaded by a number, the one that matters in the middle and bold."""

from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go

from .theme import EFFECT, INK, QUANTITY, plain

EM = 0.58
"""Width of a character over the size of the text, on average."""


def sentence(
    figure: go.Figure,
    labels: list[str],
    values: np.ndarray,
    at: int,
    y: float,
    *,
    limit: float,
    size: float,
    page: float,
    shade: "Callable[[float], str] | None" = None,
    axis: str = "",
    middle: float = 0.5,
) -> None:
    """One row at height `y` of a panel whose x runs over `page` pixels: token `at` stands at `middle`, the others where there is room.

    A token is shaded by its value over `limit`, through `shade` (by default the map of effects), NaN as 0. `axis` is the panel's number.
    """
    unit = size * EM
    spaced = any("␣" in label for label in labels)
    shown = [label.replace("␣", "\u2009" if spaced else "") for label in labels]
    widths = np.array([max(1, len(text)) * unit + 3.0 for text in shown])
    ends = np.cumsum(widths)
    starts = ends - widths + middle * page - (ends[at] - widths[at] / 2)
    shade = shade or shade_effect
    where = {"xref": f"x{axis}", "yref": f"y{axis}"}
    for place, (text, value, start, wide) in enumerate(zip(shown, values, starts, widths, strict=True)):
        if start < 0 or start + wide > page:
            continue
        amount = float(np.nan_to_num(value)) / limit
        if amount or shade is shade_effect:
            figure.add_shape(
                type="rect", x0=start, x1=start + wide, y0=y - 0.42, y1=y + 0.42, line={"width": 0}, fillcolor=shade(amount), layer="below",
                **where,
            )  # fmt: skip
        figure.add_annotation(
            text=f"<b>{plain(text)}</b>" if place == at else plain(text), x=start + wide / 2, y=y, showarrow=False, borderpad=0,
            font={"size": size - 1, "color": "white" if abs(amount) > 0.62 else INK}, name="token", **where,
        )  # fmt: skip


def shade_effect(value: float) -> str:
    """The effect map's colour at `value` in [-1, 1]."""
    return _sampled(EFFECT, 0.5 + 0.5 * float(np.clip(value, -1, 1)))


def shade_quantity(value: float) -> str:
    """The quantity map's colour at `value` in [0, 1], light enough to be read through up to the middle."""
    return _sampled(QUANTITY, 0.9 * float(np.clip(value, 0, 1)))


def _sampled(scale: list[list[object]], at: float) -> str:
    from plotly.colors import sample_colorscale

    return str(sample_colorscale(scale, [at])[0])
