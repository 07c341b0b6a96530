"""From a figure to a file: HTML, JSON, SVG, PDF, PNG.

Static formats are drawn by a Chromium on this machine through kaleido, kept warm over several exports and stopped at exit. Dates and
random ids are taken out, so that the same figure gives the same bytes with the same browser. Without a Chromium the error says what
to install; nothing half written stays behind.
"""

import atexit
import os
import re
import shutil
import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from interp.core.errors import BadInput, InterpError, one_of

from .theme import Theme

if TYPE_CHECKING:
    from interp.core.analysis import Result

VECTOR = ("svg", "pdf")
STATIC = (*VECTOR, "png")
FORMATS = ("html", "json", *STATIC)
PAGE_STYLE = "<style>@page { margin: 0 } body { margin: 0 } img { display: block }</style>"
"""Without it the browser's own print margins push a PDF to the right and down, and cut off what stands at its edges."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


CONFIG = {"displaylogo": False, "displayModeBar": "hover", "toImageButtonOptions": {"format": "svg"}}
"""Of plotly's own buttons: shown when the pointer is there; the camera saves a vector picture."""


class NoBrowser(InterpError, RuntimeError):
    """Static export was asked for and no Chromium is there."""


def browser() -> str | None:
    """Path of the Chromium that exports would use: `BROWSER_PATH`, else the usual names on the path."""
    named = os.environ.get("BROWSER_PATH")
    if named:
        return named if Path(named).exists() else None
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def check_browser() -> None:
    """Raise `NoBrowser`, with what to install, where static formats cannot be drawn."""
    if browser() is None:
        raise NoBrowser(
            "SVG, PDF and PNG are drawn by Chromium, and none was found. Install it (Debian: the package `chromium`; anywhere: the "
            "command `plotly_get_chrome`), or name one in BROWSER_PATH, or export HTML."
        )


def save(figure: go.Figure, path: str | Path, *, scale: float = 2.0) -> Path:
    """Write a figure; the format is the file's ending. Returns the path.

    HTML opens offline: plotly.js is put beside it once a folder. `scale` is for PNG only. Raises `BadInput` for an unknown ending,
    `NoBrowser` where a static format is asked for and no Chromium is there.
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    one_of("format", kind, FORMATS)
    if not path.parent.is_dir():
        raise BadInput(f"the folder of {path} does not exist. Make it first.")
    partial = path.with_name(f".{path.name}.partial")
    try:
        if kind == "html":
            _write_html(figure, partial, path)
        elif kind == "json":
            partial.write_text(figure.to_json())
        else:
            partial.write_bytes(static(figure, kind, scale=scale))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def draw(result: "Result", path: str | Path, *, theme: Theme = "screen", **options: Any) -> Path:
    """Draw a result into a file; `options` are those of its `plot`.

    Where the result's family has a page of its own (a function `page`, as channels have: a map that one can click through), a file ending
    in .html is that page. Raises what `plot` and `save` raise.
    """
    path = Path(path)
    page = getattr(import_module(f"interp.figures.{result.figure}"), "page", None) if result.figure else None
    if page is None or path.suffix.lower() != ".html" or options:
        return save(result.plot(theme=theme, **options), path)
    return write_page(page(result), path)


def write_page(text: str, path: str | Path) -> Path:
    """Write a page of HTML, whole or not at all. Raises `BadInput` for another ending or where the folder is missing."""
    path = Path(path)
    if path.suffix.lower() != ".html":
        raise BadInput(f"a page is a file ending in .html, not {path.name!r}.")
    if not path.parent.is_dir():
        raise BadInput(f"the folder of {path} does not exist. Make it first.")
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def static(figure: go.Figure, kind: str = "svg", *, scale: float = 2.0) -> bytes:
    """The bytes of a figure as SVG, PDF (vector, text stays text) or PNG."""
    one_of("format", kind, STATIC)
    check_browser()
    figure = _with_stable_ids(figure)
    try:
        import kaleido
    except ImportError:
        raise NoBrowser(
            "SVG, PDF and PNG need kaleido. Install it with `pip install 'interp-workbench[paper]'`."
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _warm_server(kaleido)
        size = {"width": figure.layout.width or 900, "height": figure.layout.height or 440}
        options = {"format": kind, "scale": scale if kind == "png" else 1} | size
        data = kaleido.calc_fig_sync(figure, opts=options)
    return {"pdf": _undated, "svg": _same_svg_ids}.get(kind, lambda bytes_: bytes_)(data)


def fragment(figure: go.Figure, div_id: str) -> str:
    """The figure as an HTML fragment for a page that already holds plotly.js."""
    return figure.to_html(full_html=False, include_plotlyjs=False, div_id=div_id, config=CONFIG | {"responsive": True})


def plotly_js() -> str:
    """The plotly.js source, to embed once in a page."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


_server_running = False


def _warm_server(kaleido: object) -> None:
    global _server_running
    if _server_running:
        return
    page = kaleido.PageGenerator(mathjax=False)  # type: ignore[attr-defined]  # MathJax would come from the network
    page.header += PAGE_STYLE
    kaleido.start_sync_server(page_generator=page, silence_warnings=True)  # type: ignore[attr-defined]
    _server_running = True
    atexit.register(kaleido.stop_sync_server, silence_warnings=True)  # type: ignore[attr-defined]


def _write_html(figure: go.Figure, partial: Path, path: Path) -> None:
    script = path.parent / "plotly.min.js"
    if not script.exists():
        aside = script.with_name(".plotly.min.js.partial")
        aside.write_text(plotly_js(), encoding="utf-8")
        aside.replace(script)
    page = figure.to_html(include_plotlyjs="directory", div_id=path.stem, config=CONFIG)
    partial.write_text(page, encoding="utf-8")


def _with_stable_ids(figure: go.Figure) -> go.Figure:
    figure = go.Figure(figure)
    for index, trace in enumerate(figure.data):
        trace.uid = f"t{index}"
    return figure


def _undated(data: bytes) -> bytes:
    def blank(match: re.Match[bytes]) -> bytes:
        return match[1] + re.sub(rb"\d", b"0", match[2])

    return re.sub(rb"(/(?:CreationDate|ModDate) \()([^)]*)", blank, data)


def _same_svg_ids(data: bytes) -> bytes:
    match = re.search(rb'id="defs-([0-9a-f]{6})"', data)
    return data.replace(match[1], b"000000") if match else data
