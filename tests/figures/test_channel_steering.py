"""Curves and maps of steering: what wins where is what the result says, named in its region, grey where nothing leads."""

import numpy as np
import pytest

from interp.core.errors import BadInput
from interp.figures.channel_regions import Items, _widest
from interp.figures.shrink import size
from interp.figures.theme import CATEGORY, PX_PER_INCH, VENUES

from .channel_fakes import steering


def texts(figure, name=None):
    return [str(note.text) for note in figure.layout.annotations if name is None or note.name == name]


def heatmaps(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize(("axes", "items", "options"), [
    (1, 2, {}), (1, 2, {"by": "arms"}), (1, 12, {}), (2, 5, {}), (2, 5, {"by": "curve"}), (2, 5, {"by": "arms", "hold": 2.0}), (3, 6, {}),
])  # fmt: skip
def test_a_figure_is_finished(axes, items, options, theme):
    result = steering(axes, items, steps=5)
    figure = result.plot(theme=theme, **options)
    assert figure.data and size(figure) < 100_000
    assert any(result.manifest.hash in text for text in texts(figure)) and any(
        "replace at last" in text for text in texts(figure)
    )
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert figure.layout.title.text


def test_kinds_of_prompts_move_in_opposite_directions():
    figure = steering().plot()
    lines = [trace for trace in figure.data if trace.name == "IO" and trace.fill is None]
    assert len(lines) == 2 and lines[0].y[-1] > lines[0].y[0] and lines[1].y[-1] < lines[1].y[0]
    assert any("order ABB" in text for text in texts(figure)) and any("order BAB" in text for text in texts(figure))
    untouched = [shape for shape in figure.layout.shapes if shape.name == "untouched"]
    assert len(untouched) == 4 and figure.layout.yaxis.range[1] <= 1.02


def test_the_channel_stands_beside_its_controls():
    figure = steering().plot(by="arms")
    lines = [trace for trace in figure.data if trace.fill is None and trace.xaxis == "x"]
    assert [trace.name for trace in lines] == ["channel 2.0.1", "same head 2.0.7", "random head"]
    spread = [float(np.ptp(trace.y)) for trace in lines]
    assert spread[0] > 5 * max(spread[1:])
    assert "logit difference" in steering().plot(by="arms", outcome="logit_diff").layout.yaxis.title.text


def test_a_map_shows_the_winner_of_each_point_and_names_its_region():
    result = steering(2, 5)
    figure = result.plot()
    assert len(heatmaps(figure)) == 3
    trace = heatmaps(figure)[0]
    assert np.array_equal(trace.z, result.regions().transpose("axis_1", "axis_0").values)
    assert trace.z[4, 8] == 0  # to the right of the middle: the first item
    named = [note for note in figure.layout.annotations if note.name == "region" and note.xref == "x"]
    assert sorted(note.text for note in named) == ["0", "1", "2", "3", "4"]
    for note in named:
        assert trace.z[int(note.y), int(note.x)] == int(note.text)
    assert list(trace.colorbar.ticktext) == ["none", "0", "1", "2", "3", "4"] if trace.showscale else True
    control = heatmaps(figure)[1]
    assert (control.z == -1).any() and control.colorscale[0][1] == "#d9dce0"  # grey where nothing leads


def test_three_axes_are_slices_of_the_third():
    result = steering(3, 6, steps=5)
    figure = result.plot()
    assert [text.split("  ")[-1] for text in texts(figure, "panel title")] == [
        f"1.3.0 at {at:g}" for at in (-4, -2, 2, 4)
    ]
    whole = result.regions()
    assert np.array_equal(heatmaps(figure)[1].z, whole.isel(axis_2=1).transpose("axis_1", "axis_0").values)


def test_colours_follow_the_order_of_numbered_items_only():
    assert Items.of(["IO", "S1"]).colours == CATEGORY[:2] and Items.of(["IO", "S1"]).shown == ["IO", "S1"]
    ten = Items.of([f"item_{i}" for i in range(10)])
    light = [sum(int(ink[i : i + 2], 16) * w for i, w in ((1, 0.3), (3, 0.59), (5, 0.11))) for ink in ten.colours]
    assert light == sorted(light) and ten.shown[3] == "3" and len(set(ten.colours)) == 10


def test_a_name_stands_in_the_widest_piece():
    mask = np.zeros((9, 9), dtype=bool)
    mask[0, :] = True
    mask[4:9, 2:7] = True
    assert _widest(mask) == (6.0, 4.0) and _widest(np.zeros((2, 2), dtype=bool)) is None


def test_words_that_are_not_known_are_refused():
    result = steering()
    for options, said in (
        ({"by": "map"}, "needs two or three axes"), ({"arm": "nobody"}, "same_head"), ({"by": "arms", "outcome": "kl"}, "logit_diff"),
        ({"by": "line"}, "curve"), ({"reader": "1.1"}, "3.0"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=said):
            result.plot(**options)
