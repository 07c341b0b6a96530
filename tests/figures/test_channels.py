"""Maps of channels: heads stand where they belong, blocks keep the strongest, random directions lie where they are said to lie."""

import json

import numpy as np
import pytest

from interp.core.errors import BadInput
from interp.figures import channel_map, channel_null, channels
from interp.figures.channel_axes import Rows, flatten, rows_of
from interp.figures.shrink import BUDGET, MOST_CELLS, size
from interp.figures.theme import PX_PER_INCH, VENUES

from . import channel_fakes as fakes
from .fakes import rng

VIEWS = ("best", "total", "z", "reader", "histogram", "spectrum", "pair")


def texts(figure):
    return [str(note.text) for note in figure.layout.annotations]


def heatmaps(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


@pytest.fixture(scope="module")
def small():
    return fakes.channels()


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("by", VIEWS)
def test_a_figure_is_finished(small, by, theme):
    figure = small.plot(by=by, theme=theme)
    assert figure.data and size(figure) < 100_000
    assert any(small.manifest.hash in text for text in texts(figure))
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert figure.layout.title.text


def test_the_matrix_has_writers_downwards_and_readers_across(small):
    trace = heatmaps(small.plot())[0]
    row, column = list(trace.y).index("head 1.2"), list(trace.x).index("head 3.1")
    root = np.sqrt(small.data.attrs["free"])
    assert trace.z[row, column] == pytest.approx(0.5 * root, rel=1e-6) == trace.z[np.isfinite(trace.z)].max()
    assert trace.customdata[row, column] == 1
    assert np.isnan(trace.z[column, row])  # nobody reads what comes later
    layer = np.arange(16) // 4
    assert np.array_equal(np.isfinite(trace.z), layer[None, :] > layer[:, None])


def test_the_strongest_are_named_and_ringed(small):
    figure = small.plot(kind="Q")
    assert any("1.2.1 → 3.1  4.0 ×" in text and "0.3.4 → 2.0" in text for text in texts(figure))
    rings = next(trace for trace in figure.data if trace.name == "strongest")
    assert list(zip(rings.y, rings.x, strict=True))[:2] == [("head 1.2", "head 3.1"), ("head 0.3", "head 2.0")]
    assert all(
        "." not in text.split("→")[1].split()[0][3:] for text in texts(small.plot(kind="Q", by="total")) if "→" in text
    )


def test_a_block_shows_its_strongest_pair_and_which_it_is():
    values = rng(1).random((3, 5, 3, 5))
    for layer in range(3):
        values[layer, :, : layer + 1] = np.nan
    values[0, 4, 2, 3] = 7.0
    square, source = flatten(values, Rows([0, 1, 2], list(range(5)), 2))
    assert square.shape == (9, 9) and np.nanmax(square) == 7.0 and square[2, 7] == 7.0
    assert source[2, 7] == 4 * 15 + 13  # writer 0.4, reader 2.3, of 15 heads
    known = np.isfinite(square)
    assert np.array_equal(values.reshape(-1)[source][known], square[known])
    assert np.array_equal(known, (np.arange(9) // 3)[None, :] > (np.arange(9) // 3)[:, None])
    assert Rows([0], list(range(5)), 2).names == ["heads 0.0–0.1", "heads 0.2–0.3", "head 0.4"]


@pytest.fixture(scope="module")
def large():
    return fakes.channels(20, 25, 32, width=4096, scores=False)


def test_a_large_model_keeps_its_budget_and_its_channels(large):
    figure = large.plot()
    assert size(figure) < BUDGET
    for trace, score in zip(heatmaps(figure), (0.5, 0.45, 0.4), strict=True):
        assert trace.z.size <= MOST_CELLS / 3 and "strongest of 3 × 3" in heatmaps(figure)[0].colorbar.title.text
        assert float(np.nanmax(trace.z)) == pytest.approx(score * np.sqrt(4095), rel=1e-6)
    for by in ("reader", "histogram"):
        assert size(large.plot(by=by)) < BUDGET
    with pytest.raises(BadInput, match="most"):
        large.plot(by="pair")


def test_layers_that_cannot_be_drawn_are_refused():
    with pytest.raises(BadInput, match="Choose one kind"):
        rows_of(fakes.channels(300, 1, 1, planted=(), scores=False), 3)


def test_one_reader_names_the_components_that_reach_it(small):
    figure = small.plot(by="reader", reader="3.1", kind="Q")
    trace = heatmaps(figure)[0]
    assert trace.z.shape == (3, 4) and trace.text[1][2] == "1"  # layers before the reader; component 1 of head 1.2
    assert trace.z[1, 2] == pytest.approx(0.5 * np.sqrt(63), rel=1e-6)
    with pytest.raises(BadInput, match="later layer"):
        small.plot(by="reader", reader="0.1")
    with pytest.raises(BadInput, match=r"layers 0 to 3.*'9\.9'"):
        small.plot(by="reader", reader="9.9")


def test_words_that_are_not_known_are_refused(small):
    for options, said in (
        ({"by": "heads"}, "histogram"),
        ({"kind": "R"}, "'Q'"),
        ({"kind": []}, "Choose from"),
        ({"theme": "dark"}, "paper"),
    ):
        with pytest.raises(BadInput, match=said):
            small.plot(**options)


@pytest.mark.parametrize("spectrum", [np.ones(8), 0.8 ** np.arange(16), 0.97 ** np.arange(40), np.array([1.0, 0, 0])])
def test_random_directions_lie_where_they_are_said_to_lie(spectrum):
    n, p = 48, spectrum**2 / (spectrum**2).sum()
    w = rng(3).standard_normal((60_000, n))
    score = np.sqrt(((w / np.linalg.norm(w, axis=1, keepdims=True))[:, : len(p)] ** 2) @ p)
    assert (score**2).mean() == pytest.approx(1 / n, rel=0.03)
    levels = (0.025, 0.5, 0.975, 0.999)
    found = channel_null.quantiles(levels, spectrum, n)
    assert found == pytest.approx(np.quantile(score, levels), rel=0.03, abs=0.001)
    assert channel_null.below(found, spectrum, n) == pytest.approx(levels, abs=1e-9)
    assert np.isnan(channel_null.quantiles(levels, np.stack([spectrum, 0 * spectrum]), n)).tolist() == [
        [False] * 4,
        [True] * 4,
    ]
    assert channel_null.below(np.array([1.0]), spectrum, n)[0] == 1.0


def test_the_histogram_of_random_directions_lies_on_their_curve():
    result = fakes.channels(6, 6, 24, width=256, planted=())
    counted, expected = result.plot(by="histogram", kind="Q").data
    middle = (np.asarray(expected.x) > 0.7) & (np.asarray(expected.x) < 1.4)
    assert np.asarray(counted.y)[:-1][middle].sum() == pytest.approx(
        np.nansum(np.asarray(expected.y)[middle]), rel=0.05
    )


def test_a_spectrum_holds_heads_side_by_side(small):
    figure = small.plot(by="spectrum", writer=["1.2", "0.3"], reader="3.1", kind="Q")
    scores = [trace for trace in figure.data if trace.xaxis == "x3"]
    assert [trace.name for trace in scores] == ["1.2", "0.3"] and int(np.argmax(scores[0].y)) == 1
    for options, said in (
        ({"writer": [f"0.{i % 4}" for i in range(7)]}, "at most 6"), ({"writer": []}, "names no head"),
        ({"writer": "2.0", "reader": "1.0"}, "no pair|come after"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=said):
            small.plot(by="spectrum", **options)


def test_a_pair_shows_its_component_its_readers_and_a_menu(small):
    figure = small.plot(by="pair", writer="1.2", reader="3.1", kind="Q")
    bars = next(trace for trace in figure.data if trace.type == "bar")
    assert int(np.argmax(bars.y)) == 1 and len(set(bars.marker.color)) == 2
    readers = heatmaps(figure)[0]
    assert readers.z[3, 1] == pytest.approx(0.5 * np.sqrt(63), rel=1e-6) and np.isnan(readers.z[:2]).all()
    bound = next(trace for trace in figure.data if trace.name == "bound")
    assert 1 < bound.y[0] < max(bars.y)
    buttons = figure.layout.updatemenus[0].buttons
    assert buttons[0].label == "Q  1.2.1 → 3.1" and len(buttons) > 4
    changes, words = buttons[1].args
    assert len(changes["y"]) == len(figure.data) and "K" in buttons[1].label and "0.1" in words["title.text"]
    assert not small.plot(by="pair", theme="paper").layout.updatemenus
    assert small.plot(by="pair", component=0, writer="1.2", reader="3.1", kind="Q").layout.title.text.startswith(
        "Component 0 of head 1.2"
    )
    with pytest.raises(BadInput, match="from 0 to 7"):
        small.plot(by="pair", component=8)
    with pytest.raises(BadInput, match="spectrum"):
        small.plot(by="pair", writer=["1.2", "0.3"])


def test_rotary_kinds_have_a_panel_each():
    result = fakes.channels(kinds=("Q@1", "Q@4", "V"))
    assert any("into queries, distance 4" in text for text in texts(result.plot()))
    assert len(heatmaps(result.plot(kind=["Q@1", "V"]))) == 2


def test_of_many_distances_the_first_are_drawn_and_it_is_said():
    result = fakes.channels(kinds=("Q@1", "Q@4", "K@1", "K@4", "V"))
    figure = result.plot()
    assert len(heatmaps(figure)) == 3 and "3 of 5 kinds" in figure.layout.title.text
    assert any("into queries, distance 1" in text for text in texts(figure))
    with pytest.raises(BadInput, match=r"5 kinds.*'K@4'"):
        result.plot(kind=["Q@1", "Q@4", "K@1", "K@4", "V"])
    assert "kinds" not in fakes.channels().plot().layout.title.text


def test_a_head_of_zeros_leaves_a_hole():
    result = fakes.channels()
    for name in ("total", "best", "best_z", "mean", "sd", "score", "value", "gap"):
        result.data[name].loc[{"layer": 0, "head": 1}] = np.nan
    result.data["best_component"].loc[{"layer": 0, "head": 1}] = -1
    result.data["rank"].loc[{"layer": 0, "head": 1}] = 0
    trace = heatmaps(result.plot(kind="Q"))[0]
    assert np.isnan(trace.z[1]).all() and np.isfinite(trace.z[0, 4:]).all()
    assert result.plot(by="reader", reader="2.0").data and result.plot(by="histogram").data
    held = channel_map._content(result, None)
    assert json.dumps(held, allow_nan=False) and held["best"]["high"] == pytest.approx(0.5)
    for by in ("pair", "spectrum"):
        with pytest.raises(BadInput, match=r"0\.1 or head 3\.1 has zero weights|no pair of heads"):
            result.plot(by=by, writer="0.1", reader="3.1", kind="Q")


def test_a_model_of_one_layer_has_no_channel():
    alone = fakes.channels(1, 2, planted=())
    assert alone.plot().data
    with pytest.raises(BadInput, match="no pair of heads"):
        channels.plot(alone, by="reader")
