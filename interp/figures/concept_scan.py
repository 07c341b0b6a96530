"""Concept scan: where vectors that promote something lie, and what they promote.

`by="map"`: a dot a vector, layer across, score up; on the right the same score of random directions. Vectors whose top tokens are more
coherent than theirs are coloured, the strongest are named by their first words; with concepts, those that hold one are marked by concept.
Of many vectors the weak ones are drawn as a density: the strongest stay dots. `by="tokens"`: for chosen vectors, bars of their top
tokens' logits, most first.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of
from interp.core.seed import numpy_generator

from .panels import above, panels, place_legend, whole_ticks
from .paths import caption
from .shrink import check_budget
from .theme import CATEGORY, FAINT, INK, SYMBOLS, THEMES, Theme, dress, plain, text_size, translucent

if TYPE_CHECKING:
    from interp.analyses.concepts.scan.result import ConceptScanResult

MOST_DOTS = 4000
"""Vectors that are drawn as dots; of more, the strongest, and the spread of the others."""
MOST_CLOUDS = 4
"""Vectors beside one another in the view of tokens."""
MOST_BARS = 40
LONGEST = 14
GAPS = {2: 0.2, 3: 0.155, 4: 0.12}
"""Between panels, by their number: room for words."""
WIDE = 0.36
"""Half the width of a layer's cloud of dots."""
UNITS = {
    "concreteness": "mean logit of the top tokens",
    "z": "z of the top tokens' mean logit",
    "coherence": "coherence of the top tokens",
}


