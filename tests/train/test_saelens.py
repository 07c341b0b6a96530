"""SAELens' trainer on our rows: the weights are those of SAELens run by hand, and what comes back encodes as SAELens does."""

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.cache.views import MemoryView
from interp.core.dictionary import Dictionary, DictionaryConfig, View
from interp.core.errors import BadInput, Diverged
from interp.data.features import FeatureWorld
from interp.train import formats
from interp.train.data import TrainingData
from interp.train.saelens import train_with_sae_lens
from interp.train.training import Training

sae_lens = pytest.importorskip("sae_lens")
WIDTH, LATENTS, ROWS = 16, 32, 4096
VIEW = View("in", site="blocks.1.hook_resid_post", width=WIDTH, model="toy")
TRAINING = Training(tokens=30 * 256, batch=256, lr=3e-3, seed=4)
PENALISED = replace(TRAINING, coefficient=0.5)


def config(activation: str, **fields: Any) -> DictionaryConfig:
    return DictionaryConfig(LATENTS, (VIEW,), (VIEW,), **({"activation": activation, "k": 3} | fields))


CASES: dict[str, DictionaryConfig] = {
    "standard": config("relu"),
    "gated": config("jumprelu", code_scale="none"),
    "topk": config("topk"),
    "batchtopk": config("batchtopk", k=2.5),
    "matryoshka_batchtopk": config("batchtopk", nested=(8, LATENTS)),
    "jumprelu": config("jumprelu"),
}


@pytest.fixture(scope="module")
def world() -> FeatureWorld:
    return FeatureWorld(features=24, width=WIDTH, probability=0.1)


@pytest.fixture(scope="module")
def data(world: FeatureWorld) -> TrainingData:
    """Rows of no unit size."""
    return TrainingData({"in": MemoryView(world.rows(ROWS, seed=1) * 3 + 0.5, "world")}, metadata={"context_size": 8})


