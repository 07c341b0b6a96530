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


def many(effect, prompts=24, subjects=12, seed=0):
    """Noise of size 0.05 in three cells of every prompt, and `effect` in one of them, one subject in `prompts / subjects` prompts."""
    rng = np.random.default_rng(seed)
    score = np.full((prompts, 4, 3), 0.1)
    score[:, 1:] += rng.normal(0, 0.05, (prompts, 3, 3))
    score[:, 2, 1] += effect
    result = made(score)
    result.data["subject"] = ("prompt", [f"s{i % subjects}" for i in range(prompts)])
    result.data = result.data.set_coords("subject")
    result.data.attrs.update(window=1, window_rule="code")
    return result


def test_significance_finds_what_is_there_and_nothing_else():
    for correction in ("holm", "bh"):
        test = many(0.1).significant(correction=correction)
        assert (
            test.attrs["tests"] == 9 and test.attrs["groups"] == 12 and test.attrs["attainable"]
        )  # "before" is not tested
        assert test["significant"].sel(role="last subject", kind="mlp").values.tolist() == [False, True, False]
        assert int(test["significant"].sum()) <= (1 if correction == "holm" else 2)  # of a few found, one may be false
        assert np.isnan(test["p"].sel(role="before").values).all()
    assert sum(int(many(0.0, seed=seed).significant()["significant"].sum()) for seed in range(20)) <= 3
    raw = many(0.1).significant(correction="none")
    assert np.nanmin(raw["p_adjusted"].values) == np.nanmin(raw["p"].values) >= raw.attrs["least_p"]
    assert raw["effect"].sel(role="last subject", kind="mlp", layer=1).item() == pytest.approx(0.1, abs=0.03)


def test_facts_about_one_subject_are_not_counted_twice():
    doubled = many(0.02, prompts=12, subjects=12)
    doubled.data = xr.concat([doubled.data] * 6, dim="prompt").assign_coords(prompt=[f"p{i}" for i in range(72)])
    honest, naive = doubled.significant(correction="none"), doubled.significant(correction="none", clusters=None)
    assert float(naive["p"].min()) < 0.1 * float(honest["p"].min())
    width = [
        float((table["ci_hi"] - table["ci_lo"]).sel(role="last subject").mean())
        for table in (doubled.by_role(), doubled.by_role(clusters=None))
    ]
    assert width[0] > 1.8 * width[1]
    with pytest.raises(BadInput, match="clusters"):
        doubled.by_role(clusters="subjects")


def test_a_label_without_known_prompts_is_shown_as_such():
    found = many(0.1)
    ids = found.data["prompt"].values.tolist()
    found.data["known"].values[:] = [place > 1 for place in range(len(ids))]
    table = found.with_labels({name: "guess" if place < 2 else "recall" for place, name in enumerate(ids)}).by_role(
        split="scenario"
    )
    assert table["scenario"].values.tolist() == ["guess", "recall"] and table["prompts"].values.tolist() == [
        0,
        len(ids) - 2,
    ]
    assert (
        int(table["n"].sel(scenario="guess").max()) == 0 and np.isnan(table["mean"].sel(scenario="guess").values).all()
    )
    assert table["mean"].sel(scenario="recall").equals(found.by_role()["mean"].assign_coords(scenario="recall"))


def test_too_few_prompts_can_show_nothing_and_it_is_said():
    few = many(0.5, prompts=4, subjects=4)
    test = few.significant()
    assert not test.attrs["attainable"] and test.attrs["least_p"] == 2 / 2**4 and not bool(test["significant"].any())
    for options, match in (
        ({"alpha": 1.5}, "alpha"),
        ({"correction": "fdr"}, "holm"),
        ({"against": "none"}, "control"),
    ):
        with pytest.raises(BadInput, match=match):
            few.significant(**options)
    with pytest.raises(BadInput, match="controls"):
        few.significant(against="control")


def test_windows_elsewhere():
    result = many(0.4)
    null = result.window_null()
    at = null.sel(role="last subject", kind="mlp")
    table = result.by_role()["mean"].sel(role="last subject", kind="mlp")
    assert (
        null.attrs["n"] == 3
        and float(at["highest"]) == float(table.max())
        and float(at["lowest"]) == float(table.min())
    )
    assert float(at["mean"]) == pytest.approx(float(table.mean()))
    result.data.attrs["window"] = 9
    with pytest.raises(BadInput, match="no unclipped window of 9 layers"):
        result.window_null()
