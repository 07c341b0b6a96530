"""What a notebook shows of a result: small, whole, without a browser or plotly."""

import base64
import re
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest
import xarray as xr

from interp.core.analysis import LARGEST_REPR
from interp.figures import thumbnail

from . import fakes

RESULTS = {
    "trace": lambda: fakes.trace(prompts=2, layers=126, width=400), "lens": lambda: fakes.lens(layers=126),
    "heads": lambda: fakes.heads(sequences=2, layers=126, count=128), "loss": lambda: fakes.loss(3, 5000),
    "weights": lambda: fakes.weights(layers=126), "shares": fakes.shares,
}  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_shows_itself_small(name):
    result = RESULTS[name]()
    page = result._repr_html_()
    assert len(page.encode()) < LARGEST_REPR
    assert "<svg" in page and result.manifest.hash in page
    assert len(result.headline()) == 3 and all(key.split(":")[0] in page for key in result.headline())
    ElementTree.fromstring(re.search(r"<svg.*?</svg>", page, re.DOTALL)[0])  # well formed


def test_a_grid_is_a_pixel_a_cell():
    values = xr.DataArray(np.array([[0.0, 1.0], [-1.0, np.nan]]), dims=("layer", "head"))
    data = base64.b64decode(re.search(r"base64,([^']+)", thumbnail.svg(values, effect=True))[1])
    raw = zlib.decompress(data[data.index(b"IDAT") + 4 : data.index(b"IEND") - 8])
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(2, 7)[:, 1:].reshape(2, 2, 3)
    assert rows[0, 0].tolist() == rows[1, 1].tolist() == [255, 255, 255]  # zero and unknown are white
    assert rows[0, 1, 0] > rows[0, 1, 2] and rows[1, 0, 2] > rows[1, 0, 0]  # red upwards, blue downwards


def test_names_cannot_break_the_page():
    values = xr.DataArray(np.arange(3.0), dims=("<script>",), name="a&b")
    ElementTree.fromstring(thumbnail.svg(values))