def by_hand(data: TrainingData, kind: str) -> Any:
    """SAELens' trainer called with the same rows, in its own words."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.registry import get_sae_training_class
    from sae_lens.training.sae_trainer import SAETrainer

    steps, shape, memory = 30, CASES[kind], {"topk_threshold_lr": 1 - TRAINING.threshold_memory}
    fields: dict[str, Any] = {
        "standard": {"l1_coefficient": 0.5, "l1_warm_up_steps": 2}, "gated": {"l1_coefficient": 0.5, "l1_warm_up_steps": 2},
        "jumprelu": {"l0_coefficient": 0.5, "l0_warm_up_steps": 2}, "topk": {"k": 3}, "batchtopk": {"k": 2.5} | memory,
        "matryoshka_batchtopk": {"k": 3, "matryoshka_widths": list(shape.nested)} | memory,
    }[kind]  # fmt: skip
    scaling = data.scalings("norm")["in"]
    provider = (scaling.apply(batch["in"]) for batch in data.batches(256, seed=4))
    with torch.random.fork_rng():
        torch.manual_seed(4)
        sae_class, settings = get_sae_training_class(kind)
        sae = sae_class(settings(d_in=WIDTH, d_sae=LATENTS, **fields))
        trainer = SAETrainer(
            cfg=SAETrainerConfig(
                total_training_samples=steps * 256, train_batch_size_samples=256, lr=3e-3, lr_end=3e-3, lr_warm_up_steps=2,
                lr_decay_steps=6, dead_feature_window=2,
            ),
            sae=sae, data_provider=provider,
        )  # fmt: skip
        return trainer.fit()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CASES)
def test_the_weights_are_saelens_own(kind: str, data: TrainingData, world: FeatureWorld) -> None:
    before = torch.random.get_rng_state()
    said: list[str] = []
    trained = train_with_sae_lens(
        data,
        CASES[kind],
        TRAINING if "topk" in kind else PENALISED,
        architecture="gated" if kind == "gated" else "",
        say=said.append,
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert any("SAELens" in text and "0.003" in text for text in said)
    ours, theirs = trained.dictionary, by_hand(data, kind)
    assert torch.equal(ours.decoders[0], theirs.W_dec.data) and torch.equal(ours.biases[0], theirs.b_dec.data)
    if kind != "gated":
        assert torch.equal(ours.encoders[0], theirs.W_enc.data.T)
    assert ours.config == CASES[kind] and ours.metadata["trainer"] == f"sae_lens {sae_lens.__version__}"
    rows = world.rows(128, seed=2) * 3 + 0.5
    x = ours.scalings["in"].apply(rows)
    with torch.no_grad():
        if kind.endswith("batchtopk"):
            assert ours.metadata["threshold_running"] == [float(theirs.topk_threshold)]
            assert float(ours.threshold) != float(theirs.topk_threshold)  # set on held-out rows
            theirs.topk_threshold.copy_(ours.threshold[0])
            theirs.cfg.normalize_activations = "none"
            x_hat = jumped(theirs, x)
        else:
            x_hat = theirs(x)
        assert torch.allclose(ours.scalings["in"].undo(x_hat), ours(rows), atol=1e-4)
        sae = formats.to_sae_lens(ours)
        assert torch.allclose(sae(rows), ours(rows), atol=1e-4)
    end = trained.result.final()
    assert math.isfinite(float(end["fvu"].sel(view="in").item()))
    data_ = trained.result.data
    assert int(data_["tokens"][-1]) == 30 * 256 and list(data_["view"].values) == ["in"]
    assert float(data_["loss"][-1].item()) < float(data_["loss"][0].item()) or kind == "jumprelu"
    assert float(data_["fvu"].isel(step=-1).item()) < 1.0


def jumped(sae: Any, x: Tensor) -> Tensor:
    """A batchtopk SAE as it is saved: rows by its threshold alone."""
    pre = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu() * sae.W_dec.norm(dim=-1)
    codes = torch.where(pre.double() > sae.topk_threshold, pre, 0)
    return (codes / sae.W_dec.norm(dim=-1)) @ sae.W_dec + sae.b_dec


def test_it_finds_the_features(data: TrainingData, world: FeatureWorld) -> None:
    """Planted: 24 features in 16 dimensions. Most are found by a BatchTopK SAE, and none by one that was trained on their shuffled rows."""
    longer = Training(tokens=300 * 256, batch=256, lr=1e-2, seed=1, watch=100 * 256)
    shape = config("batchtopk", k=2.4)
    trained = train_with_sae_lens(data, shape, longer)
    assert float((overlap(trained.dictionary, world) > 0.9).float().mean()) >= 0.8
    assert abs(float(trained.result.final()["l0"][0]) - 2.4) < 0.1
    rows = world.rows(ROWS, seed=1)
    order = torch.stack([torch.randperm(ROWS, generator=torch.Generator().manual_seed(i)) for i in range(WIDTH)], dim=1)
    null = train_with_sae_lens(TrainingData({"in": MemoryView(rows.gather(0, order), "null")}), shape, longer)
    assert float((overlap(null.dictionary, world) > 0.9).float().mean()) <= 0.1


def test_several_are_saved_with_their_table(data: TrainingData, tmp_path: Path) -> None:
    shape = config("batchtopk")
    trained = train_with_sae_lens(data, [shape, shape.with_k(1.5)], TRAINING, folder=tmp_path / "runs")
    assert trained.folder == tmp_path / "runs" and len(trained.dictionaries) == 2
    assert Dictionary.load(tmp_path / "runs" / "dictionary-1").digest == trained.dictionaries[0].digest
    table = interp.open(tmp_path / "runs" / "training")
    assert table.data["k"].isel(step=-1).values.tolist() == [3.0, 1.5]
    assert bool(table.data["l0_heldout"].isel(step=-1).notnull().all())
    assert len(table.headline()) == 3 and "FVU" in str(table.report_lines()[0])


def overlap(dictionary: Dictionary, world: FeatureWorld) -> Tensor:
    """Largest cosine of each true direction with a decoder row."""
    rows = dictionary.decoders[0]
    return (world.directions @ (rows / rows.norm(dim=1, keepdim=True)).T).amax(dim=1)


def test_its_rows_are_the_ones_of_our_trainer(data: TrainingData) -> None:
    from interp.train.saelens import _rows

    scaling = data.scalings("norm")["in"]
    theirs = list(islice(_rows(data, "in", scaling, TRAINING), 3))
    ours = [scaling.apply(batch["in"]) for batch in islice(iter(data.batches(256, seed=4)), 3)]
    assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))
    assert abs(float(torch.cat(theirs).square().sum(1).mean()) / WIDTH - 1) < 0.1


def test_what_it_cannot_train_is_refused_by_name(data: TrainingData, tmp_path: Path) -> None:
    other = View("out", width=WIDTH)
    for shape, options, message in (
        (config("topk", code_scale="mixed"), {}, "which has code_scale='mixed'"),
        (config("topk", nested=(8, LATENTS)), {}, "nested widths with 'topk'"),
        (config("topk", skip=True), {}, "which has a skip path"),
        (config("topk", dtype="float64"), {}, "dtype 'float64'"),
        (config("topk"), {"k_start": 9.0}, "has no `k_start`"),
        (config("topk"), {"reconstruction": "norm"}, r"has no `reconstruction` \(it does 'squared'\); not 'norm'"),
        (config("relu"), {"sparsity": "l0"}, "trains 'relu' with sparsity 'l1'; not 'l0'"),
    ):
        with pytest.raises(BadInput, match=message):
            train_with_sae_lens(data, shape, Training(tokens=512, batch=256, **options))
    both = TrainingData({"in": data.views["in"], "out": data.views["in"]})
    with pytest.raises(BadInput, match=r"the views \['in', 'out'\]; an SAE has one"):
        train_with_sae_lens(
            both, DictionaryConfig(8, (VIEW,), (other,), k=2, centred=False), Training(tokens=512, batch=256)
        )
    with pytest.raises(BadInput, match="`architecture` must be one of 'standard', 'gated'"):
        train_with_sae_lens(data, config("topk"), TRAINING, architecture="temporal")
    with pytest.raises(BadInput, match="a 'topk' dictionary is no 'gated' SAE"):
        train_with_sae_lens(data, config("topk"), TRAINING, architecture="gated")
    (tmp_path / "there.txt").write_text("something")
    with pytest.raises(BadInput, match="is not empty, and a training by SAELens cannot go on"):
        train_with_sae_lens(data, config("topk"), TRAINING, folder=tmp_path)


def test_a_loss_that_is_not_finite_is_said(data: TrainingData) -> None:
    with pytest.raises(Diverged, match="the loss was not finite"):
        train_with_sae_lens(
            data, config("relu"), Training(tokens=30 * 256, batch=256, lr=1e30, coefficient=1.0, warmup=0.0)
        )
