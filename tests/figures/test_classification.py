"""The figure of latents as features draws what the result holds, in both themes, and refuses what is not there."""

import html

import numpy as np
import pytest
import xarray as xr

from interp.analyses.dictionaries.classification import LatentClassificationResult
from interp.core.errors import BadInput

from .fakes import rng, stamped

N = 60


def result() -> LatentClassificationResult:
    draw, yes = rng(), np.arange(N) % 2 == 0
    names = ["latents sum", "latents max >1", "hidden mean", "words tfidf", "larger class"]
    strong = np.array([3.0, 2.0, 1.0, 0.5, 0.0])[:, None, None] * (yes - 0.5)
    score = draw.standard_normal((5, 2, N)) + strong
    score[-1] = -1
    null = 0.5 + 0.05 * draw.standard_normal((3, 5, 2, 19))
    dims, shape = ("decided", "probe", "rank"), (2, 2, 3)
    data = xr.Dataset(
        {
            "score": (("feature", "probe", "example"), score), "null": (("measure", "feature", "probe", "shuffle"), null),
            "strength": (("feature", "probe"), np.full((5, 2), np.nan)), "latent": (dims, np.arange(12).reshape(shape)),
            "weight": (dims, draw.standard_normal(shape)), "on_yes": (dims, np.ones(shape)), "on_no": (dims, np.zeros(shape)),
            "fires": (dims, np.full(shape, "<b> 60%, gold 40%")),
        },
        {
            "feature": names, "probe": ["logistic", "tree"], "measure": ["f1", "accuracy", "auc"], "decided": names[:2],
            "family": ("feature", ["latents", "latents", "hidden", "words", "none"]), "width": ("feature", [9, 9, 4, 7, 0]),
            "label": ("example", yes), "fold": ("example", np.arange(N) // 2 % 5), "group": ("example", np.arange(N) // 2),
        },
        {"data": "polite", "design": "30 pairs", "loose": 0},
    )  # fmt: skip
    return stamped(LatentClassificationResult(data))


@pytest.mark.parametrize("theme", ["screen", "paper"])
def test_sets_nulls_and_deciding_latents_are_drawn(theme):
    made = result()
    figure = made.plot(theme=theme)
    found = made.measures().sel(measure="f1")
    marks = next(trace for trace in figure.data if trace.name == "tree" and trace.error_x.array is not None)
    rows = ["latents sum", "latents max >1", "hidden mean", "words tfidf"]
    assert [html.unescape(one) for one in figure.layout.yaxis.ticktext] == rows
    assert np.allclose(marks.x, found["value"].sel(feature=rows, probe="tree"))
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert np.allclose(bars[0].base, found["null_low"].sel(feature=rows, probe="logistic"))
    assert np.allclose(bars[-1].x, made.deciders(*made.best())["weight"], atol=1e-6)
    assert "<b>" not in figure.layout.yaxis2.ticktext[0].partition("  ")[0]  # a token is no markup


def test_other_sets_and_measures_may_be_asked_for():
    made = result()
    assert "max" in made.plot(feature="max >1", probe="tree").layout.annotations[1].text
    assert len(made.plot(measure="auc", sets=1).layout.yaxis.ticktext) == 3  # baselines are never left out
    for wrong in ({"feature": "latents min"}, {"probe": "svm"}, {"sets": 0}, {"measure": "mcc"}):
        with pytest.raises(BadInput):
            made.plot(**wrong)
    assert made.notes() and made.report_lines()
