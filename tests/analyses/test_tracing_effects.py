"""What is made of a trace's numbers: shares, layer effects, tests, labels. Arithmetic on small results; no model runs here."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.tracing import TraceResult
from interp.core.errors import BadInput

ROLES = ("before", "first subject", "last subject", "last")


def made(prob, low=0.1, high=0.9):
    """A result of one kind and metric from scores [prompt, pos, layer]."""
    prob = np.asarray(prob, dtype=float)
    prompts, _, layers = prob.shape
    data = {
        "score": (("prompt", "kind", "pos", "layer", "metric"), prob[:, None, :, :, None]),
        "low": (("prompt", "metric"), np.full((prompts, 1), low)),
        "high": (("prompt", "metric"), np.full((prompts, 1), high)),
        "role": (("prompt", "pos"), np.tile(ROLES, (prompts, 1))),
        "n_pos": ("prompt", np.full(prompts, 4)),
    }
    coords = {
        "prompt": [f"p{i}" for i in range(prompts)], "kind": ["mlp"], "metric": ["prob"], "pos": range(4), "layer": range(layers),
        "known": ("prompt", np.ones(prompts, dtype=bool)),
    }  # fmt: skip
    return TraceResult(xr.Dataset(data, coords))


@pytest.fixture
def result():
    score = np.full((2, 4, 3), 0.1)
    score[0, 2] = [0.5, 0.9, 0.1]
    score[0, 3, 2] = 1.3  # more than the clean run: a window may overshoot
    score[1, 1, 0] = 0.3
    score[1, 2, 1] = 0.02  # less than the corrupted run
    return made(score)


def test_fraction_restored_is_not_clipped_unless_told(result):
    honest = result.fraction_restored()
    assert float(honest.max()) == pytest.approx(1.5) and float(honest.min()) == pytest.approx(-0.1)
    theirs = result.fraction_restored(denominator="hase")
    assert float(theirs.max()) == pytest.approx(1.0) and float(theirs.min()) == 0.0
    assert theirs.isel(prompt=0, kind=0, pos=2, layer=0).item() == pytest.approx(
        0.4 / 1.2
    )  # divided by the largest score
    assert theirs.isel(prompt=1, kind=0, pos=1, layer=0).item() == pytest.approx(0.2 / 0.8)  # or by the clean one


def test_layer_effects(result):
    best = result.layer_effects(kind="mlp", how="max")
    assert best.dims == ("prompt", "layer") and best["prompt"].values.tolist() == ["p0", "p1"]
    assert best.values == pytest.approx(np.array([[0.5, 1.0, 1.5], [0.25, 0.0, 0.0]]))
    last = result.layer_effects(kind="mlp", how="last subject", measure="effect")
    assert last.values == pytest.approx(np.array([[0.4, 0.8, 0.0], [0.0, -0.08, 0.0]]))
    theirs = result.layer_effects(measure="hase")
    assert float(theirs.max()) == pytest.approx(1.0)
    for options, match in (({"kind": "mpl"}, "mlp"), ({"how": "mean"}, "last subject"), ({"measure": "raw"}, "hase")):
        with pytest.raises(BadInput, match=match):
            result.layer_effects(**options)


def test_a_share_of_nothing_is_refused_with_its_numbers(result):
    result.data["high"][1] = 0.1001
    result.data["score"][1] = 0.1
    for denominator in ("total", "hase"):
        with pytest.raises(BadInput, match=r"1 of 2 prompts \(by 0\.0001\)"):
            result.fraction_restored(denominator=denominator)
        kept = result.layer_effects(measure="fraction" if denominator == "total" else "hase", drop=True)
        assert kept["prompt"].values.tolist() == ["p0"]
