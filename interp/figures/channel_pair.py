"""Components one by one: the spectrum of heads, and one pair of heads with what random directions would score.

`spectrum` holds several writers side by side: singular values, the gap to the next (where it is near 1, the single component is not
defined, only the plane of both), and each component's score into one reader. `pair` is one writer and one reader, with all readers of the
chosen component; on screen a menu walks through the strongest channels. The band holds 95 % of random directions; one in a hundred heads
of random components has any above the dotted line (Bonferroni over the head's components).
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, listing

from . import channel_null
from .channel_axes import HOLE, into, kinds_of, place_of, strongest
from .marks import grid, line
from .panels import above, panels, place_legend, whole_ticks
from .shrink import check_budget
from .theme import FAINT, INK, Theme, colour, dress, text_size, translucent

if TYPE_CHECKING:
    from interp.analyses.channels.scoring.result import ChannelResult

MOST_HEADS = 6
"""Writers of one spectrum that can be told apart."""
MENU = 15
"""Channels that the menu offers."""
LEVEL = 0.01
"""How often a head of random components passes the dotted line."""


def spectrum(
    result: "ChannelResult",
    *,
    kind: Any = None,
    writer: Any = None,
    reader: Any = None,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Singular values, gaps and scores into `reader` of one or several writers ("8.10" or ["7.9", "8.10"])."""
    chosen, writers, read = _named(result, kind, writer, reader)
    if len(writers) > MOST_HEADS:
        raise BadInput(f"{len(writers)} writers cannot be told apart in one spectrum. Choose at most {MOST_HEADS}.")
    places = [place_of(result, one, what="writer") for one in writers]
    titles = ["singular values", "gap to the next", f"{into(chosen, read)}"]
    figure = panels(titles, theme=theme)
    components = result.data["component"].values.tolist()
    for index, (name, (layer, head)) in enumerate(zip(writers, places, strict=True)):
        scores, low, high, bound = _scores(result, chosen, (layer, head), read)
        if index == 0:
            _band(figure, components, low, high, bound, column=3, theme=theme)
        for column, values in enumerate(
            (_of(result, "value", layer, head), _of(result, "gap", layer, head), scores), start=1
        ):
            trace = line(
                components, values, name=name, index=index, showlegend=column == 1,
                hovertemplate=f"{name}.%{{x}}: %{{y:.3g}}<extra></extra>",
            )  # fmt: skip
            figure.add_trace(trace, row=1, col=column)
    figure.update_xaxes(title_text="component", rangemode="tozero")
    for column, (text, floor) in enumerate(
        (("singular value", 0), ("ratio to the next", 1), ("score / random", 0)), start=1
    ):
        figure.update_yaxes(title_text=text, row=1, col=column)
        _start(figure, column, floor)
    place_legend(figure, theme=theme)
    title = f"Components of {', '.join(writers)}, {into(chosen, read)}"
    dress(
        figure,
        result,
        theme=theme,
        title=title,
        venue=venue,
        aspect=0.42,
        height=380,
        margin=above(theme, legend_rows=1),
    )
    return check_budget(figure)


