"""Who can talk to whom: heads as nodes, layer above layer, channels as lines from writer up to reader.

The wider a line, the higher its score over that of a random direction; its colour and dash say whether it is read as query, key or
value; the number at its lower end is the writer's component (none: the whole head). Given `roles` ({"mover": ["9.9"], ...}), heads
have the colours of their roles. It draws a circuit that was found from weights, or the strongest channels of a table of all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput

from .paths import caption
from .shrink import check_budget
from .theme import CATEGORY, FAINT, INK, Theme, dress, plain, text_size

if TYPE_CHECKING:
    from interp.analyses.channels.discovery.result import ChannelCircuitResult
    from interp.analyses.channels.scoring.result import ChannelResult

MOST_EDGES = 80
"""Channels that a graph can still show apart."""
SHOWN = 30
KINDS = {"Q": ("query", 0, "solid"), "K": ("key", 1, "5px,3px"), "V": ("value", 2, "1.5px,2.5px")}
Head = tuple[int, int]


@dataclass(frozen=True)
class Edge:
    """One channel: from a head (and the name of what it writes) to a head."""

    source: Head
    label: str
    kind: str
    target: Head
    over: float
    told: str


def plot(
    result: "ChannelCircuitResult | ChannelResult",
    *,
    n: int = SHOWN,
    roles: Mapping[str, Sequence[Any]] | None = None,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw the `n` strongest channels of a circuit or of a table; `roles` names groups of heads. Raises `BadInput`."""
    if not 1 <= n <= MOST_EDGES:
        raise BadInput(f"`n` must be from 1 to {MOST_EDGES}, as more channels cannot be told apart; not {n}.")
    every, start = _edges(result)
    edges = sorted(every, key=lambda edge: -edge.over)[:n]
    given = {role: {_head(one) for one in heads} for role, heads in (roles or {}).items()}
    nodes = sorted({head for edge in edges for head in (edge.source, edge.target)} | ({start} if start else set()))
    place = _layout(nodes, edges)
    figure = go.Figure()
    taken = [spot.copy() for spot in place.values()]
    ends = (min(one.over for one in edges), max(one.over for one in edges)) if edges else (0.0, 1.0)
    drawn = [_line(edge, place, ends, taken, theme) for edge in reversed(edges)]
    figure.add_traces([trace for trace, _ in drawn])
    figure.update_layout(annotations=[label for _, label in drawn if label])
    _nodes(figure, place, given, start, theme)
    for kind in sorted({edge.kind.partition("@")[0] for edge in edges}):
        name, number, dash = KINDS[kind]
        figure.add_trace(
            go.Scatter(x=[None], y=[None], mode="lines", name=f"read as {name}", line={"color": CATEGORY[number], "dash": dash, "width": 2})
        )  # fmt: skip
    layers = sorted({layer for layer, _ in nodes})
    rows = {layer: row for row, layer in enumerate(layers)}
    widest = max((sum(one[0] == layer for one in nodes) for layer in layers), default=1)
    figure.update_yaxes(
        tickvals=list(rows.values()), ticktext=[f"layer {layer}" for layer in layers], showgrid=False, showline=False, ticks="",
        range=[-0.6, max(len(layers) - 0.4, 0.6)],
    )  # fmt: skip
    figure.update_xaxes(visible=False, range=[-widest / 2 - 0.5, widest / 2 + 0.5])
    figure.update_layout(legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom"})
    title = _title(edges, every, nodes, start)
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=min(0.22 + 0.11 * len(layers), 1.2),
        height=min(200 + 90 * len(layers), 1000), margin={"t": 90 if theme == "screen" else 40},
    )  # fmt: skip
    if not edges:
        figure.add_annotation(
            text="no channel was found", showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5, name="nothing",
            font={"size": text_size(theme), "color": FAINT},
        )  # fmt: skip
    scale = f"; widest: {max(edge.over for edge in edges):.1f} × a random direction" if edges else ""
    caption(figure, f"read upwards; numbers: component{scale}", theme)
    return check_budget(figure)


def _edges(result: Any) -> tuple[list[Edge], Head | None]:
    """Channels of a circuit, or the list of a table; and the head that a walk began at."""
    data = result.data
    if "edge" in data.dims:
        frame = result.edges()
        start = str(data.attrs["start"])
        edges = [
            Edge(
                _head(row["source"]), _part(row["source"]), str(row["kind"]), _head(row["destination"]), float(row["over"]),
                f"{row['source']} → {row['kind']} of {row['destination']}<br>{row['over']:.2f} × random, z {row['z']:.1f}, "
                f"p 10^{row['log10_p']:.1f}",
            )
            for row in frame.to_dict("records")
        ]  # fmt: skip
        return edges, _head(start) if start else None
    if "channel" not in data.dims or "top_score" not in data:
        raise BadInput(f"a {type(result).__name__} holds no list of channels. Draw one of ChannelCircuit or Channels.")
    root = float(np.sqrt(data.attrs["free"]))
    names = ("layer", "head", "component", "kind", "reader_layer", "reader_head", "score", "z")
    edges = []
    for layer, head, component, kind, to_layer, to_head, score, z in zip(
        *(data[f"top_{name}"].values for name in names), strict=True
    ):
        over = float(score) * root
        told = f"{layer}.{head}.{component} → {kind} of {to_layer}.{to_head}<br>{over:.2f} × random, z {z:.1f}"
        edges.append(
            Edge((int(layer), int(head)), str(component), str(kind), (int(to_layer), int(to_head)), over, told)
        )
    return edges, None


