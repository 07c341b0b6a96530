"""Maps of decision regions: what wins at each point of a grid of coordinates, by colour and by name; grey where nothing does.

`add_regions` draws one map into a panel. Items in an order (item_0, item_1, ...) get the colours of a ramp in that order, others one
colour each. A region's name stands where it is widest; of regions in several pieces, in the widest piece.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .theme import CATEGORY, INK, Theme, plain, text_size

UNDECIDED = "#d9dce0"
RAMP = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"]
"""Viridis: equal steps to the eye, also to a colour-blind one, and in grey."""


@dataclass(frozen=True)
class Items:
    """What may win, in order, each with its colour."""

    names: list[str]
    colours: list[str]

    @classmethod
    def of(cls, names: Sequence[str]) -> "Items":
        """Ramp colours for numbered items, a colour each for up to eight others."""
        ordered = len(names) > len(CATEGORY) or (
            len(names) > 2 and all(re.fullmatch(r"\D*\d+", name) for name in names)
        )
        if not ordered:
            return cls(list(names), CATEGORY[: len(names)])
        places = np.linspace(0.04, 1.0, len(names)) if len(names) > 1 else [0.5]
        return cls(list(names), [_between(place) for place in places])

    @property
    def shown(self) -> list[str]:
        """Short names for labels: the number alone for numbered items."""
        numbered = [re.fullmatch(r"\D*?(\d+)", name) for name in self.names]
        if all(numbered) and len(self.names) > 2:
            return [str(match[1]) for match in numbered if match]
        return self.names


def add_regions(
    figure: go.Figure,
    winner: np.ndarray,
    items: Items,
    *,
    x: Sequence[float],
    y: Sequence[float],
    column: int,
    theme: Theme,
    scale: bool = False,
    most: int = 7,
) -> None:
    """Draw winners [y, x] (places in `items`, -1 for none) into a panel, with names in the regions.

    `scale` adds the key of colours; `most` is how many ticks an axis may have.
    """
    count = len(items.names)
    steps: list[list[Any]] = []
    for place, ink in enumerate([UNDECIDED, *items.colours]):
        steps += [[place / (count + 1), ink], [(place + 1) / (count + 1), ink]]
    names = np.array(["undecided", *items.names])[winner + 1]
    keyed = range(0, count, 1 if count <= (14 if theme == "screen" else 7) else 2 if count <= 14 else 4)
    bar = {
        "title": {"text": "most attended", "side": "right"}, "tickvals": [-1, *keyed], "ticks": "",
        "ticktext": ["none", *[plain(items.shown[place]) for place in keyed]],
    }  # fmt: skip
    figure.add_trace(
        go.Heatmap(
            z=winner.astype(np.float32), x=list(range(len(x))), y=list(range(len(y))), colorscale=steps, zmin=-1.5, zmax=count - 0.5,
            text=names, hovertemplate="%{text}<extra></extra>", showscale=scale, colorbar=bar,
        ),
        row=1, col=column,
    )  # fmt: skip
    for axis, ticks, update in (("x", x, figure.update_xaxes), ("y", y, figure.update_yaxes)):
        places = _ticks(ticks, most)
        update(
            tickvals=places, ticktext=[f"{ticks[place]:g}" for place in places], range=[-0.5, len(ticks) - 0.5], showgrid=False, row=1,
            col=column,
        )  # fmt: skip
        zero = np.flatnonzero(np.isclose(ticks, 0.0))
        if len(zero) and len(ticks) > 1:
            _cross(figure, axis, int(zero[0]), column)
    for place, label in enumerate(items.shown):
        spot = _widest(winner == place)
        if spot is not None:
            number = "" if column == 1 else str(column)
            figure.add_annotation(
                text=plain(label), showarrow=False, x=spot[1], y=spot[0], xref=f"x{number}", yref=f"y{number}", borderpad=0,
                font={"size": text_size(theme, small=True), "color": "white" if _dark(items.colours[place]) else INK}, name="region",
            )  # fmt: skip


def _cross(figure: go.Figure, axis: str, place: int, column: int) -> None:
    number = "" if column == 1 else str(column)
    ends = {"x0": place, "x1": place, "y0": 0, "y1": 1} if axis == "x" else {"x0": 0, "x1": 1, "y0": place, "y1": place}
    refs = {
        "xref": f"x{number}" + ("" if axis == "x" else " domain"),
        "yref": f"y{number}" + ("" if axis == "y" else " domain"),
    }
    figure.add_shape(
        type="line", line={"color": "rgba(255,255,255,0.75)", "width": 1, "dash": "3px,3px"}, **ends, **refs
    )


def _widest(mask: np.ndarray) -> tuple[float, float] | None:
    """The cell of a mask that is farthest from its border, and how far: middle of ties. None for an empty mask."""
    if not mask.any():
        return None
    from scipy.ndimage import distance_transform_edt, label

    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    deepest = label(depth == depth.max(), np.ones((3, 3)))[0]
    sizes = np.bincount(deepest.ravel())[1:]
    rows, columns = np.nonzero(deepest == int(sizes.argmax()) + 1)
    middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return float(rows[middle]), float(columns[middle])


def _ticks(ticks: Sequence[float], most: int) -> list[int]:
    """Places of about `most` ticks, symmetric about the middle."""
    step = max(1, -(-(len(ticks) - 1) // (most - 1)))
    middle = (len(ticks) - 1) // 2
    return [place for place in range(len(ticks)) if (place - middle) % step == 0]


def _between(place: float) -> str:
    at = place * (len(RAMP) - 1)
    low = min(int(at), len(RAMP) - 2)
    ends = [[int(ink[i : i + 2], 16) for i in (1, 3, 5)] for ink in RAMP[low : low + 2]]
    mixed = [round(a + (b - a) * (at - low)) for a, b in zip(*ends, strict=True)]
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _dark(ink: str) -> bool:
    red, green, blue = (int(ink[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 140