def pair(
    result: "ChannelResult",
    *,
    kind: Any = None,
    writer: Any = None,
    reader: Any = None,
    component: int | None = None,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Scores of a writer's components into one reader, its singular values, and every reader of `component` (the strongest)."""
    chosen, writers, read = _named(result, kind, writer, reader)
    if len(writers) > 1:
        raise BadInput(f"by='pair' draws one writer, not {listing(writers)}. Use by='spectrum' for several.")
    shown = [(chosen, writers[0], read, component)]
    if theme == "screen":
        shown += [one for one in _top(result) if one[:3] != shown[0][:3]]
    views = [_View(result, *one) for one in shown]
    figure = panels(views[0].titles, theme=theme)
    for number, domain in enumerate(((0.0, 0.4), (0.49, 0.66), (0.76, 1.0)), start=1):
        figure.update_xaxes(domain=domain, row=1, col=number)
    for trace, column in zip(views[0].traces, (1, 1, 1, 2, 3), strict=True):
        figure.add_trace(trace, row=1, col=column)
    figure.update_xaxes(title_text="component", row=1, col=1)
    figure.update_xaxes(title_text="component", row=1, col=2)
    for column, text in ((1, "score / random"), (2, "singular value")):
        figure.update_yaxes(title_text=text, row=1, col=column)
        _start(figure, column, 0)
    whole_ticks(figure, "x", result.data.sizes["reader_head"], most=6, column=3)
    whole_ticks(figure, "y", result.data.sizes["reader_layer"], most=12, column=3)
    figure.update_xaxes(title_text="reading head", showgrid=False, row=1, col=3)
    figure.update_yaxes(title_text="layer", showgrid=False, row=1, col=3)
    margin = above(theme) | ({"t": 110} if len(views) > 1 else {})
    dress(
        figure,
        result,
        theme=theme,
        title=views[0].title,
        venue=venue,
        aspect=0.36,
        height=420 if len(views) > 1 else 380,
        margin=margin,
    )
    figure.add_shape(
        type="rect", xref="x3 domain", yref="y3 domain", x0=0, x1=1, y0=0, y1=1, fillcolor=HOLE, line={"width": 0}, layer="below"
    )  # fmt: skip
    if len(views) > 1:
        _menu(figure, views)
    return check_budget(figure)


class _View:
    """Traces and titles of one pair: band, bound, bars, spectrum, readers."""

    def __init__(self, result: "ChannelResult", kind: str, writer: str, reader: str, component: int | None):
        place = place_of(result, writer, what="writer")
        scores, low, high, bound = _scores(result, kind, place, reader)
        rank = int(np.isfinite(scores).sum())
        if component is not None and not 0 <= component < rank:
            raise BadInput(f"`component` must be from 0 to {rank - 1}, as {writer} has {rank}; not {component}.")
        index = int(np.nanargmax(scores)) if component is None else component
        components = np.arange(len(scores))
        value = _of(result, "value", *place)
        inks = np.where(components == index, colour(1), colour(0)).tolist()
        self.name = f"{kind}  {writer}.{index} → {reader}"
        self.title = f"Component {index} of head {writer}, {into(kind, reader)}: {scores[index]:.1f} × random"
        self.titles = [
            f"{writer} {into(kind, reader)}",
            f"spectrum of {writer}",
            f"readers of {writer}.{index}",
        ]
        readers = result.data["score"].sel(kind=kind).isel(layer=place[0], head=place[1], component=index)
        root = float(np.sqrt(result.data.attrs["free"]))
        other = readers.transpose("reader_layer", "reader_head").values.astype(np.float64) * root
        ends = [-0.5, len(scores) - 0.5]
        flat = [value_ for value_ in (low, low, high, high)]
        self.traces = (
            go.Scatter(
                x=[*ends, *ends[::-1]], y=flat, fill="toself", mode="lines", line={"width": 0}, fillcolor=translucent(FAINT, 0.22),
                hoverinfo="skip", showlegend=False, name="95 % of random directions",
            ),
            go.Scatter(
                x=ends, y=[bound, bound], mode="lines", line={"color": FAINT, "width": 1.2, "dash": "2px,2px"}, showlegend=False,
                hovertemplate=f"%{{y:.2f}}: one of {1 / LEVEL:.0f} random heads has one above<extra></extra>", name="bound",
            ),
            go.Bar(
                x=components, y=scores.astype(np.float32), marker={"color": inks}, showlegend=False, name="components",
                customdata=np.stack([value, _of(result, "gap", *place)], -1).astype(np.float32),
                hovertemplate=f"{writer}.%{{x}}: %{{y:.2f}} × random<br>singular value %{{customdata[0]:.3g}}, "
                "%{customdata[1]:.3g} × the next<extra></extra>",
            ),
            go.Scatter(
                x=components, y=value.astype(np.float32), mode="lines+markers", line={"color": colour(0)}, showlegend=False,
                name="spectrum", marker={"color": inks, "size": 5}, hovertemplate=f"{writer}.%{{x}}: %{{y:.3g}}<extra></extra>",
            ),
            grid(
                other, x=list(range(other.shape[1])), y=list(range(other.shape[0])), limit=max(3.0, float(np.nanmax(other))),
                name="score / random", hover="reader %{y}.%{x}<br>%{z:.2f} × random",
            ),
        )  # fmt: skip


def _menu(figure: go.Figure, views: list[_View]) -> None:
    """A menu over the views: each choice replaces the traces' numbers and the titles."""
    titles = [number for number, note in enumerate(figure.layout.annotations) if note.name == "panel title"]
    buttons = []
    for view in views:
        changes: dict[str, list[Any]] = {}
        for key in ("x", "y", "z", "marker.color", "customdata", "hovertemplate", "zmax"):
            values = [_plain(trace, key) for trace in view.traces]
            changes[key] = [
                value if value is not None else _plain(old, key) for value, old in zip(values, figure.data, strict=True)
            ]
        words = {f"annotations[{number}].text": text for number, text in zip(titles, view.titles, strict=True)}
        buttons.append({"label": view.name, "method": "update", "args": [changes, words | {"title.text": view.title}]})
    figure.update_layout(
        updatemenus=[
            {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 26}, "font": {"size": 11},
             "bgcolor": "white", "bordercolor": "#c9ced4"}
        ]
    )  # fmt: skip


def _plain(trace: Any, key: str) -> Any:
    value: Any = trace
    for part in key.split("."):
        if part not in value or value[part] is None:  # a trace has no `get`
            return None
        value = value[part]
    if isinstance(value, np.ndarray):
        if value.dtype.kind != "f":
            return value.tolist()
        rounded = np.array([float(f"{number:.4g}") for number in value.ravel()]).reshape(value.shape)
        return np.where(np.isnan(rounded), None, rounded).tolist()  # type: ignore[call-overload]
    return list(value) if isinstance(value, tuple) else value


