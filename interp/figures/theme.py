"""One look, two themes: `screen` to explore, `paper` to paste.

The paper theme follows what venues ask: the width of their columns, 8 pt text, no title (the caption does that), vector text, and no
second-hand raster: gaps, smoothing and uneven axes turn a heatmap into a blurred screenshot in a PDF, so marks never use them.
Colours are safe for colour-blind readers: Okabe-Ito for categories, a diverging map whose white is exactly zero for effects, a
single-hue ramp for quantities. Parts of the network keep their colour from figure to figure (`PARTS`). Nothing global is touched: a
template travels with its figure.
"""

import html
from typing import TYPE_CHECKING, Any, Literal

import plotly.graph_objects as go

from interp.core.errors import one_of

if TYPE_CHECKING:
    from interp.core.analysis import Result

Theme = Literal["screen", "paper"]
THEMES = ("screen", "paper")

PX_PER_INCH = 96
VENUES = {  # column and text widths in inches
    "icml-column": 3.25, "icml-page": 6.75, "neurips": 5.5, "iclr": 5.5, "acl-column": 3.03, "acl-page": 6.3,
}  # fmt: skip

MARGIN = {"screen": {"l": 60, "r": 24, "t": 56, "b": 70}, "paper": {"l": 40, "r": 8, "t": 8, "b": 46}}
"""Pixels around the panels; below them are the axis' title and the footer."""

INK, FAINT, GRID = "#1f2328", "#6e7781", "#e7e9ec"
CATEGORY = [
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#6b6b6b",
    "#B8A900",
]  # Okabe-Ito, its yellow darkened
DASHES = ["solid", "5px,3px", "1.5px,2px", "6px,2px,1.5px,2px", "9px,3px", "9px,2px,1.5px,2px", "solid", "5px,3px"]
SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon"]
PARTS = {"state": 0, "MLP": 1, "attention": 2}
"""Style of each part of the network, in every figure."""
EFFECT = [  # blue - white - red, white at zero
    [0.0, "#053061"], [0.125, "#2166ac"], [0.25, "#4393c3"], [0.375, "#92c5de"], [0.46, "#d9e8f2"], [0.5, "#ffffff"],
    [0.54, "#fae3d7"], [0.625, "#f4a582"], [0.75, "#d6604d"], [0.875, "#b2182b"], [1.0, "#67001f"],
]  # fmt: skip
QUANTITY = [
    [0.0, "#ffffff"], [0.15, "#e3eef6"], [0.35, "#a9cde4"], [0.55, "#5ba3cf"], [0.75, "#2171b5"], [1.0, "#08306b"],
]  # fmt: skip


def template(theme: Theme = "screen") -> go.layout.Template:
    """The plotly template of a theme."""
    one_of("theme", theme, THEMES)
    paper = theme == "paper"
    family = (
        "Times New Roman, Liberation Serif, serif"
        if paper
        else "Inter, Helvetica Neue, Arial, Liberation Sans, sans-serif"
    )
    size, small = text_size(theme), text_size(theme, small=True)
    axis = {
        "showline": True, "linecolor": INK if paper else FAINT, "linewidth": 0.8 if paper else 1, "ticks": "outside", "ticklen": 3,
        "tickwidth": 0.8 if paper else 1, "tickcolor": INK if paper else FAINT, "gridcolor": GRID, "zeroline": False,
        "showgrid": not paper, "tickangle": 0, "exponentformat": "power",
        "tickfont": {"size": small}, "title": {"standoff": 5, "font": {"size": size}},
    }  # fmt: skip
    layout = go.Layout(
        font={"family": family, "size": size, "color": INK},
        colorway=CATEGORY,
        paper_bgcolor="white",
        plot_bgcolor="white",
        xaxis=axis,
        yaxis=axis | {"automargin": "left"},
        legend={"bgcolor": "rgba(255,255,255,0.7)", "borderwidth": 0, "font": {"size": small}, "tracegroupgap": 0},
        margin=dict(MARGIN[theme]),
        hoverlabel={"font": {"family": "ui-monospace, Menlo, Liberation Mono, monospace", "size": 12}},
        title={"x": 0.0, "xanchor": "left", "xref": "paper", "y": 1.0, "yref": "container", "yanchor": "top",
               "pad": {"t": 16}, "font": {"size": 16}},
        modebar={"remove": ["lasso2d", "select2d", "zoomIn2d", "zoomOut2d", "autoScale2d"]},
    )  # fmt: skip
    bar = {
        "outlinewidth": 0, "thickness": 8 if paper else 12, "ticklen": 3, "tickfont": {"size": small}, "len": 1.0, "xpad": 6,
        "exponentformat": "power",
        "title": {"font": {"size": size}, "side": "right"},
    }  # fmt: skip
    marks = {"line": {"width": 1.25 if paper else 2}, "marker": {"size": 4 if paper else 6}}
    return go.layout.Template(
        layout=layout, data={"heatmap": [go.Heatmap(colorbar=bar)], "scatter": [go.Scatter(marks)]}
    )


