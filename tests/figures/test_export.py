"""From figure to file: offline, whole or not at all, the same bytes twice; static formats with the browser that is there."""

import re
import subprocess
import sys

import pytest

from interp.core.errors import BadInput, InterpError
from interp.figures import depth, export

from . import fakes

needs_browser = pytest.mark.skipif(export.browser() is None, reason="no Chromium on this machine")


def test_html_opens_offline_and_twice_the_same(tmp_path):
    figure = fakes.trace().plot()
    first = export.save(figure, tmp_path / "trace.html").read_bytes()
    assert (tmp_path / "plotly.min.js").stat().st_size > 1_000_000
    assert not re.findall(rb"(?:src|href)=[\"']https?:", first)
    assert export.save(fakes.trace().plot(), tmp_path / "trace.html").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plotly.min.js", "trace.html"]


def test_json_holds_the_figure(tmp_path):
    path = export.save(fakes.lens().plot(), tmp_path / "lens.json")
    assert '"type":"scatter"' in path.read_text()


@pytest.mark.parametrize("name", ["trace.gif", "trace", "trace.PDFF"])
def test_an_unknown_ending_is_refused(tmp_path, name):
    with pytest.raises(BadInput, match="'pdf'"):
        export.save(fakes.lens().plot(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match="Make it first"):
        export.save(fakes.lens().plot(), tmp_path / "no" / "lens.html")


def test_without_a_browser_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nothing"))
    with pytest.raises(InterpError, match=r"chromium.*BROWSER_PATH"):
        export.save(fakes.lens().plot(), tmp_path / "lens.pdf")
    assert not list(tmp_path.iterdir())


def test_without_kaleido_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", sys.executable)
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(InterpError, match=r"\[paper\]"):
        export.save(fakes.lens().plot(), tmp_path / "lens.svg")


def test_pdf_dates_and_svg_ids_are_taken_out():
    pdf = b"/CreationDate (D:20260101120000+00'00')\n/ModDate (D:20260101120000+00'00')"
    assert export._undated(pdf) == b"/CreationDate (D:00000000000000+00'00')\n/ModDate (D:00000000000000+00'00')"
    assert export._same_svg_ids(b'<defs id="defs-a1b2c3"/><use href="#a1b2c3"/>').count(b"000000") == 2


@needs_browser
def test_static_files_are_vector_crisp_and_reproducible(tmp_path):
    figure = fakes.trace().plot(theme="paper")
    svg, pdf = export.static(figure, "svg"), export.static(figure, "pdf")
    assert export.static(fakes.trace().plot(theme="paper"), "svg") == svg
    assert export.static(fakes.trace().plot(theme="paper"), "pdf") == pdf
    words = " ".join(re.findall(r">([^<>]+)</(?:text|tspan)>", svg.decode()))
    assert "last subject" in words and fakes.trace().manifest.hash in words  # text is text
    sizes = {_png_size(image) for image in re.findall(rb"base64,([A-Za-z0-9+/=]+)", svg)}
    assert (8, 8) in sizes and max(
        width for width, _ in sizes
    ) <= 256  # a pixel a cell (and a colour bar), scaled by the reader
    (tmp_path / "figure.pdf").write_bytes(pdf)
    said = _pdftotext(tmp_path / "figure.pdf")
    if said is not None:  # nothing is cut off at the edges of the page
        assert fakes.trace().manifest.hash in said and "effect on P(answer)" in said


@needs_browser
def test_a_png_has_the_size_that_was_asked_for(tmp_path):
    figure = depth.plot(fakes.everything(), theme="paper")
    path = export.save(figure, tmp_path / "depth.png", scale=1)
    data = path.read_bytes()
    assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (figure.layout.width, figure.layout.height)


def _png_size(encoded: bytes) -> tuple[int, int]:
    import base64

    data = base64.b64decode(encoded)
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def _pdftotext(path) -> str | None:
    try:
        return subprocess.run(["pdftotext", path, "-"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        return None