def _top(result: "ChannelResult") -> list[tuple[str, str, str, int | None]]:
    """The strongest channels, one a pair of heads and kind."""
    data = result.data
    rows: list[tuple[str, str, str, int | None]] = []
    for at in range(data.sizes["channel"]):
        part = {
            name: data[f"top_{name}"].values[at]
            for name in ("kind", "layer", "head", "component", "reader_layer", "reader_head")
        }
        one = (
            str(part["kind"]),
            f"{part['layer']}.{part['head']}",
            f"{part['reader_layer']}.{part['reader_head']}",
            int(part["component"]),
        )
        if all(one[:3] != other[:3] for other in rows):
            rows.append(one)
    return rows[:MENU]


def _named(result: "ChannelResult", kind: Any, writer: Any, reader: Any) -> tuple[str, list[str], str]:
    """Kind, writers and reader: those asked for, the others from the strongest channel that fits. Raises `BadInput`."""
    if "score" not in result.data:
        raise BadInput(
            "this result holds no scores of single components: the model has too many. Run `Channels` with a larger `most`, or use "
            "by='best' or by='reader'."
        )
    kinds = kinds_of(result, kind)
    writers = None if writer is None else [writer] if isinstance(writer, str | tuple) else list(writer)
    if writers is not None and not writers:
        raise BadInput("`writer` names no head. Give one, or several, as layer.head.")
    best = result.data["best"].sel(kind=kinds)
    if writers is not None:
        layer, head = place_of(result, writers[0], what="writer")
        best = best.isel(layer=[layer], head=[head])
    if reader is not None:
        layer, head = place_of(result, reader, what="reader", reader=True)
        best = best.isel(reader_layer=[layer], reader_head=[head])
    found = strongest(_Part(best.to_dataset(name="best")))
    names = (
        [found[1]] if writers is None else [one if isinstance(one, str) else f"{one[0]}.{one[1]}" for one in writers]
    )
    return found[0], names, found[2]


class _Part:
    """A piece of a result, for functions that read `data` only."""

    def __init__(self, data: Any):
        self.data = data


def _scores(
    result: "ChannelResult", kind: str, writer: tuple[int, int], reader: str
) -> tuple[np.ndarray, float, float, float]:
    """Scores in units of a random direction's, the 95 % band of random directions, and the bound of a whole head."""
    layer, head = place_of(result, reader, what="reader", reader=True)
    part = result.data.sel(kind=kind).isel(reader_layer=layer, reader_head=head)
    scores = part["score"].isel(layer=writer[0], head=writer[1]).values.astype(np.float64)
    if not np.isfinite(scores).any():
        name = f"{result.data['layer'].values[writer[0]]}.{result.data['head'].values[writer[1]]}"
        if layer > writer[0]:
            raise BadInput(f"head {name} or head {reader} has zero weights: nothing is written or read. Choose others.")
        raise BadInput(
            f"head {reader} does not come after head {name}, so it cannot read it. Choose a reader of a later layer."
        )
    n = int(result.data.attrs["free"])
    root = float(np.sqrt(n))
    values, rank = part["spectrum"].values, max(1, int(np.isfinite(scores).sum()))
    low, high, bound = (channel_null.quantiles((0.025, 0.975, 1 - LEVEL / rank), values, n) * root).tolist()
    return scores * root, low, high, bound


def _band(figure: go.Figure, x: list[int], low: float, high: float, bound: float, *, column: int, theme: Theme) -> None:
    number = "" if column == 1 else str(column)
    figure.add_shape(
        type="rect", xref=f"x{number} domain", yref=f"y{number}", x0=0, x1=1, y0=low, y1=high, fillcolor=translucent(FAINT, 0.22),
        line={"width": 0}, layer="below",
    )  # fmt: skip
    figure.add_shape(
        type="line", xref=f"x{number} domain", yref=f"y{number}", x0=0, x1=1, y0=bound, y1=bound,
        line={"color": FAINT, "width": 1.2, "dash": "2px,2px"},
    )  # fmt: skip
    figure.add_annotation(
        text="random: 95 %, and 1 in 100 heads", showarrow=False, xref=f"x{number} domain", yref=f"y{number}", x=1, y=bound,
        xanchor="right", yanchor="bottom", font={"size": text_size(theme, small=True) - 1, "color": INK}, name="band",
    )  # fmt: skip


def _start(figure: go.Figure, column: int, floor: float) -> None:
    """The y axis of a panel begins at `floor`, and ends where its data ask for (also after the menu has changed them)."""
    options = {"range": [floor, None]} if floor else {"rangemode": "tozero"}
    figure.update_yaxes(**options, row=1, col=column)


def _of(result: "ChannelResult", name: str, layer: int, head: int) -> np.ndarray:
    return result.data[name].isel(layer=layer, head=head).values.astype(np.float64)
