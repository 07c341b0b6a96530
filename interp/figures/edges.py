"""Edges: the circuit as a layered graph, the whole matrix, and how much of the task circuits of each size do.

`by="graph"` draws the edges of one circuit from the input at the bottom to the logits on top; the wider, the larger the effect; red edges
carry the answer, blue ones act against it; the dash says whether a head reads by its query, key or value. `by="matrix"` is every edge,
sources on y and readers on x. `by="faithfulness"` is what circuits do when all other edges are corrupted, with random circuits of the same
size, no edge (0) and all edges (1).
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from .marks import band, grid
from .panels import above, panels
from .shrink import check_budget
from .theme import FAINT, INK, Theme, colour, dress, text_size

if TYPE_CHECKING:
    from interp.analyses.attribution import EdgeResult

UNITS = {"logit_diff": "logit difference", "logprob": "log P(answer), nats", "prob": "P(answer)"}
DASH = {"q": "5px,3px", "k": "1.5px,2.5px", "v": "solid", "": "solid"}
SIGN = {True: "#b2182b", False: "#2166ac"}
MOST_EDGES = 150
"""Edges of a graph that can still be told apart."""


def plot(
    result: "EdgeResult", *, by: str = "graph", n: int | None = None, theme: Theme = "screen", venue: str = "neurips"
) -> go.Figure:
    """Draw the circuit of `n` edges ('graph'; by default the smallest that was run, or 40), all edges ('matrix') or 'faithfulness'."""
    one_of("by", by, ("graph", "matrix", "faithfulness"))
    pairs = f"{result.data.sizes['pair']} pairs"
    if by == "matrix":
        figure, height = _matrix(result, theme)
        title = f"What each edge is worth ({pairs})"
    elif by == "faithfulness":
        figure, height = _faithfulness(result, theme), 380
        title = f"How much of the task circuits do ({pairs})"
    else:
        figure, height, count = _graph(result, n, theme)
        title = f"A circuit of {count} of {int(result.graph.edges.sum()):,} edges ({pairs})"
    margin = above(theme) | ({"t": 40} if theme == "paper" and by == "graph" else {})
    dress(
        figure,
        result,
        theme=theme,
        title=title,
        venue=venue,
        aspect=min(height / 620, 1.1),
        height=height,
        margin=margin,
    )
    return check_budget(figure)


def _matrix(result: "EdgeResult", theme: Theme) -> tuple[go.Figure, int]:
    figure = panels(["score"], theme=theme)
    mean = result.data["score"].mean("pair").values
    graph = result.graph
    figure.add_trace(
        grid(
            mean, x=list(range(mean.shape[1])), y=list(range(mean.shape[0])), effect=True,
            name=f"effect on {UNITS[str(result.data.attrs['metric'])]}", hover="source %{y} → reader %{x}<br>effect %{z:.4f}",
        )
    )  # fmt: skip
    step = max(1, len(graph.sources) // 40)
    shown = list(range(0, len(graph.sources), step))
    small = {"size": text_size(theme, small=True) - (2 if len(shown) > 24 else 0)}
    figure.update_yaxes(
        tickvals=shown,
        ticktext=[graph.sources[place] for place in shown],
        tickfont=small,
        title_text="source",
        showgrid=False,
    )
    width = 3 * graph.n_heads + 1
    places, names = [], []
    for layer in range(graph.n_layers):
        places += [layer * width + part * graph.n_heads + (graph.n_heads - 1) / 2 for part in range(3)]
        names += ["q", f"k<br>layer {layer}", "v"]
    figure.update_xaxes(
        tickvals=[*places, mean.shape[1] - 1], ticktext=[*names, "logits"], tickfont=small, title_text="reader (MLP last in each layer)",
        showgrid=False, ticks="",
    )  # fmt: skip
    edge = {"type": "line", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": FAINT, "width": 0.6}}
    for layer in range(1, graph.n_layers + 1):
        figure.add_shape(**edge, x0=layer * width - 0.5, x1=layer * width - 0.5)
    return figure, min(220 + 14 * len(graph.sources), 760)


def _faithfulness(result: "EdgeResult", theme: Theme) -> go.Figure:
    share = result.faithfulness()
    figure = panels(["faithfulness"], theme=theme)
    edges = share["edges"].values.tolist()
    for trace in band(
        edges, share["circuit"].values, share["ci_lo"].values, share["ci_hi"].values, name="circuit", index=0
    ):
        figure.add_trace(trace)
    if "random" in share:
        counts = result.data["random_edges"].values
        figure.add_trace(
            go.Scatter(
                x=counts.ravel(), y=share["random"].values.ravel().astype(np.float32), mode="markers", name="random circuits",
                marker={"color": colour(6), "symbol": "x"}, hovertemplate="%{x} edges: %{y:.3f}<extra>random</extra>",
            )
        )  # fmt: skip
    for value, name in ((0.0, "no edge"), (1.0, "all edges")):
        figure.add_hline(y=value, line={"color": FAINT, "width": 1, "dash": "4px,3px"})
        figure.add_annotation(
            text=name, showarrow=False, xref="x domain", x=1.0, y=value, xanchor="right", yanchor="bottom",
            font={"size": text_size(theme, small=True), "color": FAINT},
        )  # fmt: skip
    figure.update_xaxes(title_text="edges", rangemode="tozero")
    figure.update_yaxes(title_text="share of the effect")
    figure.update_layout(legend={"x": 0.98, "xanchor": "right", "y": 0.5, "yanchor": "middle"})
    return figure


def _graph(result: "EdgeResult", n: int | None, theme: Theme) -> tuple[go.Figure, int, int]:
    graph = result.graph
    wanted = (
        n
        if n is not None
        else int(result.data["size"].values.min())
        if "size" in result.data.dims
        else min(40, int(graph.edges.sum()))
    )
    table = result.circuit(wanted)
    if len(table) > MOST_EDGES:
        raise BadInput(
            f"a circuit of {len(table)} edges cannot be read as a graph. Draw n={MOST_EDGES} or fewer, or by='matrix'."
        )
    figure = go.Figure()
    top = float(np.abs(table["score"]).max()) if len(table) else 1.0
    for row in table.iloc[::-1].itertuples():  # the strongest on top
        _edge(figure, graph, row, top)
    names = ["input", *dict.fromkeys([*table["source"], *(_owner(name) for name in table["destination"])]), "logits"]
    names = list(dict.fromkeys(names))
    where = np.array([_place(graph, name) for name in names])
    figure.add_trace(
        go.Scatter(
            x=where[:, 0], y=where[:, 1], mode="markers+text", text=[name.replace("mlp", "MLP") for name in names],
            textposition="middle center", textfont={"size": text_size(theme, small=True) - 1}, hovertemplate="%{text}<extra></extra>",
            marker={
                "size": 30 if theme == "screen" else 24, "color": "white", "line": {"color": INK, "width": 1},
                "symbol": ["square" if "mlp" in name else "circle" for name in names],
            },
            showlegend=False,
        )
    )  # fmt: skip
    _key(figure, table)
    ticks = [_place(graph, f"{layer}.0")[1] + 0.25 for layer in range(graph.n_layers)]
    figure.update_yaxes(
        tickvals=ticks,
        ticktext=[f"layer {layer}" for layer in range(graph.n_layers)],
        showgrid=False,
        showline=False,
        ticks="",
        range=[-1.15, graph.n_layers + 0.5],
    )
    figure.update_xaxes(visible=False, range=[-0.9, graph.n_heads + 0.9])
    return figure, min(240 + 110 * graph.n_layers, 900), len(table)


def _edge(figure: go.Figure, graph: Any, row: Any, top: float) -> None:
    """A curve from source to reader: long edges bow outwards, so that they do not run through the nodes between."""
    start, end = np.array(_place(graph, row.source)), np.array(_place(graph, _owner(row.destination)))
    side = 1.0 if start[0] + end[0] > graph.n_heads else -1.0
    bow = 0.0 if end[1] - start[1] <= 1.05 else 0.28 * side * (end[1] - start[1]) ** 0.6
    middle = (start + end) / 2 + np.array([bow, 0.0])
    t = np.linspace(0, 1, 14)[:, None]
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    read = row.destination.rpartition(".")[2] if row.destination.count(".") == 2 else ""
    figure.add_trace(
        go.Scatter(
            x=curve[:, 0].round(3), y=curve[:, 1].round(3), mode="lines", showlegend=False, opacity=0.8,
            line={"color": SIGN[row.score >= 0], "width": round(0.6 + 5 * abs(row.score) / (top or 1.0), 2), "dash": DASH[read]},
            hovertemplate=f"{row.source} → {row.destination}<br>effect {row.score:.4f}<extra></extra>",
        )
    )  # fmt: skip


def _key(figure: go.Figure, table: Any) -> None:
    """What dashes and colours mean, for those that occur."""
    reads = {name.rpartition(".")[2] for name in table["destination"] if name.count(".") == 2}
    entries = [
        (f"into {name}", INK, DASH[kind])
        for kind, name in (("q", "a query"), ("k", "a key"), ("v", "a value"))
        if kind in reads
    ]
    entries += [
        (name, SIGN[sign], "solid")
        for sign, name in ((True, "for the answer"), (False, "against it"))
        if ((table["score"] >= 0) == sign).any()
    ]
    for name, ink, dash in entries:
        figure.add_trace(
            go.Scatter(x=[None], y=[None], mode="lines", name=name, line={"color": ink, "dash": dash, "width": 2})
        )
    figure.update_layout(legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom"})


def _owner(destination: str) -> str:
    return destination.rpartition(".")[0] if destination.count(".") == 2 else destination


def _place(graph: Any, name: str) -> tuple[float, float]:
    """Where a node stands: heads in a row a layer, the MLP above and to their right, input below and logits on top."""
    middle = graph.n_heads / 2
    if name == "input":
        return middle, -0.75
    if name == "logits":
        return middle, float(graph.n_layers) + 0.1
    if name.startswith("mlp"):
        return float(graph.n_heads), int(name[4:]) + 0.5
    layer, head = (int(part) for part in name.split("."))
    return float(head), float(layer)
