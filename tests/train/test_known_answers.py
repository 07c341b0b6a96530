"""Dictionaries of worlds whose features are known: what must be found is found, and of noise nothing is.

Small worlds (24 features in 16 dimensions, 1.2 on in a row). Larger ones, and what a Matryoshka does to absorption (it takes several
seeds to see), are in tests/benchmarks/recovery.py.
"""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from interp.analyses.dictionaries.recovery import RecoveryResult, recovery
from interp.cache.views import MemoryView
from interp.core.dictionary import Dictionary, View
from interp.core.seed import generator
from interp.data.features import FeatureWorld, spread
from interp.train.data import TrainingData
from interp.train.families import SAE, Crosscoder, CrossLayerTranscoder, Family, Transcoder
from interp.train.training import Training

WORLD = FeatureWorld(features=24, width=16)
BATCH = 256


def train(family: Family, views: Mapping[str, Tensor], *, steps: int, **options: float) -> Dictionary:
    data = TrainingData({name: MemoryView(rows, name, rows="one") for name, rows in views.items()}, heldout=0.2)
    config = family.config({name: View(name, width=rows.shape[1]) for name, rows in views.items()})
    training = Training(tokens=steps * BATCH, batch=BATCH, watch=steps * BATCH, dead_after=20_000, **options)
    return training(data, config).dictionary


def found(dictionary: Dictionary, world: FeatureWorld = WORLD, rows: int = 20_000) -> RecoveryResult:
    """On rows that were not trained on."""
    codes = dictionary.codes(world.rows(rows, seed=2))
    return recovery(dictionary.W_dec, world.directions, codes=codes, truth=world.codes(rows, seed=2))


def l0(dictionary: Dictionary, rows: int = 20_000) -> float:
    return float(dictionary.codes(WORLD.rows(rows, seed=2)).counts().double().mean())


def test_an_l1_sae_finds_every_feature() -> None:
    family = SAE(latents=24, activation="relu")
    result = found(train(family, {"in": WORLD.rows(60_000, seed=1)}, steps=400, lr=1e-2, coefficient=0.6))
    assert result.mcc() >= 0.99 and result.recovered() == 1 and result.alive == 24 and result.coverage() == 1


def test_a_batchtopk_sae_of_twice_the_width_keeps_as_many_alive_as_there_are() -> None:
    family = SAE(latents=48, activation="batchtopk", k=WORLD.l0)
    dictionary = train(family, {"in": WORLD.rows(60_000, seed=1)}, steps=400, lr=6e-3)
    result = found(dictionary)
    assert result.mcc() >= 0.99 and result.recovered() == 1 and 24 <= result.alive <= 26
    assert l0(dictionary) == pytest.approx(WORLD.l0, rel=0.03) and result.f1() > 0.95


def test_a_jumprelu_sae_finds_them_with_as_many_on_as_there_are() -> None:
    family = SAE(latents=48, activation="jumprelu")
    options = {"lr": 1e-2, "coefficient": 1.0, "bandwidth": 0.5}
    dictionary = train(family, {"in": WORLD.rows(40_000, seed=1)}, steps=400, **options)
    assert found(dictionary).mcc() >= 0.99 and l0(dictionary) == pytest.approx(WORLD.l0, rel=0.1)
    assert dictionary.thresholds.min() > 0.1  # they began at 0.01


def test_of_noise_nothing_is_recovered() -> None:
    draw = generator(0, "noise")
    noise = torch.randn(20_000, 16, generator=draw)
    dictionary = train(SAE(latents=24, activation="relu"), {"in": noise}, steps=150, lr=1e-2, coefficient=0.5)
    result = found(dictionary)
    assert result.alive >= 20 and result.recovered() == 0
    assert abs(result.mmcs() - result.chance()) < 0.08  # as near to the features as random directions are


def test_a_transcoder_finds_the_map() -> None:
    """y = A relu(B x - 1.3) with orthonormal rows of B."""
    reads, writes = spread(24, 32, 0, "B"), spread(24, 16, 0, "A")
    x = torch.randn(30_000, 32, generator=generator(0, "transcoder"))
    codes = (x @ reads.T - 1.3).relu()
    family = Transcoder(latents=48, activation="relu")
    dictionary = train(family, {"in": x, "out": codes @ writes}, steps=300, lr=1e-2, coefficient=0.6)
    written, read = recovery(dictionary.decoder("out"), writes), recovery(dictionary.encoder("in"), reads)
    assert written.recovered(0.95) == read.recovered(0.95) == 1
    latents = torch.tensor(written.data["match"].values)  # what writes a feature also reads it
    cosines = torch.cosine_similarity(dictionary.encoder("in")[latents], reads)
    assert float(cosines.min()) > 0.95


def test_a_cross_layer_transcoder_writes_where_features_do() -> None:
    """Features of layer 0 write the MLPs of 0 and 2, not that of 1; those of the others every later one."""
    worlds = [FeatureWorld(features=8, width=16, probability=0.1, seed=layer) for layer in range(3)]
    views = {f"in {layer}": world.rows(20_000, seed=1) for layer, world in enumerate(worlds)}
    planted = {
        (layer, to): spread(8, 16, 0, layer, to) for to in range(3) for layer in range(to + 1) if (layer, to) != (0, 1)
    }
    for to in range(3):
        views[f"out {to}"] = sum(
            (worlds[layer].codes(20_000, seed=1) @ planted[layer, to] for layer, at in planted if at == to),
            torch.zeros(20_000, 16),
        )
    family = CrossLayerTranscoder(latents=24, activation="relu")
    dictionary = train(family, views, steps=250, lr=1e-2, coefficient=0.5)
    norms = {view: norm[:8] for view, norm in dictionary.norms().items()}
    assert bool((norms["out 1"] < 0.05 * torch.minimum(norms["out 0"], norms["out 2"])).all())
    for (layer, to), directions in planted.items():
        if layer < 2:
            own = dictionary.decoder(f"out {to}")[8 * layer : 8 * layer + 8]
            assert recovery(own, directions).mcc() >= 0.99, (layer, to)


def test_a_crosscoder_of_a_model_with_itself_finds_no_difference() -> None:
    world = FeatureWorld(features=24, width=16, probability=0.1)
    x = world.rows(20_000, seed=1)
    dictionary = train(Crosscoder(latents=48, k=world.l0), {"base": x, "tuned": x}, steps=60, lr=5e-3)
    delta = difference(dictionary)[dictionary.codes({"base": x, "tuned": x}).dense().amax(0) > 0]
    assert len(delta) > 20 and float(delta.min()) >= 0.49 and float(delta.max()) <= 0.51


def test_the_scale_of_a_model_makes_no_difference() -> None:
    """Two bases, so that nothing is equal by symmetry; the second model's activations are then ten times as large."""
    world = FeatureWorld(features=24, width=16, probability=0.1)
    x = world.rows(20_000, seed=1)
    tuned = x @ spread(16, 16, 0, "basis")
    found = [
        difference(train(Crosscoder(latents=48, k=world.l0), {"base": x, "tuned": tuned * scale}, steps=60, lr=5e-3))
        for scale in (1.0, 10.0)
    ]
    assert float(found[0].std()) > 0.01 and float((found[0] - found[1]).abs().max()) < 1e-3


def difference(dictionary: Dictionary) -> Tensor:
    """Delta of each latent: 1 is the tuned model only."""
    base, tuned = dictionary.norms().values()
    return 0.5 * ((tuned - base) / torch.maximum(base, tuned) + 1)
