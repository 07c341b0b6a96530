"""Figures of dictionaries' weights: distributions beside their nulls, pairs from best to worst."""

import numpy as np
import pytest

from interp.analyses.dictionaries.structure import consistency, structure
from interp.core.dictionary import Dictionary, DictionaryConfig, View
from interp.figures.dictionary_structure import cumulative
from interp.figures.shrink import size


@pytest.fixture(scope="module")
def pair():
    view = View("in", width=16)
    return [Dictionary.initialise(DictionaryConfig(80, (view,), (view,), k=4), seed=seed) for seed in (0, 1)]


@pytest.mark.parametrize("theme", ["screen", "paper"])
def test_structure_is_drawn_beside_both_nulls(pair, theme):
    result = structure(pair[0])
    figure = result.plot(theme=theme)
    assert size(figure) < 100_000
    nearest, matched, uniform, agreement = figure.data
    assert [trace.name for trace in (nearest, matched, uniform)] == [
        "this dictionary", "random rows, same second moments", "uniform random rows",
    ]  # fmt: skip
    assert np.allclose(nearest.x, np.sort(result.data["nearest"].values[:, 0])) and nearest.y[-1] == 1.0
    assert np.allclose(agreement.x, 1.0)
    result.data["agreement"][:] = np.nan  # a transcoder: nothing is both read and written
    assert len(result.plot(theme=theme).data) == 3


@pytest.mark.parametrize("theme", ["screen", "paper"])
def test_pairs_fall_from_the_best_and_the_floor_is_drawn(pair, theme):
    result = consistency(*pair)
    figure = result.plot(theme=theme)
    found, floor = figure.data
    assert np.allclose(found.y, np.sort(result.data["matched"].values)[::-1]) and np.all(np.diff(floor.y) <= 0)
    assert found.x[-1] == 80 and any("MCC" in str(note.text) for note in figure.layout.annotations)


def test_a_curve_of_many_values_has_few_points_and_keeps_both_ends():
    values = np.r_[np.linspace(-1, 1, 5001), np.nan]
    x, share = cumulative(values)
    assert len(x) <= 200 and x[0] == -1 and x[-1] == 1 and share[-1] == 1.0
    assert np.allclose(share, (np.asarray(x) + 1) / 2, atol=1e-3)
