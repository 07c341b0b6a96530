"""Two models whose differences are known: norms alone are fooled by an L1 penalty, latent scaling is not, and patching sees the cause."""

import numpy as np
import pytest
import torch

from interp.analyses.dictionaries.diffing import Recall, recall_of
from interp.analyses.dictionaries.diffing.patching import BIASES, NOTHING, SWAP, Patcher, Sets, divergence
from interp.core.artifact import open_result
from interp.core.errors import BadInput
from interp.core.seed import generator
from interp.data.features import PairWorld
from tests.analyses.dictionaries.pair_worlds import found, trained

ROWS = 16_384


@pytest.fixture(scope="module")
def world():
    return PairWorld.small(seed=0)


@pytest.fixture(scope="module")
def batchtopk(world):
    """Trained and judged."""
    made = trained(world.rows(65_536, 1), latents=96, k=world.mean_on, steps=600, lr=4e-3)
    return made, found(world, made.dictionary, rows=ROWS)


@pytest.fixture(scope="module")
def l1(world):
    made = trained(world.rows(65_536, 1), latents=96, k=world.mean_on, steps=800, lr=4e-3, activation="relu")
    return made, found(world, made.dictionary, rows=ROWS)


def test_an_l1_penalty_makes_artifacts_and_latent_scaling_finds_them_out(l1):
    _, judged = l1
    chosen = judged.exclusive()
    assert judged.precision(chosen) <= 0.75 and judged.concepts(chosen) >= 5
    for free in (True, False):
        kept = judged.specific(free=free)
        assert judged.precision(kept) >= 0.9 and judged.concepts(kept) >= 5


def test_the_two_ratios_tell_the_two_artifacts_apart_and_estimate_the_strength(world, l1):
    _, judged = l1
    reconstruction, error = judged.scaled.free()
    chosen = judged.exclusive() & (judged.kind == "dec")
    assert chosen.any() and (reconstruction[chosen] > 0.5).all()
    weak = judged.exclusive("tuned") & (judged.kind == "weak")
    weak = weak if weak.any() else (judged.kind == "weak") & (judged.delta > 0.8) & judged.alive
    assert (reconstruction[weak] < 0.5).all() and abs(float(np.median(error[weak])) - 0.4) < 0.08
    true = judged.exclusive() & (judged.kind == "tuned") & (judged.cosine > 0.95)
    assert np.median(error[true]) < 0.05 and np.median(reconstruction[true]) < 0.1


def test_batchtopk_has_no_artifacts_and_finds_both_sides(world, batchtopk):
    _, judged = batchtopk
    for side in ("tuned", "base"):
        chosen = judged.exclusive(side)
        assert judged.precision(chosen, side) == 1.0 and judged.concepts(chosen, side) >= 5
        assert judged.concepts(judged.specific(side), side) >= 5
    assert max(judged.fvu.values()) <= 0.03
    assert min(judged.recall(world, kind) for kind in ("shared", "weak", "dec", "tuned", "base")) >= 0.8
    shared = judged.named == "shared"
    assert judged.concepts(shared, "shared") == 24 and not np.isin(judged.kind[shared], ("tuned", "base", "weak")).any()
    weak = judged.alive & (judged.kind == "weak") & (judged.cosine > 0.9)
    assert abs(float(np.median(judged.delta[weak])) - 0.8) < 0.03


def test_exclusive_latents_come_late_and_are_counted(batchtopk, tmp_path):
    made, _ = batchtopk
    curve = recall_of(made.result)
    assert isinstance(curve, Recall) and curve.counts.shape == (2, len(curve.tokens))
    assert curve.counts[:, 0].max() == 0 and (curve.counts[:, -1] >= 5).all() and curve.warning == ""
    made.result.save(tmp_path / "training")
    assert np.array_equal(recall_of(tmp_path / "training").counts, curve.counts)
    with pytest.raises(BadInput, match="did not train a crosscoder"):
        recall_of(open_result(tmp_path / "training").final())


def test_a_training_that_is_cut_short_is_told(batchtopk):
    made, _ = batchtopk
    counts = made.result.data["exclusive"].sum("view").values[:, 0]
    middle = int(np.argmax(counts >= counts[-1] / 2)) + 1
    early = type(made.result)(made.result.data.isel(step=slice(0, middle)))
    assert "Train longer" in recall_of(early).warning


def test_patching_exclusive_latents_recovers_the_difference_half_each():
    world = PairWorld.small(seed=0, weak=0, dec=0, cosine=1.0)
    made = trained(world.rows(65_536, 1), latents=96, k=world.mean_on, steps=500, lr=4e-3).dictionary
    judged = found(world, made, rows=ROWS)
    rows = world.rows(4000, 7)
    readout = 0.6 * torch.randn(32, 50, generator=generator(0, "readout"))
    shared = np.flatnonzero(judged.named == "shared")[:6]
    masks = {
        "tuned only": judged.exclusive(), "both": judged.exclusive() | judged.exclusive("base"), "all latents": judged.alive,
        "random shared": np.isin(np.arange(96), shared),
    }  # fmt: skip
    sets, patcher, codes = (
        Sets({name: torch.from_numpy(mask) for name, mask in masks.items()}),
        Patcher(made),
        made.codes(rows),
    )
    target = (rows["tuned"] @ readout).log_softmax(dim=-1)
    kl = {
        name: float(divergence(patcher.stream(name, sets, rows["base"], rows["tuned"], codes) @ readout, target).mean())
        for name in sets.names
    }
    share = {name: 1 - value / kl[NOTHING] for name, value in kl.items()}
    assert abs(share["random shared"]) <= 0.02 and 0.35 <= share["tuned only"] <= 0.65
    assert share["both"] >= 0.97 and share["all latents"] >= 0.97 and share[SWAP] >= 0.97 and abs(share[BIASES]) < 0.05


def test_a_model_beside_itself_has_nothing_of_its_own(world):
    x = world.rows(8192, 1)["tuned"]
    made = trained({"base": x, "tuned": x.clone()}, latents=96, k=world.mean_on, steps=60, lr=4e-3).dictionary
    same = PairWorld.small(seed=0, cosine=1.0, weak=0, dec=0, tuned=0, base=0, shared=48)
    judged = found(same, made, rows=8192)
    living = judged.alive
    assert living.sum() > 10 and np.abs(judged.delta[living] - 0.5).max() <= 0.01
    for ratio in (judged.scaled.nu()[:, living], judged.scaled.free()[:, living]):
        assert np.abs(ratio - 1).max() <= 0.02


def test_a_model_that_is_ten_times_as_large_has_the_same_deltas(world):
    x = world.rows(8192, 1)
    options = {"latents": 96, "k": world.mean_on, "steps": 60, "lr": 4e-3, "normalise": "norm"}
    one = trained(x, **options).dictionary.norms()
    ten = trained({"base": 10 * x["base"], "tuned": x["tuned"]}, **options).dictionary.norms()
    for model in ("base", "tuned"):
        assert torch.allclose(one[model], ten[model], rtol=1e-3)
