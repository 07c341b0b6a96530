"""Damage of value vectors: responses with the band of matched vectors, and the summary by concept."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.concepts.validation import ConceptValidationResult
from interp.core.errors import BadInput
from interp.figures import concept_validation
from interp.figures.shrink import size
from interp.figures.theme import PX_PER_INCH, VENUES

from .fakes import rng, stamped

METRICS = ["prob", "logprob", "accuracy", "kl", "kl_answer", "bleu", "rouge_l"]


def validation(concepts=3, prompts=8, draws=12, answers=True):
    """Related prompts lose in proportion to the damage and the number of vectors, the others nothing but noise."""
    draw, names = rng(7), [f"concept {letter}" for letter in "abcdefghij"[:concepts]]
    sizes, doses, rows = [1, 4, 16], [0.5, 0.0, -1.0], 2 * prompts * concepts
    kinds = np.tile(np.repeat(["related", "unrelated"], prompts), concepts)
    size_of = np.array(sizes)[:, None] / 16 * (1 - np.array(doses))  # [size, dose]
    hit = (kinds == "related")[:, None, None] * size_of * 0.4
    base = np.ones((rows, len(METRICS)))
    base[:, [3, 4]] = 0
    fall = hit + draw.normal(0, 0.01, hit.shape) + draw.normal(0, 0.05, (rows, 1, 1)) * hit
    score = base[:, None, None] - fall[..., None] * np.array([1, 3, 1, -1, -1, 1, 1])
    null = np.broadcast_to(base[0], (concepts, draws, 3, 3, 2, 7)) - draw.normal(0, 0.03, (concepts, draws, 3, 3, 2, 1))
    null = null.copy()
    null[:, 4:, :2] = np.nan
    if not answers:
        score[..., 4:] = np.nan
    vectors = np.ones((concepts, 16))
    data = {
        "score": (("prompt", "size", "dose", "metric"), score), "base": (("prompt", "metric"), base),
        "null": (("concept", "draw", "size", "dose", "kind", "metric"), null),
        "answer_before": ("prompt", ["so it is"] * rows), "answer_after": (("prompt", "size", "dose"), np.full((rows, 3, 3), "so")),
        "coefficient": (("prompt", "vector"), np.ones((rows, 16))), "share": (("concept", "vector"), vectors),
        "name": (("concept", "vector"), np.array([[f"1.{k}" for k in range(16)]] * concepts)),
        "norm": (("concept", "vector"), vectors), "null_norm": (("concept", "vector"), vectors),
        "noise": (("concept", "vector", "dose"), np.zeros((concepts, 16, 3))),
        "null_coefficient": (("concept", "kind", "vector"), np.ones((concepts, 2, 16))),
        "draws": ("concept", [draws] * concepts), "weight_difference": ("concept", [1e-7] * concepts),
    }  # fmt: skip
    coords = {
        "concept": names, "size": sizes, "dose": doses, "metric": METRICS, "kind": ["related", "unrelated"], "draw": np.arange(draws),
        "vector": np.arange(16), "prompt": [str(row) for row in range(rows)], "of": ("prompt", np.repeat(names, 2 * prompts)),
        "asks": ("prompt", kinds), "text": ("prompt", [f"text {row}" for row in range(rows)]),
        "answer": ("prompt", ["so"] * rows), "gold": ("prompt", [True] * rows),
    }  # fmt: skip
    attrs = {
        "how": "scale",
        "main": 0.0,
        "tokens": 20 if answers else 0,
        "match": "norm",
        "reference": "original",
        "answers": "whole",
    }
    return stamped(ConceptValidationResult(xr.Dataset(data, coords, attrs)))


@pytest.fixture(scope="module")
def result():
    return validation()


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("by", ["response", "summary"])
def test_both_pictures_in_both_themes(result, by, theme):
    figure = result.plot(by=by, theme=theme)
    assert size(figure) < 400_000
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH)


def test_a_response_shows_the_values_of_the_result(result):
    figure = concept_validation.plot(result, concept="concept b", metric="kl")
    lines = {trace.name: trace for trace in figure.data if trace.name and trace.showlegend is not False}
    assert set(lines) == {"matched vectors, related", "related prompts", "unrelated prompts"}
    curve = result.response("concept b", "kl").sortby("dose")
    assert list(lines["related prompts"].x) == [-1.0, 0.0, 0.5]
    assert np.allclose(lines["related prompts"].y, curve["mean"].sel(kind="related"), atol=1e-6)
    band = np.array(lines["matched vectors, related"].y)
    assert band.max() == pytest.approx(float(curve["null_hi"].sel(kind="related").max()), abs=1e-6)


def test_along_sizes(result):
    figure = result.plot(along="size")
    line = next(trace for trace in figure.data if trace.name == "related prompts")
    assert list(line.x) == [0.0, 2.0, 4.0] and list(figure.layout.xaxis.ticktext) == ["1", "4", "16"]


def test_the_summary_shows_levels_and_what_was_there_before(result):
    figure = result.plot(by="summary")
    found = result.levels("bleu")
    for index, kind in enumerate(("related", "unrelated")):
        assert np.allclose(figure.data[index].y, found["mean"].sel(kind=kind), atol=1e-6)
    assert len(figure.layout.shapes) == 6 and {shape.y0 for shape in figure.layout.shapes} == {1.0}
    assert figure.layout.yaxis.title.text == "BLEU with the original answers"
    assert validation(answers=False).plot(by="summary").layout.yaxis.title.text == "P(answer)"


def test_more_concepts_than_panels_are_said(result):
    many = validation(concepts=6)
    assert "first 4 of 6 concepts" in many.plot().layout.title.text


def test_bad_input(result):
    for options in (
        {"by": "map"},
        {"metric": "bleurt"},
        {"concept": "d"},
        {"along": "layer"},
        {"size": 3},
        {"dose": 0.1},
    ):
        with pytest.raises(BadInput):
            concept_validation.plot(result, **({"along": "size"} if "dose" in options else {}) | options)