def text_size(theme: Theme, *, small: bool = False) -> float:
    """Pixels of text: 8 and 7 points on paper."""
    return (9.33 if small else 10.67) if theme == "paper" else (11 if small else 13)


def dress(
    figure: go.Figure,
    result: "Result | None" = None,
    *,
    theme: Theme = "screen",
    title: str = "",
    venue: str = "neurips",
    aspect: float = 0.62,
    height: int = 400,
    margin: "dict[str, int] | None" = None,
) -> go.Figure:
    """Finish a figure: template, title on screen, size of the venue on paper, provenance in the corner.

    `venue` is a key of `VENUES` and `aspect` height over width, on paper; `height` is in pixels, on screen. `margin` replaces sides of
    the theme's own. Raises `BadInput` for other names.
    """
    figure.update_layout(template=template(theme))
    sides = MARGIN[theme] | (margin or {})
    figure.update_layout(margin=sides)
    if theme == "paper":
        one_of("venue", venue, VENUES)
        width = round(VENUES[venue] * PX_PER_INCH)
        figure.update_layout(width=width, height=round(width * aspect), title=None)
    else:
        figure.update_layout(title={"text": plain(title)}, height=height)
    if result is not None:
        _footer(figure, result.manifest.line, theme, sides["b"])
    return figure


def _footer(figure: go.Figure, text: str, theme: Theme, below: int) -> None:
    """Provenance at the very bottom of the page, under everything else."""
    size = 5 * 4 / 3 if theme == "paper" else 10
    figure.add_annotation(
        text=plain(text), showarrow=False, xref="paper", yref="paper", x=1.0, y=0.0, xanchor="right", yanchor="bottom",
        yshift=2 - below, font={"size": size, "color": FAINT}, borderpad=0, name="footer",
    )  # fmt: skip


def plain(text: str) -> str:
    """Text as it is: plotly reads `<s>` as a tag, and would leave out `<bos>`."""
    return html.escape(str(text), quote=False)


def colour(index: int) -> str:
    """The `index`-th category colour, repeating."""
    return CATEGORY[index % len(CATEGORY)]


def line_style(index: int) -> dict[str, Any]:
    """Colour and dash of the `index`-th line: never colour alone."""
    return {"color": colour(index), "dash": DASHES[index % len(DASHES)]}


def translucent(hex_colour: str, alpha: float = 0.18) -> str:
    """A category colour as a band."""
    red, green, blue = (int(hex_colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def symmetric(limit: float) -> dict[str, Any]:
    """Heatmap options for effects: white is zero, both sides reach `limit`."""
    limit = limit or 1.0
    return {"colorscale": EFFECT, "zmid": 0.0, "zmin": -limit, "zmax": limit}
