"""Figures of unlearning: what must be in them, in both themes."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.unlearning.order_result import InterventionOrderResult
from interp.analyses.unlearning.study import UnlearningStudyResult
from interp.core.errors import BadInput
from interp.figures.shrink import size
from interp.figures.theme import PX_PER_INCH, VENUES
from interp.figures.unlearning import ORDER, _styles, plot

from .fakes import rng, stamped

ROWS = ("untouched", "matched ablation", "gradient-difference", "npo", "needle", "needle:n=100", "dampening")
ACCURACY = (1.0, 1.0, 0.0, 0.05, 1.0, 0.45, 0.5)
RELEARNED = (1.0, 1.0, 0.9, 0.8, 1.0, 0.7, 0.5)
JACCARD = (1.0, 1.0, 0.93, 0.93, 0.0, 0.0, 0.93)
MEASURES = (
    "jaccard", "rbo", "cosine", "l2", "activation_ratio", "contribution_ratio", "retention", "qa_bleu", "unrelated_bleu", "answer_prob",
    "kl", "perplexity_ratio",
)  # fmt: skip


def study(prompts=20, steps=(0, 5, 20), ways=("plain", "article", "reworded-1"), seeds=1):
    draw, n = rng(11), len(ROWS)
    lead = ("concept", "unlearner", "seed")
    size = (1, n, seeds)

    def given(shares, *shape):
        """Zeros and ones with these shares: of the first prompts, the same ones in every way."""
        place = (np.arange(prompts) + 0.5) / prompts
        flat = (place < np.asarray(shares)[:, None]).astype(float)[None, :, None]
        return np.broadcast_to(
            flat[(slice(None), slice(None), slice(None), *[None] * len(shape))], (*size, *shape, prompts)
        ).copy()

    score = np.ones((*size, len(MEASURES)))
    score[..., 0] = np.array(JACCARD)[None, :, None]
    score[..., -1] = np.array([1, 1, 1.2, 1.4, 1, 1.01, 30.0])[None, :, None]
    data = {"score": ((*lead, "measure"), score)}
    for name in ("top", "prob", "decoy_top", "decoy_prob"):
        values = given(ACCURACY, len(ways)) * (0.9 if "prob" in name else 1)
        data[name] = (
            (*lead, "jailbreak", "prompt"),
            values * (draw.random(values.shape) < 0.1) if "decoy" in name else values,
        )
        data[f"unrelated_{name}"] = ((*lead, "jailbreak", "unrelated"), given([0.95] * n, len(ways)))
    if steps:
        parts = [given(np.array(ACCURACY) + (np.array(RELEARNED) - ACCURACY) * step / max(steps)) for step in steps]
        data["relearn_top"] = ((*lead, "step", "prompt"), np.stack(parts, axis=-2))
        data["told"] = ((*lead, "prompt"), np.zeros((*size, prompts)))
    coords = {"concept": ["colour"], "unlearner": list(ROWS), "seed": list(range(seeds)), "measure": list(MEASURES)}
    coords |= {"jailbreak": list(ways), "control": ("unlearner", [name in ROWS[:2] for name in ROWS])}
    coords |= {"step": list(steps)} if steps else {}
    coords |= {"prompt": np.arange(prompts), "unrelated": np.arange(prompts)}
    attrs = {
        "collapse": 2.0,
        "neutral": "neutral English",
        "vectors": ["colour: 2.474"],
        "skipped": [],
        "left_out": [],
        "silent": [],
    }
    return stamped(UnlearningStudyResult(xr.Dataset(data, coords, attrs)))


def order():
    draw = rng(12)
    given = (draw.random((5, 3, 12)) < np.array([1, 0.3, 0.9, 0.3, 0.5])[:, None, None]).astype(float)
    given[:, 1, 4:] = np.nan
    states = ["before", "first", "second", "first+second", "second+first"]
    data = {
        "given": (("state", "group", "prompt"), given),
        "nll": (("state", "document"), 2 + 0.1 * draw.random((5, 6))),
    }
    coords = {"state": states, "group": ["first", "second", "unrelated"]}
    attrs = {
        "first": "needle of colour",
        "second": "rome of craft",
        "aims": ["unlearn", "edit"],
        "neutral": "",
        "silent": [],
    }
    return stamped(InterventionOrderResult(xr.Dataset(data, coords, attrs)))


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("make", [study, order])
def test_a_figure_is_finished(make, theme):
    result = make()
    figure = result.plot(theme=theme)
    assert size(figure) < 200_000
    assert any(result.manifest.hash in str(note.text) for note in figure.layout.annotations)
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert ("colour" in figure.layout.title.text) and figure.layout.title.text


def test_marks_and_arrows_are_what_was_measured():
    result = study()
    figure = plot(result, parts=("traces",))
    marks = {trace.legendgroup: trace for trace in figure.data if trace.mode == "markers"}
    assert list(marks) == list(ROWS)
    for name, share, left in zip(ROWS, ACCURACY, JACCARD, strict=True):
        assert marks[name].y[0] == pytest.approx(share) and marks[name].x[0] == pytest.approx(left, abs=0.08)
    arrows = sorted((note.ay, note.y) for note in figure.layout.annotations if note.showarrow)
    assert np.allclose(arrows, sorted((a, b) for a, b in zip(ACCURACY, RELEARNED, strict=True) if b - a > 0.03))
    places = [marks[name].x[0] for name in ROWS if name not in ("untouched", "matched ablation")]
    assert len(set(np.round(places, 4))) == len(places)  # none hides another


def test_an_arrow_compares_the_same_questions():
    result = study()
    data = result.data.copy(deep=True)
    data["told"][..., 10:] = 1  # of the untold ones npo answered the first, and nothing came back
    data["relearn_top"].loc[{"unlearner": "npo"}] = data["relearn_top"].sel(unlearner="npo").isel(step=0)
    figure = plot(stamped(UnlearningStudyResult(data)), parts=("traces",))
    arrows = sorted((note.ay, note.y) for note in figure.layout.annotations if note.showarrow)
    assert np.allclose(arrows, [(0.0, 1.0), (0.9, 1.0)])  # gradient-difference and needle:n=100


def test_no_two_methods_look_alike():
    names = [
        *ORDER,
        "needle:n=50",
        "needle:n=100",
        "npo:kl=0",
        "npo:kl=2",
        "npo:lr=1",
        "mine",
        "untouched",
        "matched ablation",
    ]
    looks = [(one["colour"], one["symbol"], one["dash"]) for one in _styles(names)]
    assert len(set(looks)) == len(names)
    assert len({look[0] for look, name in zip(looks, names, strict=True) if name.startswith("npo")}) == 1


def test_curves_and_ways_are_what_was_measured():
    result = study()
    figure = plot(result, parts=("relearning", "jailbreaks"))
    lines = {
        trace.legendgroup: trace for trace in figure.data if trace.mode == "lines+markers" and trace.x[0] is not None
    }
    assert [float(lines[name].y[-1]) for name in ROWS] == pytest.approx(RELEARNED)
    ways = [trace for trace in figure.data if trace.mode == "markers" and len(trace.x) > 1]
    assert [len(trace.y) for trace in ways] == [4] * len(ROWS)
    assert [float(trace.y[-1]) for trace in ways] == pytest.approx(ACCURACY)
    assert list(figure.layout.xaxis2.ticktext) == ["plain", "article", "reworded-1", "best"]


def test_what_was_not_run_is_not_drawn():
    bare = study(steps=(), ways=("plain",))
    figure = plot(bare)
    assert "xaxis2" not in figure.layout and not any(note.showarrow for note in figure.layout.annotations)
    with pytest.raises(BadInput, match=r"'relearning'.*run without"):
        plot(bare, parts=("relearning",))
    with pytest.raises(BadInput, match="once"):
        plot(study(), parts=("traces", "traces"))
    with pytest.raises(BadInput, match="trace"):
        plot(study(), trace="smell")


def test_the_result_says_what_was_lost_and_what_returned():
    result = study()
    share = result.recovered().isel(step=-1)
    back = share["mean"].to_pandas()
    for name, before, after in zip(ROWS, ACCURACY, RELEARNED, strict=True):
        assert (
            np.isnan(back[name])
            if before > 0.95
            else back[name] == pytest.approx((after - before) / (1 - before), abs=1e-9)
        )
    assert (share["ci_lo"].sel(unlearner="npo") < back["npo"]) and (share["ci_hi"].sel(unlearner="npo") > back["npo"])
    assert [name for name, alarm in result.collapsed().items() if alarm] == ["dampening"]
    head = result.headline()
    assert head["methods that halve the accuracy"] == 3 and head["Jaccard left, gradient-difference"] == 0.93
    assert "needle:n=100" in "\n".join(result.report_lines())
    two = study(seeds=2)
    assert two.recovered()["ci_lo"].equals(
        result.recovered()["ci_lo"]
    )  # a second seed that says the same is no new question


def test_bars_of_order_are_its_numbers():
    result = order()
    figure = result.plot()
    bars = {trace.name: trace for trace in figure.data if trace.type == "bar"}
    found = result.order()
    assert np.allclose(bars["order sensitivity"].y, found["sensitivity"].values, equal_nan=True)
    assert np.allclose(bars["order-free error"].y, found["error"].values, equal_nan=True)
    marks = [trace for trace in figure.data if trace.type == "scatter"]
    assert np.allclose(marks[2].y, result.values()["mean"].sel(state="first+second").values)
