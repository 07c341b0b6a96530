"""Words of components: both ends and both signs, pale where random directions reach as far, tags and spaces as they are."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.channels.words import ComponentWordsResult
from interp.core.errors import BadInput
from interp.figures import channel_map, channel_words
from interp.figures.shrink import size
from interp.figures.theme import PX_PER_INCH, VENUES

from . import channel_fakes
from .fakes import rng, stamped

SIDES = ("writes +", "writes -", "reads +", "reads -")


def words(count=6):
    """A component whose writes are words and whose reads are nothing in particular, and one that is nothing at all."""
    fall = np.linspace(1.0, 0.8, count)
    value = np.stack([np.stack([5 * fall, -4 * fall, 1.5 * fall, -1.4 * fall]), np.stack([fall, -fall, fall, -fall])])
    tokens = np.array([[[f"␣{side}{rank}{name}" for rank in range(count)] for side in "abcd"] for name in "xy"])
    tokens[0, 0, 0] = "<s>"
    null = np.abs(rng(2).normal(2.5, 0.3, (2, 2, 60)))
    data = {
        "value": (("component", "side", "rank"), value), "token": (("component", "side", "rank"), tokens),
        "p": (("component", "side"), np.array([[0.001, 0.002, 0.9, 0.9], [1.0, 1.0, 1.0, 1.0]])),
        "null": (("component", "end", "draw"), null), "singular": ("component", [3.0, 1.0]), "gap_before": ("component", [np.inf, 2.0]),
        "gap_after": ("component", [1.5, 1.1]),
    }  # fmt: skip
    coords = {
        "component": ["0.3.2", "1.0.0"], "end": ["writes", "reads"], "side": list(SIDES),
        "side_end": ("side", ["writes"] * 2 + ["reads"] * 2),
        "side_sign": ("side", ["+", "-", "+", "-"]), "rank": np.arange(count), "draw": np.arange(60),
    }  # fmt: skip
    return stamped(ComponentWordsResult(xr.Dataset(data, coords, {"which": "ov", "offset": -1, "folded": True})))


@pytest.mark.parametrize("theme", ["screen", "paper"])
def test_a_figure_is_finished(theme):
    result = words()
    figure = channel_words.plot(result, theme=theme)
    assert len(figure.data) == 2 and size(figure) < 30_000
    assert any(result.manifest.hash in str(note.text) for note in figure.layout.annotations)
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert "Component 0.3.2" in figure.layout.title.text


def test_both_signs_from_one_end_to_the_other():
    figure = channel_words.plot(words(), n=4)
    writes = figure.data[0]
    assert len(writes.x) == 8 and (np.diff(writes.x) < 0).all() and writes.x[0] == 5 and writes.x[-1] == -4
    assert (
        figure.layout.yaxis.ticktext[0] == "&lt;s&gt;" and figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    )


def test_what_random_directions_reach_is_pale():
    result = words()
    writes, reads = channel_words.plot(result).data
    assert set(writes.marker.opacity) == {1.0} and set(reads.marker.opacity) == {0.45}
    bound = np.quantile(result.data["null"].values[0, 0], 0.95)
    lines = [
        shape.x0 for shape in channel_words.plot(result).layout.shapes if shape.name == "null" and shape.xref == "x"
    ]
    assert lines == pytest.approx([-bound, bound])


def test_a_component_is_chosen_or_refused():
    assert "1.0.0" in channel_words.plot(words(), component="1.0.0").layout.title.text
    for options, said in (({"component": "9.9.9"}, "0.3.2"), ({"n": 0}, "1 to 25"), ({"n": 99}, "1 to 25")):
        with pytest.raises(BadInput, match=said):
            channel_words.plot(words(), **options)


def test_words_stand_in_the_map_that_one_can_click_through():
    page = channel_map.page(channel_fakes.channels(), words())
    assert '"0.3.2":[["writes +",["\\u003cs>","␣a1x"' in page
