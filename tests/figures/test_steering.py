"""Steering in pictures: the dose between its controls, effect against side effect, the choice, and what was written."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.directions.steering.result import ConceptSteeringResult
from interp.core.errors import BadInput
from interp.figures import steering
from interp.figures.shrink import size
from interp.figures.theme import PX_PER_INCH, VENUES

from .fakes import rng, stamped

MEASURES = ["logprob", "logit", "judge", "kl", "kl_clean", "kl_rest", "nll"]
DOSES = np.array([-1.0, 0.5, 1.0, 2.0])


def steered(draws=4, prompts=6, layers=3, examples=2, judge=True):
    """The direction gains 2 nats a strength, others nothing; everyone pays the square of the strength."""
    draw = rng(9)
    kinds = ["direction"] + [kind for kind in ("random", "span", "shuffled") for _ in range(draws)]
    arms = len(kinds)
    outcome = draw.normal(0, 0.1, (arms, len(DOSES), len(MEASURES), prompts))
    outcome[0, :, :3] += 2 * DOSES[:, None, None]
    outcome[:, :, 3:6] = np.abs(outcome[:, :, 3:6]) + 0.1 * (DOSES**2)[None, :, None, None]
    if not judge:
        outcome[:, :, 2] = np.nan
    tried = np.repeat(outcome[:1], layers, axis=0) * np.arange(1, layers + 1)[:, None, None, None] / layers
    zeros = np.zeros((len(MEASURES), prompts))
    words = np.array(
        [[f"clean {i}" for i in range(examples)], [f"<b>steered {i}" for i in range(examples)], [""] * examples],
        dtype=str,
    )
    data = {
        "outcome": (("arm", "strength", "measure", "prompt"), outcome), "clean": (("measure", "prompt"), zeros),
        "fit_outcome": (("layer", "strength", "measure", "fit_prompt"), tried), "fit_clean": (("measure", "fit_prompt"), zeros),
        "vector": (("layer", "d_model"), np.eye(layers, 8)), "length": ("layer", np.ones(layers)), "gap": ("layer", np.ones(layers)),
        "norm": ("layer", np.full(layers, 5.0)), "auc": ("layer", np.full(layers, 0.9)), "arm_length": ("arm", np.ones(arms)),
        "written": (("version", "example"), words),
    }  # fmt: skip
    coords = {
        "arm": np.arange(arms), "kind": ("arm", kinds), "strength": DOSES, "measure": MEASURES, "prompt": np.arange(prompts),
        "fit_prompt": np.arange(prompts), "layer": np.arange(layers), "target": [0], "target_id": ("target", [7]), "z": ("target", [3.0]),
        "word": ("target", ["␣red"]), "version": ["clean", "steered", "random"], "example": np.arange(examples),
        "text": ("example", np.array(["a text that is long enough to be cut somewhere in its middle"] * examples, dtype=str)),
    }  # fmt: skip
    attrs = {
        "layer": 2, "strength": 1.0, "unit": "difference", "method": "mean", "site": "resid_post", "budget": 0.5, "pool": "last",
        "neutral": "neutral English", "data": "x", "seed": 0, "named": True, "found": "next", "short": 0, "within": True,
    }  # fmt: skip
    return stamped(ConceptSteeringResult(xr.Dataset(data, coords, attrs)))


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("by", ["dose", "trade", "layers", "examples"])
def test_a_figure_is_finished(by, theme):
    result = steered()
    figure = steering.plot(result, by=by, theme=theme)
    assert figure.data and size(figure) < 60_000
    assert any(result.manifest.hash in str(note.text) for note in figure.layout.annotations)
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert figure.layout.title.text


def test_the_dose_runs_through_zero_between_three_bands():
    result = steered()
    figure = steering.plot(result)
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [trace.x for trace in lines] == [(-1.0, 0.0, 0.5, 1.0, 2.0)] * 2
    effect, side = (np.asarray(trace.y) for trace in lines)
    assert effect[1] == 0 and effect[3] == pytest.approx(2.0, abs=0.1) and side[1] == 0 and (side >= 0).all()
    bands = {trace.name for trace in figure.data if trace.fill == "toself" and trace.name}
    assert bands == set(steering.KINDS.values())
    assert any(shape.x0 == result.strength for shape in figure.layout.shapes)


def test_the_trade_has_a_line_an_arm_and_the_choice_a_frame():
    result = steered()
    assert len(steering.plot(result, by="trade").data) == result.data.sizes["arm"]
    figure = steering.plot(result, by="layers")
    frame = figure.layout.shapes[0]
    assert (frame.x0, frame.y0) == (1.5, 1.5) and figure.data[0].z.shape == (3, 4)
    table = steering.plot(result, by="examples").data[0]
    assert list(table.cells["values"][2]) == ["&lt;b&gt;steered 0", "&lt;b&gt;steered 1"]


@pytest.mark.parametrize(
    ("options", "made", "said"),
    [
        ({"by": "curve"}, {}, "`by`"),
        ({"measure": "loss"}, {}, "`measure`"),
        ({"beside": "loss"}, {}, "`beside`"),
        ({"measure": "judge"}, {"judge": False}, "the judge reads the last stream"),
        ({"by": "examples"}, {"examples": 0}, "no examples"),
    ],
)
def test_bad_input_is_refused(options, made, said):
    with pytest.raises(BadInput, match=said):
        steering.plot(steered(**made), **options)
