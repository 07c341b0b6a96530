"""Structure and consistency of dictionaries: planted twins and permutations are found, random rows are at the floor."""

import numpy as np
import pytest
import torch

from interp.analyses.dictionaries.structure import consistency, structure
from interp.core.artifact import open_result
from interp.core.dictionary import Dictionary, DictionaryConfig, View
from interp.core.errors import BadInput
from interp.core.seed import generator

VIEW = View("in", width=24)


def coder(seed=0, latents=60, rows=None):
    made = Dictionary.initialise(DictionaryConfig(latents, (VIEW,), (VIEW,), k=4), seed=seed)
    if rows is not None:
        made.decoders[0].copy_(rows)
    return made


def test_nearest_rows_are_those_of_all_pairs_and_planted_twins_show():
    plain = coder()
    rows = plain.decoders[0].clone()
    rows[7] = 3.0 * rows[2] + 0.01 * rows[5]
    rows[11] = 0.0  # never trained
    made = coder(rows=rows)
    found = structure(made)
    unit = rows.double() / rows.double().norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T).fill_diagonal_(-2)
    cosines[:, 11] = -2
    keep = np.arange(60) != 11
    assert np.allclose(found.data["nearest"].values[keep, 0], cosines.amax(1).numpy()[keep], atol=1e-9)
    assert found.data["twin"].values[7, 0] == 2 and found.data["twin"].values[2, 0] == 7
    assert np.isnan(found.data["nearest"][11, 0]) and found.data["twin"][11, 0] == -1
    assert found.twins() == pytest.approx(2 / 59) and structure(plain).twins() == 0.0
    assert np.allclose(structure(plain).data["agreement"], 1.0)  # it begins tied
    made.encoders[0].mul_(-1)
    assert float(structure(made).data["agreement"][2, 0]) == pytest.approx(-1.0)


def test_random_rows_are_no_closer_than_random_rows_with_their_moments():
    """Rows in few dimensions: far above uniform directions, yet at the floor of their own second moments."""
    draw = generator(0, "flat")
    flat = torch.randn(400, 4, generator=draw) @ torch.randn(4, 24, generator=draw)
    found = structure(coder(latents=400, rows=flat))
    nearest, uniform, matched = (float(np.nanmedian(found.data[name])) for name in ("nearest", "uniform", "matched"))
    assert nearest > uniform + 0.2 and abs(nearest - matched) < 0.02


def test_a_dictionary_in_another_order_is_the_same_and_an_unrelated_one_is_at_the_floor():
    one = coder(0)
    order = torch.randperm(60, generator=generator(0, "order"))
    again = coder(5, rows=-2.0 * one.decoders[0][order])  # other signs and sizes, too
    same = consistency(one, again)
    assert same.mcc() == pytest.approx(1.0) and same.share() == 1.0
    assert np.array_equal(order[torch.from_numpy(same.data["match"].values)], torch.arange(60))
    assert np.allclose(same.data["cosine"], -1.0)
    other = consistency(one, coder(1))
    assert abs(other.mcc() - other.null()) < 0.05 and other.share() == 0.0 and other.mcc() < 0.6


def test_half_of_the_latents_found_again_are_told_from_the_rest():
    one, rows = coder(0), coder(1).decoders[0].clone()
    rows[:30] = one.decoders[0][30:]
    found = consistency(one, coder(2, rows=rows))
    assert found.share() == 0.5 and found.data["match"].values[30:].tolist() == list(range(30))
    assert (found.data["best"].values[:30] < 0.9).all()
    only = consistency(one, coder(2, rows=rows), alive=(torch.arange(60) >= 30, torch.arange(60) < 30))
    assert only.mcc() == pytest.approx(1.0) and np.isnan(only.data["best"].values[:30]).all()
    few = consistency(
        coder(latents=20, rows=one.decoders[0][:20]), one
    )  # of another size: over the smaller one's latents
    assert few.mcc() == pytest.approx(1.0) and consistency(
        one, coder(latents=20, rows=one.decoders[0][:20])
    ).mcc() == pytest.approx(1.0)


def test_views_are_matched_as_one_row_and_told_apart():
    views = (View("base", width=24), View("tuned", width=16))
    made = [Dictionary.initialise(DictionaryConfig(40, views, views, k=4, centred=False), seed=seed) for seed in (0, 1)]
    made[0].decoders[0].mul_(3.0)  # most of a joint row, so that it decides
    made[1].decoders[0].copy_(made[0].decoders[0])
    found = consistency(*made)
    assert found.data["view"].values.tolist() == ["base", "tuned"]
    assert np.allclose(found.data["cosine"].sel(view="base"), 1.0) and found.data["match"].values.tolist() == list(
        range(40)
    )
    assert float(np.abs(found.data["cosine"].sel(view="tuned")).mean()) < 0.5
    assert consistency(*made, views=["base"]).mcc() == pytest.approx(1.0)


def test_results_are_saved_and_say_of_what(tmp_path):
    one, two = coder(0), coder(1)
    one.save(tmp_path / "one")
    found = consistency(str(tmp_path / "one"), two)
    assert found.manifest.inputs == {"first": one.digest, "second": two.digest}
    again = open_result(found.save(tmp_path / "result"))
    assert again.headline() == found.headline() and again.report_lines() == found.report_lines()
    kept = structure(one)
    assert open_result(kept.save(tmp_path / "structure")).report_lines() == kept.report_lines()


def test_dictionaries_of_different_places_say_so():
    made = {}
    for site, model in (
        ("blocks.1.hook_resid_post", "a"),
        ("blocks.2.hook_resid_post", "a"),
        ("blocks.1.hook_resid_post", "b"),
    ):
        view = View("in", site=site, width=24, model=model, fingerprint=f"{model} raw")
        made[site[7], model] = Dictionary.initialise(DictionaryConfig(30, (view,), (view,), k=4))
    one = made["1", "a"]
    assert not any("not of one place" in line for line in consistency(one, one).report_lines())
    for other, words in (
        (made["2", "a"], "a blocks.2.hook_resid_post"),
        (made["1", "b"], "b blocks.1.hook_resid_post"),
    ):
        said = consistency(one, other).report_lines()
        assert any(f"in is a blocks.1.hook_resid_post and {words}" in line for line in said), said


def test_what_cannot_be_compared_is_refused():
    one = coder()
    other = View("out", width=24)
    wide = View("in", width=30)
    with pytest.raises(BadInput, match="'out'"):
        consistency(one, Dictionary.initialise(DictionaryConfig(9, (other,), (other,), k=4)))
    with pytest.raises(BadInput, match="width 24 in one and 30"):
        consistency(one, Dictionary.initialise(DictionaryConfig(9, (wide,), (wide,), k=4)))
    with pytest.raises(BadInput, match="`alive` of the first"):
        consistency(one, one, alive=(torch.ones(3), None))
    with pytest.raises(BadInput, match="take part"):
        consistency(one, one, alive=(None, torch.zeros(60)))
    with pytest.raises(BadInput, match="draws"):
        consistency(one, one, draws=0)
    with pytest.raises(BadInput, match="not zero"):
        structure(coder(rows=torch.zeros(60, 24)))
