"""Figures of the laundry list: what is drawn is the result's own numbers; refusals."""

import itertools

import numpy as np
import pytest
import xarray as xr

from interp.analyses.channels.laundry.result import LaundryResult
from interp.analyses.channels.laundry.rules import KNOWS, RULES
from interp.core.errors import BadInput

from .fakes import rng, stamped

LENGTHS, N, TICKS = (3, 6), 24, (-2.0, 0.0, 2.0)


def made(*, arms: tuple[str, ...] = ("channel", "same_head"), axes: int = 2) -> LaundryResult:
    most, draw = LENGTHS[-1], rng()
    missing = np.stack([np.arange(N) % items for items in LENGTHS])
    logprob = np.where(np.arange(most) < np.array(LENGTHS)[:, None, None], draw.normal(size=(2, N, most)), np.nan)
    data = {
        "missing": (("length", "prompt"), missing), "answered": (("length", "prompt"), np.nan_to_num(logprob, nan=-9.0).argmax(-1)),
        "logprob": (("length", "prompt", "item"), logprob), "train": (("length", "prompt"), np.tile(np.arange(N) % 12 < 6, (2, 1))),
    }  # fmt: skip
    coords = {"length": list(LENGTHS), "prompt": np.arange(N), "item": np.arange(most)}
    attrs = {"reader": "1.4", "mode": "replace"}
    if arms:
        grid = np.array(list(itertools.product(TICKS, repeat=axes)))
        points = len(grid) + 1
        looks = draw.random((len(arms), 2, N, points, most)) * 0.01
        looks[0, :, :, np.arange(points), np.arange(points) % 3] = (
            0.9  # the channel turns the reader to place point % 3
        )
        per = ("arm", "length", "prompt")
        says = np.repeat(logprob[None, :, :, None], len(arms), 0).repeat(points, 3)
        data |= {
            "steered_attention": ((*per, "point", "item"), looks), "steered_logprob": ((*per, "point", "item"), says),
            "steered_answered": ((*per, "point"), np.broadcast_to(missing[None, ..., None], (len(arms), 2, N, points)).copy()),
            "chosen": ((*per, "rule"), np.zeros((len(arms), 2, N, len(RULES)), dtype=int)),
        }  # fmt: skip
        coords |= {
            "arm": list(arms), "axis": [f"0.1.{axis}" for axis in range(axes)], "point": np.arange(points), "rule": list(RULES),
            "knows": ("rule", list(KNOWS)), "alpha": (("point", "axis"), np.concatenate([np.full((1, axes), np.nan), grid])),
        }  # fmt: skip
    return stamped(LaundryResult(xr.Dataset(data, coords, attrs)))


def lines(figure, axis):
    return {trace.name: trace for trace in figure.data if trace.xaxis == axis and trace.fill is None}


@pytest.mark.parametrize("theme", ["screen", "paper"])
def test_accuracy_by_length_is_the_results_own(theme):
    result = made()
    figure = result.plot(theme=theme)
    first, second, third = (lines(figure, axis) for axis in ("x", "x2", "x3"))
    assert np.allclose(first["best of all tokens"].y, result.accuracy()["mean"]) and list(first["chance"].y) == [
        1 / 3,
        1 / 6,
    ]
    assert {"unsteered", "oracle region", "single point", "self-consistent", "chance"} == set(second)
    assert np.allclose(second["single point"].y, 1.0) and {"channel", "same head", "chance"} == set(third)
    notes = [note.text for note in figure.layout.annotations]
    assert any("prompts that nothing was learned on" in note for note in notes)
    assert len(made(arms=()).plot(theme=theme).data) == 5  # two bands, their lines, chance
    assert "x3" not in {trace.xaxis for trace in made(arms=("channel",)).plot(theme=theme).data}


@pytest.mark.parametrize("theme", ["screen", "paper"])
def test_regions_and_places_are_drawn(theme):
    result = made()
    figure = result.plot(by="map", theme=theme, length=3)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(maps) == 2 and np.array_equal(maps[0].z, result.owners(3).transpose("axis_1", "axis_0").values)
    assert set(np.ravel(maps[0].z)) == {0.0, 1.0, 2.0} and (np.array(maps[1].z) == -1).all()
    places = result.plot(by="place", scoring="listed", theme=theme).data[0]
    assert np.allclose(places.z, result.by_place("listed")["mean"], equal_nan=True)


def test_what_cannot_be_drawn_is_refused():
    for result, options, message in (
        (made(axes=1), {"by": "map"}, "needs two components that are steered; this result has 1"),
        (made(arms=()), {"by": "map"}, "this result has 0"),
        (made(), {"length": 3}, "`length=3` is for by='map'"),
        (made(), {"by": "map", "length": 4}, "`length` must be one of 3 or 6"),
        (made(), {"by": "curve"}, "`by` must be one of"),
    ):
        with pytest.raises(BadInput, match=message):
            result.plot(**options)
