"""Figures of the laundry list: what is drawn is the result's own numbers; rules that are told the answer stand apart; refusals."""

import itertools
from functools import cache

import numpy as np
import pytest
import xarray as xr

from interp.analyses.channels.laundry.result import LaundryResult
from interp.analyses.channels.laundry.rules import KNOWS, RULES
from interp.core.errors import BadInput
from interp.figures.shrink import size
from interp.figures.theme import PX_PER_INCH, VENUES

from .fakes import rng, stamped

LENGTHS, N, TICKS = (3, 6), 24, (-2.0, 0.0, 2.0)
SHORT, FEW = (3, 5), 12


@cache
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


@cache
def behind() -> LaundryResult:
    """Untouched, half the lists are right; the oracle region answers all of the channel's, and nothing else helps."""
    draw, longest = rng(61), max(SHORT)
    missing = np.stack([np.arange(FEW) % length for length in SHORT])
    right = np.arange(FEW) % 4 < 2

    def said(hit):
        """Log-probabilities and answers [..., item] in which `hit` [..., length, prompt] are right."""
        shape = (*hit.shape, longest)
        logprob = np.broadcast_to(draw.uniform(-6, -5, (len(SHORT), FEW, longest)), shape).copy()
        answer = np.where(hit, missing, (missing + 1) % np.array(SHORT)[:, None])
        np.put_along_axis(logprob, answer[..., None], -1.0, -1)
        logprob[..., 0, :, SHORT[0] :] = np.nan
        return logprob, answer

    plain = np.broadcast_to(right, (len(SHORT), FEW))
    logprob, answered = said(plain)
    lead = ("length", "prompt")
    data = {
        "missing": (lead, missing), "answered": (lead, answered), "logprob": ((*lead, "item"), logprob),
        "train": (lead, np.broadcast_to(np.arange(FEW) < 4, missing.shape)),
        "order_logprob": (("length", "set", "order"), draw.normal(-2, 0.1, (2, 4, 6)) - np.arange(6) % 3),
        "order_missing": (("length", "set", "order"), np.broadcast_to(np.arange(6) % 3, (2, 4, 6))),
    }  # fmt: skip
    coords = {"length": list(SHORT), "item": np.arange(longest)}
    points = np.stack([plain, np.ones_like(plain)])  # point 1 answers all, with the channel
    arms = np.stack([points, np.stack([plain, plain])])
    log, said_ = said(np.moveaxis(arms, 1, 1))
    data["steered_logprob"] = (("arm", *lead, "point", "item"), np.moveaxis(log, 1, 3))
    data["steered_answered"] = (("arm", *lead, "point"), np.moveaxis(said_, 1, 3))
    chosen = np.zeros((2, len(SHORT), FEW, len(RULES)), dtype=int)
    chosen[..., RULES.index("oracle region")] = 1
    data["chosen"] = (("arm", *lead, "rule"), chosen)
    edit_log, edit_said = said(np.stack([np.zeros_like(plain), plain]))
    data |= {
        "edited_logprob": (("gamma", *lead, "item"), edit_log),
        "edited_answered": (("gamma", *lead), edit_said),
    }
    coords |= {
        "arm": ["channel", "same_head"],
        "rule": list(RULES),
        "knows": ("rule", list(KNOWS)),
        "gamma": [0.0, 1.0],
    }
    return stamped(LaundryResult(xr.Dataset(data, coords, {"reader": "3.0"})))


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


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("by", ["rules", "editing", "order"])
def test_a_figure_is_finished(by, theme):
    result = behind()
    figure = result.plot(by=by, theme=theme)
    assert figure.data and size(figure) < 60_000
    assert any(result.manifest.hash in str(note.text) for note in figure.layout.annotations)
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert figure.layout.title.text


def test_rules_that_are_told_the_answer_stand_apart():
    figure = behind().plot(by="rules")
    lines = {trace.name: trace for trace in figure.data if trace.name != "control" and trace.fill is None}
    told = {name for name, trace in lines.items() if trace.xaxis == "x"}
    assert told == {"oracle region", "oracle point", "hindsight", "second list"} and "unsteered" not in lines
    assert lines["oracle region"].y == pytest.approx([0.5, 0.5]) and lines["single point"].y == pytest.approx(
        [0.0, 0.0]
    )
    controls = [trace for trace in figure.data if trace.name == "control"]
    assert len(controls) == len(RULES) - 1 and all(np.allclose(trace.y, 0) for trace in controls)


def test_edits_have_a_line_each_and_chance():
    figure = behind().plot(by="editing")
    lines = {trace.name: trace for trace in figure.data if trace.fill is None}
    assert lines["× 0"].y == pytest.approx([0, 0]) and lines["× 1"].y == pytest.approx([0.5, 0.5])
    assert lines["chance"].y == pytest.approx([1 / 3, 1 / 5])


def test_order_is_that_of_the_result():
    result = behind()
    points = result.plot(by="order").data[0]
    assert points.y == pytest.approx(result.order()["adjusted"].tolist(), rel=1e-5) and min(points.y) > 0.5


def test_what_cannot_be_drawn_is_refused():
    for result, options, message in (
        (made(axes=1), {"by": "map"}, "needs two components that are steered; this result has 1"),
        (made(arms=()), {"by": "map"}, "this result has 0"),
        (made(), {"length": 3}, "`length=3` is for by='map'"),
        (made(), {"by": "map", "length": 4}, "`length` must be one of 3 or 6"),
        (made(), {"by": "curve"}, "`by` must be one of"),
        (made(), {"scoring": "first"}, "`scoring` must be one of"),
        (
            made(),
            {"by": "map", "scoring": "listed"},
            "by='map' shows no accuracy, so `scoring='listed'` changes nothing",
        ),
        (behind(), {"by": "order", "scoring": "listed"}, "by='order' shows no accuracy"),
        (made(arms=()), {"by": "rules"}, "nothing was steered"),
        (made(), {"by": "editing"}, "no weights were edited"),
        (made(), {"by": "order"}, "no orders were tried"),
    ):
        with pytest.raises(BadInput, match=message):
            result.plot(**options)