def plot(
    result: "ConceptScanResult",
    *,
    by: Literal["map", "tokens"] = "map",
    score: Literal["concreteness", "z", "coherence"] | None = None,
    vectors: "str | tuple[str, ...] | None" = None,
    n: int = 12,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw a scan. `score` is that of the map (by default what the scan ranks by), `n` how many of the strongest are named.

    For tokens: `vectors` whose are drawn (by default those that hold the concepts, or the strongest), and `n` how many. Raises `BadInput`.
    """
    one_of("by", by, ("map", "tokens"))
    one_of("theme", theme, THEMES)
    if by == "tokens":
        return _clouds(result, vectors, n, theme, venue)
    ranked = score or str(result.data.attrs["rank_by"])
    one_of("score", ranked, tuple(UNITS))
    return _map(result, ranked, n, theme, venue)


def _map(result: "ConceptScanResult", by: str, n: int, theme: Theme, venue: str) -> go.Figure:
    data = result.data
    value, layer = data[by].values.astype(np.float64), data["layer"].values
    coherent = np.isin(data["vector"].values, result.coherent())
    figure = go.Figure()
    rng = numpy_generator(0, "concept map")
    x = layer + WIDE * rng.uniform(-1, 1, len(value)) * 0.9
    order = np.argsort(-np.nan_to_num(value, nan=-np.inf), kind="stable")
    dots = np.zeros(len(value), dtype=bool)
    dots[order[:MOST_DOTS]] = True
    if not dots.all():
        _densities(figure, value, layer, ~dots)
    small = 3.2 if theme == "paper" else 5
    for group, name, ink, alpha in (
        (~coherent, "as random directions", FAINT, 0.35),
        (coherent, "coherent tokens", CATEGORY[0], 0.75),
    ):
        here = np.flatnonzero(group & dots & np.isfinite(value))
        if len(here):
            _dots(figure, data, here, x, value, name=name, marker={"color": translucent(ink, alpha), "size": small})
    marked = _concepts(figure, result, x, value, small)
    _names(figure, result, x, value, [place for place in order if np.isfinite(value[place])][:n], marked, theme)
    low, high = _null(figure, result, by, theme)
    figure.update_yaxes(title_text=UNITS[by])
    layers = int(layer.max()) + 1
    whole_ticks(figure, "x", layers, most=16)
    figure.update_xaxes(title_text="layer" if layer.min() >= 0 else "file", range=[-0.6, layers - 0.4 + 0.06 * layers])
    sizes = f"{data.sizes['vector']:,} vectors, top {data.attrs['k']} tokens"
    rows = 2 if marked and theme == "paper" else 1
    dress(
        figure, result, theme=theme, title=f"What vectors promote: {sizes}", venue=venue, aspect=0.62, height=520,
        margin=(above(theme, legend_rows=rows) if theme == "paper" else {"t": 56, "r": 190}),
    )  # fmt: skip
    place_legend(figure, theme=theme)
    if low is not None:
        caption(figure, f"grey band: 95 % of random directions ({low:.2g} to {high:.2g})", theme)
    return check_budget(figure)


def _dots(figure: go.Figure, data: Any, places: np.ndarray, x: np.ndarray, value: np.ndarray, **options: Any) -> None:
    names = data["vector"].values[places]
    figure.add_trace(
        go.Scatter(
            x=x[places].astype(np.float32), y=value[places].astype(np.float32), mode="markers", customdata=names,
            hovertemplate="%{customdata}: %{y:.3g}<extra></extra>", **options,
        )
    )  # fmt: skip


def _densities(figure: go.Figure, value: np.ndarray, layer: np.ndarray, group: np.ndarray) -> None:
    """The spread of the weak vectors of each layer, as the outline of a histogram either side of its place."""
    for number in np.unique(layer[group]):
        here = value[group & (layer == number) & np.isfinite(value)]
        if len(here) < 2:
            continue
        count, edge = np.histogram(here, bins=40)
        wide, middle = WIDE * count / max(count.max(), 1), (edge[1:] + edge[:-1]) / 2
        figure.add_trace(
            go.Scatter(
                x=np.concatenate([number - wide, (number + wide)[::-1]]).astype(np.float32),
                y=np.concatenate([middle, middle[::-1]]).astype(np.float32), fill="toself", mode="lines", line={"width": 0},
                fillcolor=translucent(FAINT, 0.3), hoverinfo="skip", showlegend=False,
            )
        )  # fmt: skip


def _concepts(
    figure: go.Figure, result: "ConceptScanResult", x: np.ndarray, value: np.ndarray, small: float
) -> list[int]:
    """The vectors that hold a concept, in a colour and a shape of its own; their places."""
    names = {str(name): place for place, name in enumerate(result.data["vector"].values)}
    marked = list[int]()
    for number, (concept, held) in enumerate(list(result.holding().items())[: len(CATEGORY) - 1], start=1):
        places = np.array([names[one] for one in held if np.isfinite(value[names[one]])], dtype=np.int64)
        if len(places):
            marker = {
                "color": CATEGORY[number],
                "symbol": SYMBOLS[number % len(SYMBOLS)],
                "size": 2.2 * small,
                "line": {"width": 0.7, "color": INK},
            }
            _dots(figure, result.data, places, x, value, name=plain(concept), marker=marker)
            marked += places[:1].tolist()
    return marked


def _names(
    figure: go.Figure,
    result: "ConceptScanResult",
    x: np.ndarray,
    value: np.ndarray,
    first: list[int],
    marked: list[int],
    theme: Theme,
) -> None:
    """The strongest, by name and first words, where they do not cover one another."""
    span = float(np.nanmax(value) - np.nanmin(value)) or 1.0
    layers, taken = int(result.data["layer"].values.max()) + 1, list[tuple[float, float]]()
    wide, high = (0.22 * layers, 0.045) if theme == "screen" else (0.27 * layers, 0.055)
    held = set(result.data["strong"].values.tolist())
    for place in [*marked, *first]:
        name, left = (
            str(result.data["vector"].values[place]),
            x[place] < layers - 1.2,
        )  # words of the last layer go inwards
        at = float(x[place]) + (wide / 2 if left else -wide / 2), float(value[place]) / span
        if name not in held or any(abs(at[0] - a) < wide and abs(at[1] - b) < high for a, b in taken):
            continue
        taken.append(at)
        words = " ".join(word.lstrip("␣") or word for word, _ in result.tokens(name, 3))
        shift = 6 if theme == "screen" else 4
        figure.add_annotation(
            x=float(x[place]), y=float(value[place]), text=plain(f"{name} {words[:24]}"), showarrow=False, yanchor="middle", borderpad=0,
            name="vector",
            xanchor="left" if left else "right", xshift=shift if left else -shift, bgcolor="rgba(255,255,255,0.6)",
            font={"size": text_size(theme, small=True), "color": INK},
        )  # fmt: skip


def _null(figure: go.Figure, result: "ConceptScanResult", by: str, theme: Theme) -> tuple[float | None, float]:
    """The band of random directions; a mean logit has none, for it grows with the vector's length."""
    if by == "concreteness":
        return None, 0.0
    drawn = result.data[f"null_{by}"].values
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return None, 0.0
    low, high = (float(end) for end in np.quantile(drawn, (0.025, 0.975)))
    figure.add_hrect(y0=low, y1=high, fillcolor=FAINT, opacity=0.16, line_width=0, layer="below", name="null")
    return low, high


def _clouds(
    result: "ConceptScanResult", vectors: "str | tuple[str, ...] | None", n: int, theme: Theme, venue: str
) -> go.Figure:
    if not 1 <= n <= MOST_BARS:
        raise BadInput(f"`n` must be from 1 to {MOST_BARS} tokens; not {n}.")
    chosen, said = _chosen(result, vectors)
    if len(chosen) > MOST_CLOUDS:
        raise BadInput(f"{len(chosen)} vectors are asked for, and {MOST_CLOUDS} have room. Name fewer.")
    figure = panels(
        chosen, notes=[said.get(name, "") for name in chosen], theme=theme, gap=0.55 / max(len(chosen), 2) ** 1.4
    )
    count = min(n, result.data.sizes["rank"])
    for column, name in enumerate(chosen, start=1):
        rows = result.tokens(name, count)
        y = list(range(len(rows)))
        words = [plain(word if len(word) <= LONGEST else word[: LONGEST - 1] + "…") for word, _ in rows]
        figure.add_trace(
            go.Bar(
                x=np.array([logit for _, logit in rows], dtype=np.float32), y=y, orientation="h", marker={"color": CATEGORY[0]}, name=name,
                showlegend=False, customdata=[plain(word) for word, _ in rows], hovertemplate="%{customdata}: %{x:.3g}<extra></extra>",
            ),
            row=1, col=column,
        )  # fmt: skip
        figure.update_yaxes(tickvals=y, ticktext=words, range=[len(rows) - 0.4, -0.6], row=1, col=column)
        figure.update_xaxes(
            title_text="logit", zeroline=True, zerolinecolor=INK, zerolinewidth=0.8, nticks=4, row=1, col=column
        )
    small = text_size(theme, small=True)
    figure.update_yaxes(ticks="", showgrid=False, showline=False, tickfont={"size": small}, automargin=False)
    dress(
        figure, result, theme=theme, title="Top tokens", venue=venue, aspect=min(0.16 + 0.028 * count, 1.1), height=170 + 19 * count,
        margin=above(theme) | {"l": 100 if theme == "screen" else 68},
    )  # fmt: skip
    return check_budget(figure)


def _chosen(result: "ConceptScanResult", vectors: "str | tuple[str, ...] | None") -> tuple[list[str], dict[str, str]]:
    """Names of the vectors to draw, and the concept that each holds."""
    said = {held[0]: concept for concept, held in result.holding().items() if held}
    if vectors is not None:
        return [vectors] if isinstance(vectors, str) else list(map(str, vectors)), said
    first = [str(name) for name in result.data["strong"].values]
    return list(dict.fromkeys([*said, *first]))[: MOST_CLOUDS if said else 3], said