def _head(name: Any) -> Head:
    """(layer, head) of `8.10`, `8.10.1`, `3.0.1-2` or (8, 10). Raises `BadInput`."""
    if isinstance(name, tuple | list) and len(name) == 2:
        return int(name[0]), int(name[1])
    words = str(name).split(".")
    if len(words) < 2 or not (words[0].isdigit() and words[1].isdigit()):
        raise BadInput(f"{name!r} does not name a head. Write layer.head, as in '8.10'.")
    return int(words[0]), int(words[1])


def _part(name: Any) -> str:
    return ".".join(str(name).split(".")[2:])


def _layout(nodes: Sequence[Head], edges: Sequence[Edge]) -> dict[Head, np.ndarray]:
    """Where heads stand: a row a layer, in an order that keeps lines short (repeated means of neighbours)."""
    layers = sorted({layer for layer, _ in nodes})
    rows = {layer: [head for head in nodes if head[0] == layer] for layer in layers}
    x: dict[Head, float] = {}

    def spread() -> None:
        for heads in rows.values():
            for position, head in enumerate(heads):
                x[head] = position - (len(heads) - 1) / 2

    spread()
    for sweep in range(12):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            near: dict[Head, list[float]] = {head: [] for head in rows[layer]}
            for edge in edges:
                for one, other in ((edge.source, edge.target), (edge.target, edge.source)):
                    if one in near:
                        near[one].append(x[other])
            want = {head: float(np.mean(found)) if found else x[head] for head, found in near.items()}
            rows[layer].sort(key=lambda head: (want[head], head))
        spread()
    return {head: np.array([x[head], float(layers.index(head[0]))]) for head in nodes}


def _line(
    edge: Edge,
    place: Mapping[Head, np.ndarray],
    ends: tuple[float, float],
    taken: list[np.ndarray],
    theme: Theme,
) -> tuple[go.Scatter, dict[str, Any]]:
    """A curve from writer to reader, with the component's number where nothing else stands; `ends` are the least and largest score."""
    start, end = place[edge.source], place[edge.target]
    rise = end[1] - start[1]
    side = 1.0 if start[0] + end[0] >= 0 else -1.0
    _, number, dash = KINDS[edge.kind.partition("@")[0]]
    bow = (0.0 if rise <= 1 else 0.3 * side * (rise - 1) ** 0.7) + 0.12 * (number - 1)
    middle = (start + end) / 2 + np.array([bow, 0.0])
    t = np.linspace(0, 1, 16)[:, None]
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    share = (edge.over - min(1.0, ends[0])) / ((ends[1] - min(1.0, ends[0])) or 1.0)
    trace = go.Scatter(
        x=curve[:, 0].round(3), y=curve[:, 1].round(3), mode="lines", showlegend=False, opacity=0.8, name="channel",
        line={"color": CATEGORY[number], "width": round(0.7 + 4.5 * share, 2), "dash": dash},
        hovertemplate=plain(edge.told).replace("&lt;br&gt;", "<br>") + "<extra></extra>",
    )  # fmt: skip
    if not edge.label:
        return trace, {}
    near = [min(np.abs((spot - other) * (1.0, 1.6)).max() for other in taken) for spot in curve[3:11]]
    spot = curve[3 + int(np.argmax(near))]
    taken.append(spot)
    return trace, {
        "text": plain(edge.label), "showarrow": False, "x": float(spot[0]), "y": float(spot[1]), "bgcolor": "rgba(255,255,255,0.85)",
        "borderpad": 0.5, "font": {"size": text_size(theme, small=True) - 2, "color": CATEGORY[number]}, "name": "component",
    }  # fmt: skip


def _nodes(
    figure: go.Figure,
    place: Mapping[Head, np.ndarray],
    roles: Mapping[str, set[Head]],
    start: Head | None,
    theme: Theme,
) -> None:
    """Heads, the start with a thick edge, each role in its colour."""
    size = 30 if theme == "screen" else 22
    groups = [
        (role, [head for head in place if head in heads], CATEGORY[(3 + index) % 8])
        for index, (role, heads) in enumerate(roles.items())
    ]
    rest = [head for head in place if not any(head in heads for heads in roles.values())]
    for name, heads, ink in [("", rest, "#ffffff"), *groups]:
        if not heads:
            continue
        at = np.stack([place[head] for head in heads])
        figure.add_trace(
            go.Scatter(
                x=at[:, 0], y=at[:, 1], mode="markers+text", text=[f"{layer}.{head}" for layer, head in heads], name=plain(name) or "heads",
                textposition="middle center", textfont={"size": text_size(theme, small=True) - 1, "color": INK}, showlegend=bool(name),
                hoverinfo="text", marker={
                    "size": size, "opacity": 1.0, "color": _pale(ink) if name else ink,
                    "line": {
                        "color": [INK if head != start else CATEGORY[1] for head in heads],
                        "width": [3 if head == start else 1 for head in heads],
                    },
                },
            )
        )  # fmt: skip


def _pale(ink: str) -> str:
    """A role's colour over white, so that names stay legible and lines do not shine through."""
    values = [round(255 - 0.45 * (255 - int(ink[i : i + 2], 16))) for i in (1, 3, 5)]
    return "#" + "".join(f"{value:02x}" for value in values)


def _title(edges: Sequence[Edge], every: Sequence[Edge], nodes: Sequence[Head], start: Head | None) -> str:
    count = (
        f"{len(edges)} of {len(every)} channels"
        if len(edges) < len(every)
        else f"{len(edges)} channel" + "s" * (len(edges) != 1)
    )
    origin = f", from {start[0]}.{start[1]}" if start else ""
    return f"{count} between {len(nodes)} heads{origin}"
