"""Figures of sweeps of edits: what must be in them, in both themes."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.localization import EditSweepResult
from interp.analyses.localization.result import EFFECTS, SCORES
from interp.core.errors import BadInput
from interp.figures.localization import plot
from interp.figures.shrink import size
from interp.figures.theme import PX_PER_INCH, VENUES

from .fakes import rng, stamped


def sweep(facts=20, problems=("error_injection", "fact_forcing"), editors=("FT-1", "ROME"), layers=6, whole=True):
    draw = rng(5)
    cells = (len(problems), len(editors), facts, layers)
    level = np.linspace(0.95, 0.6, layers)
    level[-1] = 0.05
    scores = np.clip(level + 0.08 * draw.normal(size=cells), 0, 1)[..., None].repeat(len(SCORES), -1)
    effect = draw.random((len(EFFECTS), 2, facts, layers))
    if not whole:
        scores[:, 1:] = np.nan
    data = {
        "scores": (("problem", "editor", "fact", "layer", "score"), scores),
        "before": (("problem", "editor", "fact", "layer"), np.zeros(cells)),
        "after": (("problem", "editor", "fact", "layer"), scores[..., 0]), "effect": (("measure", "how", "fact", "layer"), effect),
        "clean": ("fact", np.full(facts, 0.9)), "total": ("fact", np.full(facts, 0.8)),
    }  # fmt: skip
    coords = {
        "problem": list(problems), "editor": list(editors), "fact": [f"f{i}" for i in range(facts)], "layer": list(range(layers)),
        "subject": ("fact", [f"s{i}" for i in range(facts)]), "measure": list(EFFECTS), "how": ["max", "last subject"],
        "score": list(SCORES),
    }  # fmt: skip
    attrs = {"n_layers": layers, "window": 1, "min_prob": 0.02, "skipped": []}
    return stamped(EditSweepResult(xr.Dataset(data, coords, attrs)))


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("by", ["layer", "gain"])
def test_a_figure_is_finished(by, theme):
    result = sweep()
    figure = result.plot(by=by, theme=theme, **({"resamples": 20} if by == "gain" else {}))
    assert figure.data and size(figure) < 100_000
    assert any(result.manifest.hash in str(note.text) for note in figure.layout.annotations)
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert "20 facts" in figure.layout.title.text


def test_lines_are_means_and_tracing_is_dashed_on_the_same_axis():
    result = sweep()
    figure = plot(result)
    rome = [trace for trace in figure.data if trace.name == "ROME" and trace.mode != "lines"]
    assert len(rome) == 2  # a panel a problem
    mean = result.data["scores"].sel(score="rewrite", problem="fact_forcing", editor="ROME").mean("fact").values
    assert np.allclose(rome[1].y, mean, atol=1e-6)
    tracing = [trace for trace in figure.data if str(trace.name).startswith("tracing")]
    share = result.data["effect"].sel(measure="fraction", how="max").mean("fact").values
    assert len(tracing) == 2 and np.allclose(tracing[0].y, share, atol=1e-6) and "px" in tracing[0].line.dash
    assert [trace.showlegend for trace in tracing] == [True, False]


def test_bars_end_at_both_and_marks_are_the_gain():
    result = sweep(problems=("error_injection",))
    figure = plot(result, by="gain", resamples=20)
    found = result.table(permutations=1, resamples=20)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert len(bars) == 4  # layer and what tracing adds, with and without the last layer
    for number, last in enumerate((True, False)):
        rows = found[found["last layer"] == last]
        assert np.allclose(bars[2 * number].x, rows["layer"], atol=1e-6)
        assert np.allclose(np.add(bars[2 * number + 1].x, bars[2 * number + 1].base), rows["both"], atol=1e-6)
    marks = [trace for trace in figure.data if trace.error_x.array is not None]
    assert np.allclose(marks[0].x, found[found["last layer"]]["gain"], atol=1e-6)
    assert np.allclose(np.add(marks[0].x, marks[0].error_x.array), found[found["last layer"]]["gain high"], atol=1e-6)


def test_editors_without_scores_are_left_out_and_nothing_to_regress_is_said():
    part = sweep(whole=False)
    assert "ROME" not in {trace.name for trace in plot(part).data}
    with pytest.raises(BadInput, match="nothing can be regressed"):
        plot(sweep(facts=3), by="gain")
    for bad in ({"by": "role"}, {"problem": "fact_erasure"}, {"score": "rewritten"}):
        with pytest.raises(BadInput, match=next(iter(bad))):
            plot(part, **bad)
