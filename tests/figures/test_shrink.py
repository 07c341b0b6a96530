"""Reduction for drawing: means stay means, the strongest effect stays visible, sizes are bounded."""

import numpy as np
import plotly.graph_objects as go
import pytest

from interp.core.errors import BadInput
from interp.figures.shrink import LONGEST_SIDE, MOST_CELLS, block_reduce, check_budget


def test_what_fits_is_left_alone():
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    same, block = block_reduce(values)
    assert same is values and block == (1, 1)


@pytest.mark.parametrize("shape", [(2000, 3), (3, 2000), (1500, 1300), (513, 512)])
def test_sides_and_cells_are_bounded(shape):
    drawn, (high, wide) = block_reduce(np.ones(shape, dtype=np.float32))
    assert max(drawn.shape) <= LONGEST_SIDE and drawn.size <= MOST_CELLS
    assert drawn.shape == (-(-shape[0] // high), -(-shape[1] // wide)) and (drawn == 1).all()


def test_means_ignore_what_is_missing():
    values = np.full((1024, 1), np.nan, dtype=np.float32)
    values[0], values[3] = 3.0, 5.0
    drawn, _ = block_reduce(values)
    assert drawn[0, 0] == 3.0 and drawn[1, 0] == 5.0 and np.isnan(drawn[2:]).all()


def test_a_single_negative_effect_survives():
    values = np.full((1024, 1024), 0.01, dtype=np.float32)
    values[777, 333] = -2.0
    assert block_reduce(values, signed=True)[0].min() == -2.0


def test_what_is_too_large_is_refused_with_the_way_out():
    figure = go.Figure(go.Scatter(y=np.random.default_rng(0).normal(size=200_000)))
    with pytest.raises(BadInput, match="to_frame"):
        check_budget(figure)
