"""Components taken out: the drop of each, the named one marked, the range of random directions, the whole head."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.channels.ablation.result import ComponentAblationResult
from interp.analyses.readout import METRICS
from interp.core.errors import BadInput
from interp.figures import channel_ablation
from interp.figures.shrink import size
from interp.figures.theme import PX_PER_INCH, VENUES

from .fakes import rng, stamped


def ablation(writers=("0.3", "1.2"), components=8, prompts=10, random=6):
    """The first writer's component 3 composes most and does most; the second's composes and does nothing."""
    draw, rows = rng(41), []
    for place, writer in enumerate(writers):
        top = 3 if place == 0 else 5
        for index in range(components):
            rows.append(
                ("zero", writer, index, 0.5 if index == top else 0.1, 0.3 if (place, index) == (0, 3) else 0.01, 0)
            )
        rows += [("keep", writer, index, np.nan, 0.1, 0) for index in (top, 0)]
        rows.append(("head", writer, -1, np.nan, 0.35 if place == 0 else 0.02, 0))
        rows += [("random", writer, -1, np.nan, draw.normal(0, 0.02), number) for number in range(random)]
    rows += [
        ("zero", "all", -1, np.nan, 0.31, 0),
        ("keep", "all", -1, np.nan, 0.1, 0),
        ("keep", "all", 0, np.nan, 0.4, 0),
        ("head", "all", -1, np.nan, 0.4, 0),
    ]
    kind, writer, component, composition, drop, number = map(list, zip(*rows, strict=True))
    before = draw.uniform(0.5, 0.7, prompts)
    score = before - np.array(drop)[:, None] + draw.normal(0, 0.01, (len(rows), prompts))
    data = {
        "score": (("edit", "prompt"), score), "score_before": ("prompt", before),
        "outcome": (("edit", "prompt", "metric"), np.repeat(score[..., None], 4, -1) * 5),
        "outcome_before": (("prompt", "metric"), np.repeat(before[:, None], 4, -1) * 5),
    }  # fmt: skip
    coords = {
        "edit_kind": ("edit", kind), "writer": ("edit", writer), "component": ("edit", component), "composition": ("edit", composition),
        "draw": ("edit", number), "size": ("edit", np.ones(len(rows), dtype=int)), "scale": ("edit", np.zeros(len(rows))),
        "value": ("edit", np.ones(len(rows))), "prompt": [f"p{i}" for i in range(prompts)], "known": ("prompt", [True] * prompts),
        "metric": list(METRICS), "edit": np.arange(len(rows)),
    }  # fmt: skip
    attrs = {"reader": "3.0", "to": "IO", "minus": "S1", "query": "last", "kind": "Q", "at": "all"}
    return stamped(ComponentAblationResult(xr.Dataset(data, coords, attrs)))


def test_names_stand_above_everything_that_is_drawn():
    result = ablation()
    figure = channel_ablation.plot(result)
    names = [note for note in figure.layout.annotations if note.name == "strongest"]
    assert [note.y for note in names] == [1, 1] and all(str(note.yref).endswith("domain") for note in names)
    low, high = figure.layout.yaxis.range
    drawn = [float(np.max(trace.y + np.asarray(trace.error_y.array))) for trace in figure.data]
    drawn += [float(shape.y1) for shape in figure.layout.shapes]
    assert max(drawn) < high - 0.1 * (high - low) and min(float(shape.y0) for shape in figure.layout.shapes) > low


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("options", [{}, {"by": "joint"}, {"of": "logit_diff"}, {"writer": "1.2"}])
def test_a_figure_is_finished(options, theme):
    result = ablation()
    figure = channel_ablation.plot(result, theme=theme, **options)
    assert figure.data and size(figure) < 60_000
    assert any(result.manifest.hash in str(note.text) for note in figure.layout.annotations)
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert figure.layout.title.text


def test_each_component_its_interval_and_the_named_one():
    result = ablation()
    figure = channel_ablation.plot(result)
    marked = [trace for trace in figure.data if trace.name == "strongest"]
    plain = [trace for trace in figure.data if trace.name == "components"]
    assert [int(trace.x[0]) for trace in marked] == [3, 5] and all(len(trace.x) == 7 for trace in plain)
    assert marked[0].y[0] == pytest.approx(0.3, abs=0.02) and (marked[0].error_y.array > 0).all()
    named = [note.text for note in figure.layout.annotations if note.name == "strongest"]
    assert named[0].startswith("0.3.3 (p 0.12 of 7") and named[1].startswith("1.2.5 (p ")
    drop = result.drop().mean("prompt")
    random = drop.values[(drop["writer"].values == "0.3") & (drop["edit_kind"].values == "random")]
    band = next(shape for shape in figure.layout.shapes if shape.name == "random")
    assert (band.y0, band.y1) == (pytest.approx(random.min()), pytest.approx(random.max()))
    head = next(shape for shape in figure.layout.shapes if shape.name == "whole head")
    assert head.y0 == pytest.approx(0.35, abs=0.02)


def test_without_controls_there_is_no_band():
    assert not [shape for shape in channel_ablation.plot(ablation(random=0)).layout.shapes if shape.name == "random"]


def test_sets_are_said_in_words():
    figure = channel_ablation.plot(ablation(), by="joint")
    assert list(figure.layout.yaxis.ticktext) == [
        "only 0.3.3", "only 0.3.0", "0.3 removed", "only 1.2.5", "only 1.2.0", "1.2 removed", "strongest of each removed",
        "only strongest of each", "only component 0 of each", "all heads removed",
    ]  # fmt: skip


def test_what_cannot_be_drawn_is_refused():
    for options, said in (({"of": "loss"}, "logit_diff"), ({"writer": "9.9"}, "0.3"), ({"by": "head"}, "joint")):
        with pytest.raises(BadInput, match=said):
            channel_ablation.plot(ablation(), **options)
    with pytest.raises(BadInput, match="5 writers"):
        channel_ablation.plot(ablation(tuple(f"0.{i}" for i in range(5))))
