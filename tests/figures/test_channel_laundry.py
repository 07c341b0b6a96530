"""Behind the laundry list's accuracy: rules that are told the answer apart from those that are not, edits, and order."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.channels.laundry.result import LaundryResult
from interp.analyses.channels.laundry.rules import KNOWS, RULES
from interp.core.errors import BadInput
from interp.figures import channel_laundry
from interp.figures.shrink import size
from interp.figures.theme import PX_PER_INCH, VENUES

from .fakes import rng, stamped

LENGTHS, PROMPTS = (3, 5), 12


def laundry(steered=True):
    """Untouched, half the lists are right; the oracle region answers all of the channel's, and nothing else helps."""
    draw, longest = rng(61), max(LENGTHS)
    missing = np.stack([np.arange(PROMPTS) % length for length in LENGTHS])
    right = np.arange(PROMPTS) % 4 < 2

    def said(hit):
        """Log-probabilities and answers [..., item] in which `hit` [..., length, prompt] are right."""
        shape = (*hit.shape, longest)
        logprob = np.broadcast_to(draw.uniform(-6, -5, (len(LENGTHS), PROMPTS, longest)), shape).copy()
        answer = np.where(hit, missing, (missing + 1) % np.array(LENGTHS)[:, None])
        np.put_along_axis(logprob, answer[..., None], -1.0, -1)
        logprob[..., 0, :, LENGTHS[0] :] = np.nan
        return logprob, answer

    plain = np.broadcast_to(right, (len(LENGTHS), PROMPTS))
    logprob, answered = said(plain)
    lead = ("length", "prompt")
    data = {
        "missing": (lead, missing), "answered": (lead, answered), "logprob": ((*lead, "item"), logprob),
        "train": (lead, np.broadcast_to(np.arange(PROMPTS) < 4, missing.shape)),
        "order_logprob": (("length", "set", "order"), draw.normal(-2, 0.1, (2, 4, 6)) - np.arange(6) % 3),
        "order_missing": (("length", "set", "order"), np.broadcast_to(np.arange(6) % 3, (2, 4, 6))),
    }  # fmt: skip
    coords = {"length": list(LENGTHS), "item": np.arange(longest)}
    if steered:
        points = np.stack([plain, np.ones_like(plain)])  # point 1 answers all, with the channel
        arms = np.stack([points, np.stack([plain, plain])])
        log, said_ = said(np.moveaxis(arms, 1, 1))
        data["steered_logprob"] = (("arm", *lead, "point", "item"), np.moveaxis(log, 1, 3))
        data["steered_answered"] = (("arm", *lead, "point"), np.moveaxis(said_, 1, 3))
        chosen = np.zeros((2, len(LENGTHS), PROMPTS, len(RULES)), dtype=int)
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


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("by", ["rules", "editing", "order"])
def test_a_figure_is_finished(by, theme):
    result = laundry()
    figure = channel_laundry.plot(result, by=by, theme=theme)
    assert figure.data and size(figure) < 60_000
    assert any(result.manifest.hash in str(note.text) for note in figure.layout.annotations)
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert figure.layout.title.text


def test_rules_that_are_told_the_answer_stand_apart():
    figure = channel_laundry.plot(laundry())
    lines = {trace.name: trace for trace in figure.data if trace.name != "control" and trace.fill is None}
    told = {name for name, trace in lines.items() if trace.xaxis == "x"}
    assert told == {"oracle region", "oracle point", "hindsight", "second list"} and "unsteered" not in lines
    assert lines["oracle region"].y == pytest.approx([0.5, 0.5]) and lines["single point"].y == pytest.approx(
        [0.0, 0.0]
    )
    controls = [trace for trace in figure.data if trace.name == "control"]
    assert len(controls) == len(RULES) - 1 and all(np.allclose(trace.y, 0) for trace in controls)


def test_edits_have_a_line_each_and_chance():
    figure = channel_laundry.plot(laundry(), by="editing")
    lines = {trace.name: trace for trace in figure.data if trace.fill is None}
    assert lines["× 0"].y == pytest.approx([0, 0]) and lines["× 1"].y == pytest.approx([0.5, 0.5])
    assert lines["chance"].y == pytest.approx([1 / 3, 1 / 5])


def test_order_is_that_of_the_result():
    result = laundry()
    points = channel_laundry.plot(result, by="order").data[0]
    assert points.y == pytest.approx(result.order()["adjusted"].tolist(), rel=1e-5) and min(points.y) > 0.5


def test_what_was_not_run_is_refused():
    with pytest.raises(BadInput, match="nothing was steered"):
        channel_laundry.plot(laundry(steered=False))
    with pytest.raises(BadInput, match="editing"):
        channel_laundry.plot(laundry(), by="gains")
